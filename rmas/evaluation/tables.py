"""Rows of a report as text: aligned lines for a terminal, Markdown for a file."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from rmas.console import aligned, printable
from rmas.evaluation.json_lines import File
from rmas.evaluation.results import (
    IntervalEstimate,
    ResultRow,
    RowsByBenchmark,
    TextComparison,
)
from rmas.tasks.benchmarks import BENCHMARKS

Lines = list[list[str]]
"""The cells of a table, a header first."""

_MEANING = """\
*Accuracy* is the share of questions answered right, with Wilson's 95 % interval. A question with
several rollouts counts once, by their mean; then *pass@k* is the unbiased estimate that one of k
answers is right. The *ceiling* is the best accuracy that any system can reach on these questions
in so many rounds, where the task knows it. Every latent length that was run is reported; *m* is
the latent length.

*Decoded tokens* are those that the agents wrote, stop tokens included; *latent steps* the states
of their latent turns; *prompt tokens* the positions of their prompts; *positions* those that their
models were run on; *reused* those of preambles that an earlier round had run. All are summed over
agents, and are means over questions.

*s per 100* is the time for 100 questions: the wall time of the groups until their answers are on
the host, without compilation. It depends on the batch size and the machine. Of a group that was run
again after a kill the newest time counts. *CPU s per 100* is the CPU time of all threads of the
process, shown where no accelerator computed: other work on the machine changes it less than wall
time. *Compile s* is the compilation in total. *Peak* is the most memory in use until then.

*Time ratio*, *token ratio* and *position ratio* are text exchange over the method at the same
rounds: above 1, text exchange needs more. *Minus text* is the accuracy less that of text exchange.
Token and position ratios, which are ratios of sums, and differences are over *pairs*, the questions
that both answered in all their rollouts, in one workdir. Their 95 % intervals are percentiles of
2,000 bootstrap samples of questions; where no question differs they have no width.

Methods take turns, a group of questions at a time. The time ratio is the geometric mean of the
ratios within *groups* that both answered in one session, on one machine; their number stands behind
it. Its 95 % interval is Student's, on the logarithms; one group has none.

*p* is McNemar's exact test where scores are 0 or 1, else a sign-flip permutation test; it is not
corrected for the number of rows. A dash stands for what was not measured or cannot be compared.
"""

_OVERVIEW = """\
Accuracies by benchmark, and their mean where all were run. Ratios are geometric means of those of
the benchmarks, each against text exchange at the same rounds: above 1, text exchange needs more."""


def table(rows: Sequence[ResultRow]) -> str:
    """The results as aligned text with a header line; no trailing newline."""
    return aligned(_results(rows))


def text_report(rows: RowsByBenchmark) -> str:
    """The results and comparisons of each benchmark as aligned text; no trailing newline.

    Of several benchmarks an overview comes first.
    """
    parts = [f"overview\n{aligned(_overview(rows))}"] if len(rows) > 1 else []
    for benchmark, own in rows.items():
        parts.append(f"{printable(benchmark)}\n{table(own)}")
        if len(compared := _comparisons(own)) > 1:
            parts.append(f"against text exchange\n{aligned(compared)}")
    return "\n\n".join(parts)


def markdown_report(
    rows: RowsByBenchmark,
    files: Iterable[Mapping[str, File]],
    plots: Mapping[str, Sequence[str]] | None = None,
    warnings: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The whole report.

    `files` are those of `Evaluations`; `plots` are benchmark -> names of files next to the report,
    `warnings` benchmark -> lines (`time_warnings`).
    """
    parts = ["# Evaluation", ""]
    if len(rows) > 1:
        parts += ["## Overview", "", *_markdown(_overview(rows)), _OVERVIEW, ""]
    for benchmark, own in rows.items():
        parts += [f"## {_safe(benchmark)}", "", *_subset(benchmark, own)]
        parts += _markdown(_results(own))
        if told := (warnings or {}).get(benchmark, ()):
            parts += ["### Doubtful times", "", *(f"- {_safe(line)}" for line in told), ""]
        for name in (plots or {}).get(benchmark, ()):
            parts += [f"![]({name})", ""]
        if len(compared := _comparisons(own)) > 1:
            parts += ["### Against text exchange", "", *_markdown(compared)]
        parts += ["### Scores", "", *_scores(benchmark, own)]
        parts += ["### Cost", "", *_markdown(_costs(own))]
        if estimated := sum(row["positions_estimated"] for row in own):
            parts += [
                f"{estimated:,} records have no positions. They are estimated by the sum of prompt "
                "tokens, latent steps and decoded tokens, which is slightly more.",
                "",
            ]
    parts += ["## Meaning of the columns", "", _MEANING, "## Sources", ""]
    parts += [_source(file) for own_files in files for file in own_files.values()]
    return "\n".join(parts) + "\n"


