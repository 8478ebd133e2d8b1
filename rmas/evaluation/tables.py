"""A comparison's rows as text: Markdown for a file, aligned lines for a terminal."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rmas.console import aligned, printable
from rmas.evaluation.records import File
from rmas.tasks.benchmarks import BENCHMARKS

Row = Mapping[str, Any]

_RESULTS = ("method", "rounds", "m", "accuracy", "decoded tokens", "latent steps", "s / question",
            "token ratio", "time ratio", "minus text", "p", "n")  # fmt: skip
_COSTS = ("method", "rounds", "m", "prompt tokens", "positions", "position ratio", "compile s",
          "peak GiB", "seconds by phase", "records", "timed", "batches", "pairs", "timed pairs",
          "clusters")  # fmt: skip
_SCORES = ("method", "rounds", "m", "ours", "release's", "only ours", "only release's")
_ANSWERS = ("method", "rounds", "m", "no answer", "retried", "notes")

_MEANING = """\
*Accuracy* is the share of questions answered right, with Wilson's 95 % interval; a question with
several rollouts counts once, by their mean. pass@k, where there are several rollouts, is the
unbiased estimate that one of k answers is right. *Decoded tokens* are those that the agents wrote
for a question, stop tokens included; *latent steps* the states of their latent turns; *prompt
tokens* what they were given to read; *positions* those that their models were run on. All are
summed over agents, and are means over questions. *m* is the latent length; every length that was
run is reported.

*s / question* is the time of a batch, until its answers are on the host, over its questions: it
depends on the batch size and the machine. Compilation is taken off, and told apart in total. A
batch that was run again after a kill counts once, the newest. *Peak* is the most memory in use
until then.

*Token ratio*, *position ratio* and *time ratio* are text exchange over the method at the same
rounds, ratios of sums: above 1, text exchange takes more. *Minus text* is the accuracy less that
of text exchange. All four are over *pairs*, the questions that both answered in all their
rollouts; times only where one workdir holds both. Their 95 % intervals are percentiles of 2,000
bootstrap draws: of questions, and for times of clusters of questions that shared batches, which
therefore share their time. With few clusters they are too narrow; where no question differs they
have no width. *p* is McNemar's exact test where scores are 0 or 1, else a sign-flip permutation
test; it is not corrected for the number of rows. A dash stands for what was not measured or
cannot be compared.
"""

_OVERVIEW = """\
Accuracies by benchmark, and their mean where all were run. Ratios are geometric means of those of
the benchmarks, each against text exchange at the same rounds: above 1, text exchange takes more."""

_RULES = {
    "math": "it compares the first integers of both answers, which other answers may share",
    "integer": "it compares the first integer of an answer, whatever else stands there",
    "choice": "it takes an answer that cannot be read for A",
}
_RULE = "its rules read some answers otherwise (mathematics: by their first integer; a choice that \
cannot be read: as A)"


def markdown_report(
    rows: Mapping[str, Sequence[Row]],
    files: Sequence[tuple[File, File | None]],
    plots: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The whole report; `rows` and the names of `plots` (files beside it) are by benchmark."""
    parts = ["# Evaluation", ""]
    if len(rows) > 1:
        parts += ["## Overview", "", *_markdown(_overview(rows)), "", _OVERVIEW, ""]
    for benchmark, own in rows.items():
        parts += [f"## {_safe(benchmark)}", "", *_part_of(benchmark, own)]
        parts += [*_markdown(_results(own)), ""]
        parts += [
            line for name in (plots or {}).get(benchmark, ()) for line in (f"![]({name})", "")
        ]
        parts += ["### Scores", "", *_scores(benchmark, own)]
        parts += ["### What it took", "", *_markdown(_costs(own)), ""]
        estimated = sum(row["positions_estimated"] for row in own)
        if estimated:
            parts += [
                f"{estimated:,} records do not tell their positions: the sum of prompt tokens, "
                "latent steps and decoded tokens, which is a little more, stands for them.",
                "",
            ]
    parts += ["## What the columns say", "", _MEANING, "## Where it comes from", ""]
    for file in (file for pair in files for file in pair if file):
        left = [
            f"{count:,} {name}"
            for count, name in (
                (file.duplicates, "superseded or given twice"),
                (file.half_lines, "half line at the end, left out"),
            )
            if count
        ]
        facts = ", ".join([f"{file.lines:,} lines", *left])
        parts.append(f"- {_safe(file.path)}: {facts}; sha256 `{file.sha256}`")
    return "\n".join(parts) + "\n"


def text_report(rows: Mapping[str, Sequence[Row]]) -> str:
    """The tables of results, aligned, each under its benchmark's name; no trailing newline.

    Of several benchmarks an overview comes first.
    """
    parts = [f"overview\n{aligned(_overview(rows))}"] if len(rows) > 1 else []
    parts += [f"{printable(name)}\n{aligned(_results(own))}" for name, own in rows.items()]
    return "\n\n".join(parts)


