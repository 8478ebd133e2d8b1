"""When devices wait for the host: gaps between programs in a trace of an evaluation on CPU.

  python -m experiments.evaluate --workdir=runs/tiny --config.evaluate.profile_groups="(9, 12)"
  python -m experiments.benchmarks.device_gaps runs/tiny/evaluate/profile --plot=gaps.png

The next batch is rendered and given to the devices while a chunk of the running one is decoded. So
no gap should be longer than a chunk. This command prints, for each method, the longest gap while it
answers a group and how long its chunks take; the longest gaps (those between groups last), the
programs around them, and how long the host rendered prompts in them; then every program's runs.
With `--plot` it draws the timeline: programs, rendering, and gaps of a millisecond or more.
Between groups records are written and, on CPUs, answers graded; before the first groups of a length
programs are compiled.

On CPUs host and programs share the cores: measure on a machine that does nothing else.
"""

import statistics
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.ratios import markdown
from experiments.benchmarks.traces import Trace, read_trace
from rmas.errors import InputError
from rmas.evaluation import plots
from rmas.places import expanded

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LEAST = 1e-3  # seconds of a gap that is drawn

_CHUNK = flags.DEFINE_string("chunk", "jit_chunk", "The program that gaps are held against.")
_LONGEST = flags.DEFINE_integer("longest", 10, "Gaps that are printed.", 1)
_PLOT = flags.DEFINE_string("plot", "", "A PNG of the timeline.")


def main(argv: list[str]) -> None:
    """Reads a trace and prints its gaps."""
    if len(argv) < 2:
        raise InputError("name the folder of a trace, as runs/tiny/evaluate/profile")
    file = output_file("plot", _PLOT.value, ".png")
    figure = plots.new_figure(9.6, 2.8) if file else None
    trace = read_trace(expanded(argv[1]))
    if not trace.of(_CHUNK.value):
        names = sorted({span.name for span in trace.programs})
        raise InputError(f"the trace has no {_CHUNK.value}; it has {', '.join(names)}")
    print(tables(trace, _CHUNK.value))
    if file:
        draw(figure, trace, file)


def tables(trace: Trace, chunk: str) -> str:
    """What each method waits for, the longest gaps and all programs, in Markdown."""
    gaps, blocks, rows = trace.gaps(), [], []
    idle = sum(gap.seconds for gap in gaps)
    blocks.append(
        f"{trace.seconds:.3f} s, of which no program ran in {idle:.3f} s "
        f"({idle / trace.seconds:.1%})."
    )
    for name in dict.fromkeys(own.name for own in trace.answers):
        seconds = trace.answering(name)
        chunks = [span.seconds for span in trace.during(name, chunk)]
        own = [gap.seconds for gap in gaps if gap.answer == name]
        median = statistics.median(chunks) if chunks else 0.0
        cells = [
            f"{seconds:.3f} s",
            f"{sum(own) / max(seconds, 1e-9):.1%}",
            _ms(max(own, default=0.0)),
        ]
        cells += [_ms(median), _ms(max(chunks, default=0.0))]
        rows.append([name, *cells, str(sum(gap > median for gap in own))])
    head = ["answering", "all", "no program", "longest gap", "chunk, median", "longest chunk"]
    blocks.append(markdown([*head, "gaps longer than the median"], rows))
    rows = [
        [
            gap.answer or "between groups",
            f"{gap.after} -> {gap.before}",
            _ms(gap.seconds),
            _ms(gap.rendering),
        ]
        for gap in sorted(gaps, key=lambda gap: not gap.answer)[: _LONGEST.value]
    ]
    blocks.append(markdown(["answering", "gap", "length", "rendering in it"], rows))
    rows = []
    for name in dict.fromkeys(span.name for span in trace.programs):
        own = [span.seconds for span in trace.of(name)]
        cells = [_ms(statistics.median(own)), _ms(max(own)), f"{sum(own):.3f} s"]
        rows.append([name, str(len(own)), *cells])
    blocks.append(markdown(["program", "runs", "median", "longest", "all"], rows))
    return "\n\n".join(blocks)


def draw(figure: Any, trace: Trace, path: Path) -> None:
    """Draws the timeline as PNG. Raises `InputError` where `path` cannot be written."""
    axes, begin = figure.add_subplot(), trace.programs[0].start
    names = list(dict.fromkeys(span.name for span in trace.programs))
    lanes = [
        *((2, name, trace.of(name), _COLOURS[n % 7]) for n, name in enumerate(names)),
        (1, "rendering", trace.rendering, "#999999"),
        (0, "gap", [gap for gap in trace.gaps() if gap.seconds >= _LEAST], "#CC0000"),
    ]
    for lane, name, spans, colour in lanes:
        bars = [(span.start - begin, span.seconds) for span in spans]
        axes.broken_barh(bars, (lane - 0.4, 0.8), color=colour, label=plots.plain(name))
    axes.set_yticks([0, 1, 2], ["gaps", "host", "programs"])
    axes.set_xlim(0, trace.seconds)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    plots.save(figure, path)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


if __name__ == "__main__":
    app.run(main, words=1)
