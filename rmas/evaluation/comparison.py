"""The rows of a report: what each variant reached and took, and how it compares with text exchange.

Ratios and differences are taken against the method `text` at the same rounds, over the questions
that both answered in all their rollouts; a question counts by the mean of its rollouts. A ratio
above 1 says that text exchange takes more. What cannot be told is None.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmas.console import printable
from rmas.evaluation.intervals import wilson
from rmas.evaluation.records import Batch, Evaluations, Key, Record, Variant
from rmas.evaluation.report import COUNTS, names_of, rank
from rmas.evaluation.statistics import Estimate, bootstrap_ratio, difference, paired_test
from rmas.tasks.passk import pass_at_k

REFERENCE = "text"
TOKENS = (*COUNTS, "positions")

Questions = Mapping[str, Mapping[int, Record]]
Row = dict[str, Any]


def compare(evaluations: Evaluations, k: int | None = None) -> dict[str, list[Row]]:
    """Rows by benchmark, ordered as in `report.METHODS`, then by latent length and rounds.

    `k` is that of pass@k, by default the number of rollouts that every question of a variant has;
    it is None in a row without several rollouts, with fewer than k, or with scores other than 0
    and 1.
    """
    found = {}
    for benchmark, variants in evaluations.questions.items():
        names = names_of((v.method, v.latent_length) for v in variants)
        rows = []
        for variant, questions in variants.items():
            row = {"benchmark": benchmark, **variant._asdict()}
            row["name"] = names[variant.method, variant.latent_length]
            row |= _scores(questions, k) | _took(evaluations, benchmark, variant, questions)
            reference = Variant(REFERENCE, variant.rounds, None)
            row["against_text"] = None
            if variant != reference and reference in variants:
                row["against_text"] = _against(evaluations, benchmark, variant, reference)
            rows.append(row)
        found[benchmark] = sorted(
            rows,
            key=lambda r: (rank(r["method"]), r["method"], r["latent_length"] or 0, r["rounds"]),
        )
    return dict(sorted(found.items()))


def _scores(questions: Questions, k: int | None) -> Row:
    n = len(questions)
    records = [record for rollouts in questions.values() for record in rollouts.values()]
    right = math.fsum(_means(questions, "exact").values())
    low, high = wilson(min(right, n), n)
    gaps = [r.scores["exact"] - r.scores["release_compatible"] for r in records]
    counts = [len(rollouts) for rollouts in questions.values()]
    row = {
        "n": n,
        "records": len(records),
        "rollouts": [min(counts), max(counts)],
        "accuracy": right / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "pass_k": _pass_k(questions, k),
        "release_compatible": _mean(_means(questions, "release_compatible").values()),
        "ours_only": sum(gap > 0 for gap in gaps),
        "release_only": sum(gap < 0 for gap in gaps),
        "f1": None,
        "unanswered": sum(not r.answered for r in records),
        "retried": sum(r.retried for r in records),
        "notes": dict(
            sorted(collections.Counter(printable(r.note[:40]) for r in records if r.note).items())
        ),
        "positions_estimated": sum(r.estimated for r in records),
    }
    if all("f1" in r.scores for r in records):
        row["f1"] = _mean(_means(questions, "f1").values())
    return row


def _pass_k(questions: Questions, k: int | None) -> Row | None:
    least = min(map(len, questions.values()))
    k = k or least
    hits = [[r.scores["exact"] for r in rollouts.values()] for rollouts in questions.values()]
    if least < 2 or k > least or any(score not in (0, 1) for own in hits for score in own):
        return None
    return {"k": k, "value": _mean(pass_at_k(len(own), int(sum(own)), k) for own in hits)}


def _took(evaluations: Evaluations, benchmark: str, variant: Variant, questions: Questions) -> Row:
    """Tokens, time and memory; seconds are per question and rollout, compilation is a total."""
    keys = [Key(benchmark, variant, q, rollout) for q, own in questions.items() for rollout in own]
    timed = [(key, evaluations.batches[key]) for key in keys if key in evaluations.batches]
    batches = list({id(batch): batch for _, batch in timed}.values())
    row: Row = {token: _mean(_means(questions, token).values()) for token in TOKENS}
    compiled = [batch.compile for batch in batches]
    peaks = [batch.peak_bytes for batch in batches if batch.peak_bytes is not None]
    phases: Row = {}
    for name in dict.fromkeys(name for batch in batches for name in batch.phases):
        phases[name] = _mean(b.phases.get(name, 0.0) / len(b.keys) for _, b in timed)
    return row | {
        "seconds": _mean(_share(batch) for _, batch in timed) if timed else None,
        "timed": len(timed),
        "batches": len(batches),
        "compile": math.fsum(compiled) if batches and None not in compiled else None,
        "phases": phases,
        "peak_bytes": max(peaks, default=None),
    }


def _against(evaluations: Evaluations, benchmark: str, variant: Variant, reference: Variant) -> Row:
    """The comparison of two variants on the questions that are complete in both, in one run.

    Another workdir may be of another system, as well as of another machine.
    """
    variants = evaluations.questions[benchmark]
    own, text = _complete(variants[variant]), _complete(variants[reference])
    both = [q for q in own if q in text and _in_one_run([*own[q].values(), *text[q].values()])]
    row: Row = {"n": len(both), "n_timed": 0, "clusters": 0}

    def paired(name: str) -> tuple[list[float], list[float]]:
        ours, theirs = _means(own, name), _means(text, name)
        return [ours[q] for q in both], [theirs[q] for q in both]

    for token, name in (("decoded_tokens", "token_ratio"), ("positions", "position_ratio")):
        ours, theirs = paired(token)
        row[name] = _estimate(bootstrap_ratio(theirs, ours))
    scores = paired("exact")
    row["difference"] = _estimate(difference(*scores))
    row["p"] = paired_test(*scores)
    timed = {}
    for question in both:
        sides = [
            [evaluations.batches.get(Key(benchmark, v, question, r)) for r in found[question]]
            for v, found in ((variant, own), (reference, text))
        ]
        joined = [batch for side in sides for batch in side]
        if None not in joined and len({(batch.workdir, batch.machine) for batch in joined}) == 1:
            timed[question] = sides
    clusters = _clusters({q: [b for s in sides for b in s] for q, sides in timed.items()})
    ours, theirs = ([_mean(map(_share, sides[at])) for sides in timed.values()] for at in (0, 1))
    row["time_ratio"] = _estimate(bootstrap_ratio(theirs, ours, clusters))
    return row | {"n_timed": len(timed), "clusters": len(set(clusters))}


def _in_one_run(records: Sequence[Record]) -> bool:
    """Whether some workdir holds all of them."""
    return bool(set.intersection(*(set(record.workdirs) for record in records)))


def _clusters(batches: Mapping[str, Sequence[Batch]]) -> list[int]:
    """A number for each question: equal where a chain of shared batches joins two of them."""
    parent = list(range(len(batches)))

    def top(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    first: dict[int, int] = {}
    for place, own in enumerate(batches.values()):
        for batch in own:
            parent[top(place)] = top(first.setdefault(id(batch), place))
    return [top(place) for place in range(len(parent))]


def _complete(questions: Questions) -> Questions:
    """The questions that have all rollouts that any question of the variant has."""
    rollouts = {rollout for own in questions.values() for rollout in own}
    return {question: own for question, own in questions.items() if len(own) == len(rollouts)}


def _means(questions: Questions, name: str) -> dict[str, float]:
    """A count or score of each question: the mean of its rollouts."""
    return {
        question: _mean(
            r.counts[name] if name in TOKENS else r.scores[name] for r in rollouts.values()
        )
        for question, rollouts in questions.items()
    }


def _share(batch: Batch) -> float:
    return batch.seconds / len(batch.keys)


def _estimate(found: Estimate | None) -> Row | None:
    return None if found is None else dict(zip(("value", "low", "high"), found, strict=True))


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
