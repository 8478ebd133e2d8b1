"""From evaluation records to the rows of a report, and the rows as a table.

A row is a flat dict that goes into JSON as it is:

    {"method": "latent", "rounds": 3, "accuracy": 0.99, "accuracy_low": 0.98,
     "accuracy_high": 1.0, "ceiling": 1.0, "decoded_tokens": 25.0, "latent_steps": 64.0,
     "prompt_tokens": 210.0, "seconds_per_100": 1.3, "n": 1000}

Token counts are summed over agents and averaged over questions; `ceiling` and
`seconds_per_100` are None where they were not given. A question with several rollouts counts
once, with the mean of its rollouts, so that `n` and the interval are about questions.
Where a method was run with several latent lengths, each has rows of its own: `latent m=16`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmas.console import aligned, printable
from rmas.errors import InputError
from rmas.evaluation.intervals import wilson

METHODS = ("latent", "text", "text_terse", "single:", "untrained")
"""The order of a report's rows; `single:` stands for every `single:<agent>`."""

COUNTS = ("decoded_tokens", "latent_steps", "prompt_tokens")


def summarise(
    records: Iterable[Mapping[str, Any]],
    ceilings: Mapping[int, float] | None = None,
    seconds: Mapping[tuple[str, int], float] | None = None,
    score: str = "exact",
) -> list[dict[str, Any]]:
    """One row per (method, rounds), ordered as in METHODS, then by rounds.

    `ceilings` maps rounds to the best accuracy that any system of so many rounds can reach on
    these questions; `seconds` maps (method, rounds), or (method, rounds, latent length), to the
    total seconds spent on them.
    A record given twice counts once. Raises InputError for a record without a needed field, for
    two records of one (question, method, rounds, rollout) that differ, and for records of more
    than one benchmark.
    """
    records = list(records)
    names = names_of((r.get("method"), r.get("latent_length")) for r in records)
    spent = {}
    for (method, rounds, *length), total in (seconds or {}).items():
        found = names.get((method, length[0] if length else None), method)
        spent[found, rounds] = total
    groups: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
    seen: dict[tuple, Mapping[str, Any]] = {}
    benchmarks: set[Any] = set()
    lengths: dict[str, int | None] = {}
    for number, record in enumerate(records, 1):
        key, facts = _facts(record, score, number)
        if key in seen:
            if seen[key] != record:
                raise InputError(f"records: two different records of {_name(key)}; keep one")
            continue
        seen[key] = record
        benchmarks.add(record.get("benchmark"))
        if len(benchmarks) > 1:
            told = ", ".join(sorted(str(b) for b in benchmarks))
            raise InputError(f"records: more than one benchmark ({told}); report one at a time")
        question, method, rounds, *_ = key
        name = names[method, record.get("latent_length")]
        lengths[name] = record.get("latent_length")
        groups.setdefault((name, rounds), {}).setdefault(question, []).append(facts)
    rows = [
        _row(name, rounds, list(questions.values()), ceilings or {}, spent)
        | {"latent_length": lengths[name]}
        for (name, rounds), questions in groups.items()
    ]
    return sorted(rows, key=_order)


def names_of(
    methods: Iterable[tuple[str, int | None]],
) -> dict[tuple[str, int | None], str]:
    """Names of (method, latent length) pairs: the method, with the length where it has several."""
    pairs = dict.fromkeys(methods)
    lengths: dict[str, int] = {}
    for method, _ in pairs:
        lengths[method] = lengths.get(method, 0) + 1
    return {(m, n): f"{m} m={n}" if lengths[m] > 1 else m for m, n in pairs}


def rank(method: str) -> int:
    """The place of a method's name in the order of `METHODS`."""
    kind = "single:" if method.startswith("single:") else method.split(" m=")[0]
    return METHODS.index(kind) if kind in METHODS else len(METHODS)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned plain text with a header line; no trailing newline."""
    return aligned([list(_HEADER), *[_cells(row) for row in rows]])


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same table in Markdown, for a README; no trailing newline."""
    lines = [
        "| " + " | ".join(_HEADER) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(_HEADER) - 1)) + "|",
    ]
    for row in rows:
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in _cells(row)) + " |")
    return "\n".join(lines)


_HEADER = (
    "method",
    "rounds",
    "accuracy",
    "95 % interval",
    "ceiling",
    "decoded tokens",
    "latent steps",
    "prompt tokens",
    "s per 100",
    "n",
)


def _cells(row: Mapping[str, Any]) -> list[str]:
    def number(key: str, form: str) -> str:
        return "-" if row.get(key) is None else format(row[key], form)

    return [
        printable(row["method"]),
        str(row["rounds"]),
        number("accuracy", ".3f"),
        f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
        number("ceiling", ".3f"),
        number("decoded_tokens", ".1f"),
        number("latent_steps", ".1f"),
        number("prompt_tokens", ".1f"),
        number("seconds_per_100", ".2f"),
        str(row["n"]),
    ]


def _facts(
    record: Mapping[str, Any], score: str, number: int
) -> tuple[tuple[str, str, int, int, int | None], dict[str, float]]:
    """The record's key (question, method, rounds, rollout, latent length), and its numbers."""
    try:
        key = (
            *(record["id"], record["method"], int(record["rounds"]), int(record["rollout"])),
            record.get("latent_length"),
        )
        facts = {count: float(sum(a[count] for a in record["agents"].values())) for count in COUNTS}
        facts["score"] = float(record["scores"][score])
    except KeyError as error:
        raise InputError(
            f"records: record {number} ({printable(str(record.get('id', 'no id')))}) "
            f"has no field {error.args[0]!r}"
        ) from None
    if not (math.isfinite(facts["score"]) and 0 <= facts["score"] <= 1):
        raise InputError(f"records: {_name(key)} has scores.{score} {facts['score']}, not 0 to 1")
    return key, facts


def _row(
    method: str,
    rounds: int,
    questions: list[list[dict[str, float]]],
    ceilings: Mapping[int, float],
    seconds: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    n = len(questions)
    # fsum: the sums, and so the row, do not depend on the order of the records.
    total = {
        key: math.fsum(
            math.fsum(r[key] for r in rollouts) / len(rollouts) for rollouts in questions
        )
        for key in ("score", *COUNTS)
    }
    low, high = wilson(total["score"], n)
    spent = seconds.get((method, rounds))
    return {
        "method": method,
        "rounds": rounds,
        "accuracy": total["score"] / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "ceiling": ceilings.get(rounds),
        **{count: total[count] / n for count in COUNTS},
        "seconds_per_100": None if spent is None else 100 * spent / n,
        "n": n,
    }


def _order(row: Mapping[str, Any]) -> tuple[int, int, str, int]:
    method = row["method"]  # by name, but m=8 before m=16
    return rank(method), len(method) if " m=" in method else 0, method, row["rounds"]


def _name(key: tuple[str, str, int, int]) -> str:
    return printable("question {}, method {}, rounds {}, rollout {}".format(*key[:4]))