def _source(file: File) -> str:
    facts = [f"{file.lines:,} lines"]
    if file.duplicates:
        facts.append(f"{file.duplicates:,} of them superseded or repeated")
    if file.half_lines:
        facts.append("an incomplete last line left out")
    return f"- {_safe(file.path)}: {', '.join(facts)}; sha256 `{file.sha256}`"


def _results(rows: Sequence[ResultRow]) -> Lines:
    """What all tables of results show; pass@k and CPU time where some row has them."""
    with_pass_k = any(row["pass_k"] for row in rows)
    with_cpu = any(row["cpu_seconds"] is not None for row in rows)
    head = ["method", "rounds", "accuracy", "95 % interval", "ceiling"]
    head += ["pass@k"] if with_pass_k else []
    head += ["decoded tokens", "latent steps", "s per 100"]
    head += [*["CPU s per 100"][:with_cpu], "time ratio", "n"]
    lines = [head]
    for row in rows:
        pass_k = row["pass_k"]
        lines.append(
            [
                printable(row["name"]),
                str(row["rounds"]),
                _number(row["accuracy"], ".3f"),
                f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
                _number(row["ceiling"], ".3f"),
                *([f"{pass_k['value']:.3f} (k={pass_k['k']})"] if pass_k else ["-"] * with_pass_k),
                _number(row["decoded_tokens"], ".1f"),
                _number(row["latent_steps"], ".1f"),
                _per_100(row["seconds"]),
                *[_per_100(row["cpu_seconds"])][:with_cpu],
                _time_ratio(row["against_text"]),
                str(row["n"]),
            ]
        )
    return lines


def _comparisons(rows: Sequence[ResultRow]) -> Lines:
    """What the results leave out of the comparison with text exchange."""
    head = ["method", "rounds", "minus text", "p", "token ratio", "position ratio"]
    lines = [[*head, "pairs", "groups", "unpaired"]]
    for row in rows:
        if against := row["against_text"]:
            lines.append(
                [
                    printable(row["name"]),
                    str(row["rounds"]),
                    _estimate(against["difference"], "+.3f"),
                    _number(against["p"], ".2g"),
                    _estimate(against["token_ratio"], ".2f"),
                    _estimate(against["position_ratio"], ".2f"),
                    *map(str, (against["n"], against["groups"], against["unpaired"])),
                ]
            )
    return lines


def _costs(rows: Sequence[ResultRow]) -> Lines:
    head = ["method", "rounds", "m", "prompt tokens", "positions", "reused"]
    lines = [[*head, "compile s", "peak GiB", "seconds by phase", "records", "timed", "groups"]]
    for row in rows:
        peak = row["peak_bytes"]
        phases = ", ".join(f"{name} {seconds:.3g}" for name, seconds in row["phases"].items())
        lines.append(
            [
                printable(row["name"]),
                str(row["rounds"]),
                str(row["latent_length"] or "-"),
                _number(row["prompt_tokens"], ".1f"),
                _number(row["positions"], ".1f"),
                _number(row["reused_positions"], ".1f"),
                _number(row["compile"], ".1f"),
                _number(None if peak is None else peak / 2**30, ".2f"),
                printable(phases) or "-",
                *map(str, (row["records"], row["timed"], row["groups"])),
            ]
        )
    return lines


def _scores(benchmark: str, rows: Sequence[ResultRow]) -> list[str]:
    """Where our score and the release's differ, F1, and what was not answered; as Markdown."""
    parts = []
    grader = BENCHMARKS[benchmark].grader if benchmark in BENCHMARKS else None
    known = grader.release if grader else None
    if all(row["release_compatible"] is None for row in rows):
        title = BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else "this data"
        why = (
            f"The published code of RecursiveMAS has no rule that scores {title}, so only our own "
            "score (`exact`) is shown, and none by its rule (`release_compatible`)."
        )
        if known:
            why = (
                "Not all records have the score by the public release's rule "
                "(`release_compatible`), so no mean of it is shown."
            )
        parts += [(grader.without_release if grader else "") or why, ""]
    elif any(row["ours_only"] or row["release_only"] for row in rows):
        lines = [["method", "rounds", "ours", "release's", "only ours", "only release's"]]
        for row in rows:
            scores = (_number(x, ".3f") for x in (row["accuracy"], row["release_compatible"]))
            counts = map(str, (row["ours_only"], row["release_only"]))
            lines.append([printable(row["name"]), str(row["rounds"]), *scores, *counts])
        parts += [
            *_markdown(lines),
            "*Ours* counts an answer as right if it equals the gold answer; an answer that cannot "
            "be parsed is wrong. The public release scores differently: "
            f"{known.words if known else 'its rules read some answers differently'}. Compare "
            "published figures with the release's score, and methods by ours. *Only ours* and "
            "*only release's* count the records that one of the two scores higher.",
            "",
        ]
    else:
        parts += ["Our score and the public release's agree on every record.", ""]
    if any(row["f1"] is not None for row in rows):
        lines = [["method", "rounds", "F1"]]
        for row in rows:
            lines.append([printable(row["name"]), str(row["rounds"]), _number(row["f1"], ".3f")])
        parts += _markdown(lines)
    if any(row["unanswered"] or row["retried"] or row["notes"] for row in rows):
        lines = [["method", "rounds", "no answer", "retried", "notes"]]
        for row in rows:
            notes = ", ".join(f"{note} {count}" for note, count in row["notes"].items())
            counts = map(str, (row["unanswered"], row["retried"]))
            lines.append([printable(row["name"]), str(row["rounds"]), *counts, notes or "-"])
        parts += ["Records without an answer, which count as wrong, and notes of grading:", ""]
        parts += _markdown(lines)
    return parts


