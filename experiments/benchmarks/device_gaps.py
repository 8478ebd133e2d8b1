"""When devices wait for the host: gaps between programs in a trace of an evaluation on CPU.

  python -m experiments.evaluate --workdir=runs/tiny --config.evaluate.profile_groups="(9, 12)"
  python -m experiments.benchmarks.device_gaps runs/tiny/evaluate/profile --plot=gaps.png

The next batch is rendered and given to the devices while a chunk of the running one is decoded. So
no gap should be longer than a chunk: this command prints the longest ones, the programs around
them, and how long the host rendered prompts in them; then every program's runs. With `--plot` it
draws the timeline: programs, rendering, and gaps of a millisecond or more.

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
    file = output_file("plot", _PLOT.value)
    figure = plots.new_figure(9.6, 2.8) if file else None
    trace = read_trace(expanded(argv[1]))
    chunks = [span.seconds for span in trace.of(_CHUNK.value)]
    if not chunks:
        names = sorted({span.name for span in trace.programs})
        raise InputError(f"the trace has no {_CHUNK.value}; it has {', '.join(names)}")
    print(tables(trace, chunks))
    if file:
        draw(figure, trace, file)


def tables(trace: Trace, chunks: list[float]) -> str:
    """The verdict, the longest gaps and all programs, in Markdown."""
    gaps, median = trace.gaps(), statistics.median(chunks)
    idle = sum(gap.seconds for gap in gaps)
    longest = gaps[0].seconds if gaps else 0.0
    longer = sum(gap.seconds > median for gap in gaps)
    verdict = (
        f"{trace.seconds:.3f} s, of which no program ran in {idle:.3f} s "
        f"({idle / trace.seconds:.1%}). The longest gap is {_ms(longest)}; a chunk takes "
        f"{_ms(median)} (median of {len(chunks)}, {_ms(min(chunks))} to {_ms(max(chunks))}); "
        f"gaps longer than that: {longer}."
    )
    rows = [
        [f"{gap.after} -> {gap.before}", _ms(gap.seconds), _ms(gap.host)]
        for gap in gaps[: _LONGEST.value]
    ]
    programs = []
    for name in dict.fromkeys(span.name for span in trace.programs):
        own = [span.seconds for span in trace.of(name)]
        cells = [_ms(statistics.median(own)), _ms(max(own)), f"{sum(own):.3f} s"]
        programs.append([name, str(len(own)), *cells])
    return "\n\n".join(
        [
            verdict,
            markdown(["gap", "length", "rendering in it"], rows),
            markdown(["program", "runs", "median", "longest", "all"], programs),
        ]
    )


def draw(figure: Any, trace: Trace, path: Path) -> None:
    """Draws the timeline as PNG. Raises `InputError` where `path` cannot be written."""
    axes, begin = figure.add_subplot(), trace.programs[0].start
    names = list(dict.fromkeys(span.name for span in trace.programs))
    lanes = [
        *((2, name, trace.of(name), _COLOURS[n % 7]) for n, name in enumerate(names)),
        (1, "rendering", trace.host, "#999999"),
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
