"""The report as Markdown: the table of methods, the scores beside each other, and what is meant."""

from collections.abc import Mapping, Sequence
from typing import Any

from rmas.evaluation.report import aligned, printable

Row = Mapping[str, Any]
_HEADER = ("method", "rounds", "accuracy", "tokens", "latent steps", "s", "tokens saved",
           "times faster", "accuracy - text", "p", "n")  # fmt: skip

_DEFINITIONS = """\
Accuracy is the share of questions that are answered right (of a question with several rollouts,
the mean), with Wilson's 95 % interval. *Tokens* are those that all agents decode for a question,
*latent steps* the states of their rollouts, *s* the seconds of a question within its batch, without
compilation. *Tokens saved* is 1 - (tokens / tokens of text exchange) at the same rounds, *times
faster* the time of text exchange over that of the method, *accuracy - text* the difference; all
over the questions that both answered in the same run, with bootstrap 95 % intervals (tokens and
accuracy: over questions; time: over batches); p is of McNemar's exact test (a sign-flip test where
questions have several rollouts). A dash stands for what was not measured or has no counterpart.
"""

_SCORES = """\
*Ours* takes an answer for right that is equal to the gold answer, and one that cannot be read for
wrong. *Release* grades as the public release of RecursiveMAS does, so that its figures can be
compared: mathematical answers by their first integer, a choice that cannot be read as A.
"""


def markdown_report(rows: Sequence[Row], files: Sequence[Mapping[str, Any]]) -> str:
    """The whole report; pictures are linked by the caller."""
    parts = ["# Evaluation", ""]
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == benchmark]
        parts += [f"## {_safe(benchmark)}", "", *_lines(_HEADER, [_cells(r) for r in own]), ""]
        parts += _score_lines(own)
    parts += ["## What the columns say", "", _DEFINITIONS, "## Where it comes from", ""]
    for file in files:
        sha = file["sha256"][:16]
        parts.append(f"- `{_safe(file['path'])}`: {file['lines']:,} lines, sha256 {sha}")
    return "\n".join(parts) + "\n"


def text_report(rows: Sequence[Row]) -> str:
    """The tables as aligned plain text."""
    parts = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        own = [_cells(row) for row in rows if row["benchmark"] == benchmark]
        parts += [printable(benchmark), aligned([list(_HEADER), *own])]
    return "\n".join(parts)


def _score_lines(rows: Sequence[Row]) -> list[str]:
    """Our score beside the others, where there is anything to tell."""
    more = [name for row in rows for name in row if name.startswith("pass@") or name == "f1"]
    names = ["release_compatible", *dict.fromkeys(more)]
    if not more and all(
        row.get("release_compatible", row["accuracy"]) == row["accuracy"] for row in rows
    ):
        return ["The release's own rules of grading give the same accuracies.", ""]
    header = (
        "method",
        "rounds",
        "ours",
        *(n.replace("release_compatible", "release") for n in names),
    )
    cells = [
        [printable(row["name"]), str(row["rounds"]), _number(row["accuracy"], ".3f"),
         *(_number(row.get(name), ".3f") for name in names)]
        for row in rows
    ]  # fmt: skip
    return ["Scores:", "", *_lines(header, cells), "", _SCORES]


def _cells(row: Row) -> list[str]:
    saved = row.get("token_ratio")
    return [
        printable(row["name"]),
        str(row["rounds"]),
        _interval((row["accuracy"], row["accuracy_low"], row["accuracy_high"]), ".3f"),
        _number(row["decoded_tokens"], ".1f"),
        _number(row["latent_steps"], ".1f"),
        _number(row["seconds"], ".4f"),
        _interval(saved and tuple(1 - 1 / x for x in saved), ".1%"),
        _interval(row.get("time_ratio"), ".2f"),
        _interval(row.get("difference"), "+.3f"),
        _number(row.get("p"), ".2g"),
        str(row["n"]),
    ]


def _lines(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    rule = "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"
    body = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in cells]
    return ["| " + " | ".join(header) + " |", rule, *body]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(values: Sequence[float] | None, form: str) -> str:
    if not values:
        return "-"
    value, low, high = (format(v, form) for v in values)
    return f"{value} [{low}, {high}]"


def _safe(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("`", "'")