def _subset(benchmark: str, rows: Sequence[ResultRow]) -> list[str]:
    """A sentence where not all of a public benchmark was asked."""
    if benchmark not in BENCHMARKS:
        return []
    known = BENCHMARKS[benchmark]
    public, most = known.source.rows[known.split], max(row["n"] for row in rows)
    sentence = f"Of the {public:,} public questions at most {most:,} were asked by any method."
    return [sentence, ""] if most < public else []


def _overview(rows: RowsByBenchmark) -> Lines:
    """Methods by rounds, benchmarks side by side: accuracies, and mean ratios to text exchange."""
    found: dict[tuple[str, int], dict[str, ResultRow]] = {}
    for benchmark, listed in rows.items():
        for row in listed:
            found.setdefault((row["name"], row["rounds"]), {})[benchmark] = row
    names = list(dict.fromkeys(name for name, _ in found))
    lines = [["method", "rounds", *map(printable, rows), "mean", "time ratio", "token ratio"]]
    for name, rounds in sorted(found, key=lambda key: (names.index(key[0]), key[1])):
        own = found[name, rounds]
        reached = [own[benchmark]["accuracy"] for benchmark in rows if benchmark in own]
        mean = math.fsum(reached) / len(reached) if len(reached) == len(rows) else None
        against = [row["against_text"] for row in own.values()]
        time_ratio = _geometric_mean([a and a["time_ratio"] for a in against])
        token_ratio = _geometric_mean([a and a["token_ratio"] for a in against])
        lines.append(
            [
                printable(name),
                str(rounds),
                *(_number(own[b]["accuracy"] if b in own else None, ".3f") for b in rows),
                _number(mean, ".3f"),
                _number(time_ratio, ".2f"),
                _number(token_ratio, ".2f"),
            ]
        )
    return lines


def _geometric_mean(ratios: Sequence[IntervalEstimate | None]) -> float | None:
    """None where a ratio is unknown or 0."""
    values = [ratio["value"] for ratio in ratios if ratio and ratio["value"]]
    if len(values) < len(ratios):
        return None
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _markdown(lines: Lines) -> list[str]:
    """A table and an empty line after it."""
    head, *body = (f"| {' | '.join(map(_safe, line))} |" for line in lines)
    return [head, "|" + "|".join(["---"] + ["---:"] * (len(lines[0]) - 1)) + "|", *body, ""]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _per_100(seconds: float | None) -> str:
    return _number(None if seconds is None else 100 * seconds, ".2f")


def _time_ratio(against: TextComparison | None) -> str:
    """The estimate, and how many groups it is over."""
    if not against or not against["time_ratio"]:
        return "-"
    groups = against["groups"]
    return f"{_estimate(against['time_ratio'], '.2f')} ({groups} group{'s' * (groups > 1)})"


def _estimate(found: IntervalEstimate | None, form: str) -> str:
    """`value [low, high]`; an end that nothing bounds is shown as `?`."""
    if not found:
        return "-"
    value, low, high = found["value"], found["low"], found["high"]
    if low is None and high is None:
        return format(value, form)
    ends = ("?" if end is None else format(end, form) for end in (low, high))
    return f"{format(value, form)} [{', '.join(ends)}]"


def _safe(text: str) -> str:
    """Text that Markdown shows as it is: never a table cell, link, picture or HTML."""
    return re.sub(r"([\\`*<>&|!]|\[(?=.*\]\()|\](?=\())", r"\\\1", printable(text))
