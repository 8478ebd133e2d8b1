"""The rows of the report: every variant of every benchmark, and how it compares with text exchange.

Ratios and differences are taken against the method `text` at the same rounds, on the questions that
both answered in the same evaluation. A ratio above 1 says that text exchange takes more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rmas.evaluation.intervals import wilson
from rmas.evaluation.records import Evaluation, Variant
from rmas.evaluation.report import names_of, rank
from rmas.evaluation.statistics import bootstrap_difference, bootstrap_ratio, paired_test
from rmas.tasks.passk import pass_at_k

COUNTS = ("decoded_tokens", "latent_steps", "prompt_tokens", "positions")
Row = dict[str, Any]


def compare(evaluation: Evaluation, ks: Sequence[int] = (10,)) -> list[Row]:
    """Rows of one evaluation, in the order of the table; `ks` are those of pass@k."""
    groups: dict[tuple[str, Variant], dict[str, list[dict]]] = {}
    for (benchmark, variant, question, _), record in evaluation.records.items():
        groups.setdefault((benchmark, variant), {}).setdefault(question, []).append(record)
    names = {
        benchmark: names_of((v[0], v[2]) for b, v in groups if b == benchmark)
        for benchmark, _ in groups
    }
    rows = []
    for (benchmark, variant), questions in groups.items():
        name = {"name": names[benchmark][variant[0], variant[2]]}
        row = (
            name | _row(benchmark, variant, questions, ks) | _times(evaluation, variant, questions)
        )
        text = groups.get((benchmark, ("text", variant[1], None)))
        if text is not None and variant[0] not in ("text",) and variant[0][:7] != "single:":
            row |= _against(evaluation, variant, questions, text)
        rows.append(row)
    return sorted(rows, key=_order)


def _row(benchmark: str, variant: Variant, questions: Mapping, ks: Sequence[int]) -> Row:
    n = len(questions)
    groups = list(questions.values())
    scores = [_mean(r["scores"]["exact"] for r in group) for group in groups]
    low, high = wilson(math.fsum(scores), n)
    row = {
        "benchmark": benchmark,
        "method": variant[0],
        "rounds": variant[1],
        "latent_length": variant[2],
        "n": n,
        "records": sum(map(len, groups)),
        "accuracy": math.fsum(scores) / n,
        "accuracy_low": low,
        "accuracy_high": high,
    }
    for score in ("release_compatible", "f1"):
        if all(score in r["scores"] for group in groups for r in group):
            row[score] = _mean(_mean(r["scores"][score] for r in group) for group in groups)
    for k in ks:
        if 1 < k <= min(map(len, groups)):
            row[f"pass@{k}"] = _mean(
                pass_at_k(len(g), sum(r["scores"]["exact"] == 1 for r in g), k) for g in groups
            )
    for count in COUNTS:
        row[count] = _mean(_mean(_count(r, count) for r in group) for group in groups)
    return row


def _times(evaluation: Evaluation, variant: Variant, questions: Mapping) -> Row:
    """Seconds of a question, compilation apart, and by phase; memory at its peak."""
    timed = [line for (own, *_), line in evaluation.timings.items() if own == variant]
    n = sum(line["n"] for line in timed)
    if not n:
        return {"seconds": None, "compile": None, "phases": {}, "peak_bytes": None}
    phases: dict[str, float] = {}
    for line in timed:
        for phase, seconds in line.get("phases", {}).items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    return {
        "seconds": math.fsum(line["seconds"] for line in timed) / n,
        "compile": math.fsum(line.get("compile", 0.0) for line in timed),
        "phases": {phase: seconds / n for phase, seconds in phases.items()},
        "peak_bytes": max((line.get("peak_bytes", 0) for line in timed), default=0) or None,
    }


def _against(evaluation: Evaluation, variant: Variant, own: Mapping, text: Mapping) -> Row:
    both = [question for question in own if question in text]
    scores = [
        [_mean(r["scores"]["exact"] for r in group[q]) for q in both] for group in (own, text)
    ]
    row: Row = {"paired": len(both)}
    difference = bootstrap_difference(*scores)
    row["difference"] = difference
    row["p"] = paired_test(*scores) if both else None
    for count, name in (("decoded_tokens", "token_ratio"), ("positions", "position_ratio")):
        sums = [[_mean(_count(r, count) for r in group[q]) for q in both] for group in (text, own)]
        row[name] = bootstrap_ratio(*sums)
    mine = _placed(evaluation, variant)
    theirs = _placed(evaluation, ("text", variant[1], None))
    shared = [place for place in mine if place in theirs]
    row["time_ratio"] = bootstrap_ratio(
        [theirs[place]["seconds"] for place in shared], [mine[place]["seconds"] for place in shared]
    )
    return row


def _placed(evaluation: Evaluation, variant: Variant) -> dict[tuple[int, int, int], dict[str, Any]]:
    """Timings of a variant by rollout, place and size: the batches of all variants are the same."""
    return {
        (rollout, start, line["n"]): line
        for (own, rollout, start), line in evaluation.timings.items()
        if own == variant
    }


def _count(record: Mapping[str, Any], count: str) -> float:
    def of(agent: Mapping[str, float]) -> float:
        if count == "positions" and count not in agent:  # schema 1: what an answer needs at most
            return sum(agent[c] for c in ("prompt_tokens", "latent_steps", "decoded_tokens"))
        return agent[count]

    return math.fsum(of(agent) for agent in record["agents"].values())


def _mean(values) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _order(row: Row) -> tuple:
    return (
        row["benchmark"],
        rank(row["method"]),
        row["latent_length"] or 0,
        row["name"],
        row["rounds"],
    )