def _overview(rows: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """Methods by rounds, benchmarks side by side: accuracies, and means against text exchange."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for benchmark, own in rows.items():
        for row in own:
            found.setdefault((row["name"], row["rounds"]), {})[benchmark] = row
    kinds = list(dict.fromkeys(name for name, _ in found))
    lines = [["method", "rounds", *map(_safe, rows), "mean", "time ratio", "token ratio"]]
    for (name, rounds), own in sorted(found.items(), key=lambda i: (kinds.index(i[0][0]), i[0][1])):
        reached = [own[b]["accuracy"] if b in own else None for b in rows]
        mean = None if None in reached else math.fsum(reached) / len(reached)
        ratios = [
            _geometric([((row["against_text"] or {}).get(ratio) or {}) for row in own.values()])
            for ratio in ("time_ratio", "token_ratio")
        ]
        cells = [_number(x, ".3f") for x in (*reached, mean)]
        lines.append([_safe(name), str(rounds), *cells, *(_number(x, ".2f") for x in ratios)])
    return lines


def _geometric(estimates: Sequence[Row]) -> float | None:
    """The mean of ratios; None where one is unknown."""
    values = [estimate.get("value") for estimate in estimates]
    if not all(values):
        return None
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _part_of(benchmark: str, rows: Sequence[Row]) -> list[str]:
    """What is to be said where not all of a public benchmark was asked."""
    if benchmark not in BENCHMARKS:
        return []
    known = BENCHMARKS[benchmark]
    public, most = known.source.rows[known.split], max(row["n"] for row in rows)
    told = f"Of the {public:,} public questions at most {most:,} were asked by any method."
    return [told, ""] if most < public else []


def _results(rows: Sequence[Row]) -> list[list[str]]:
    passes = any(row["pass_k"] for row in rows)
    lines = [[*_RESULTS[:4], *(["pass@k"] if passes else []), *_RESULTS[4:]]]
    for row in rows:
        against = row["against_text"] or {}
        accuracy = {end: row[f"accuracy{end}"] for end in ("", "_low", "_high")}
        interval = dict(zip(("value", "low", "high"), accuracy.values(), strict=True))
        several = row["pass_k"] and f"{row['pass_k']['value']:.3f} (k={row['pass_k']['k']})"
        lines.append(
            [
                *_variant(row),
                _estimate(interval, ".3f"),
                *([several or "-"] if passes else []),
                _number(row["decoded_tokens"], ".1f"),
                _number(row["latent_steps"], ".1f"),
                _number(row["seconds"], ".4g"),
                _estimate(against.get("token_ratio"), ".2f"),
                _estimate(against.get("time_ratio"), ".2f"),
                _estimate(against.get("difference"), "+.3f"),
                _number(against.get("p"), ".2g"),
                str(row["n"]),
            ]
        )
    return lines


def _costs(rows: Sequence[Row]) -> list[list[str]]:
    lines = [list(_COSTS)]
    for row in rows:
        against = row["against_text"] or {}
        peak = row["peak_bytes"]
        phases = ", ".join(f"{name} {seconds:.3g}" for name, seconds in row["phases"].items())
        lines.append(
            [
                *_variant(row),
                _number(row["prompt_tokens"], ".1f"),
                _number(row["positions"], ".1f"),
                _estimate(against.get("position_ratio"), ".2f"),
                _number(row["compile"], ".1f"),
                _number(None if peak is None else peak / 2**30, ".2f"),
                printable(phases) or "-",
                *(str(row[name]) for name in ("records", "timed", "batches")),
                *(str(against.get(name, "-")) for name in ("n", "n_timed", "clusters")),
            ]
        )
    return lines


def _scores(benchmark: str, rows: Sequence[Row]) -> list[str]:
    """Ours beside the release's where they differ, F1, and what was no answer."""
    parts = []
    if any(row["ours_only"] or row["release_only"] for row in rows):
        task = BENCHMARKS[benchmark].grader if benchmark in BENCHMARKS else ""
        lines = [list(_SCORES)]
        for row in rows:
            scores = (_number(row[name], ".3f") for name in ("accuracy", "release_compatible"))
            counts = (str(row[name]) for name in ("ours_only", "release_only"))
            lines.append([*_variant(row), *scores, *counts])
        parts += [
            *_markdown(lines),
            "",
            "*Ours* takes an answer for right if it equals the gold answer, and what cannot be "
            "read for wrong. The public release's score differs here: "
            f"{_RULES.get(task, _RULE)}. Compare published figures with the release's score, and "
            "methods with ours. *Only ours* and *only release's* count the records that one of "
            "them scores higher.",
            "",
        ]
    else:
        parts += ["Ours and the public release's agree on every record.", ""]
    if any(row["f1"] is not None for row in rows):
        lines = [["method", "rounds", "m", "F1"]]
        lines += [[*_variant(row), _number(row["f1"], ".3f")] for row in rows]
        parts += [*_markdown(lines), ""]
    if any(row["unanswered"] or row["retried"] or row["notes"] for row in rows):
        lines = [list(_ANSWERS)]
        for row in rows:
            notes = ", ".join(f"{note} {count}" for note, count in row["notes"].items())
            counts = (str(row[name]) for name in ("unanswered", "retried"))
            lines.append([*_variant(row), *counts, notes or "-"])
        parts += ["Records without an answer, which count as wrong, and what grading noted:", ""]
        parts += [*_markdown(lines), ""]
    return parts


def _variant(row: Row) -> list[str]:
    return [printable(row["method"]), str(row["rounds"]), str(row["latent_length"] or "-")]


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(map(_safe, line))} |" for line in lines)
    return [head, "|" + "|".join(["---"] + ["---:"] * (len(lines[0]) - 1)) + "|", *body]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _estimate(found: Row | None, form: str) -> str:
    """`value [low, high]`; ends that nothing bounds are shown as `?`."""
    if not found:
        return "-"
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if low is None and high is None:
        return format(value, form)
    ends = ("?" if end is None else format(end, form) for end in (low, high))
    return f"{format(value, form)} [{', '.join(ends)}]"


def _safe(text: str) -> str:
    """Text that Markdown shows as it is: no table cell, link, picture or HTML of its own."""
    return re.sub(r"([\\`*<>&|!]|\[(?=.*\]\()|\](?=\())", r"\\\1", printable(text))
