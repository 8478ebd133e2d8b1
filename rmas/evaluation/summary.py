"""From records and timings to the rows of a report. All tables and plots show these rows.

Ratios and differences compare a method with the method `text` at the same rounds, on the questions
that both answered in all their rollouts; a question counts by the mean of its rollouts. What is not
known is None.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.records import (
    TOKENS,
    Evaluations,
    Key,
    Record,
    TimedBatch,
    Variant,
    read_evaluations,
)
from rmas.evaluation.results import (
    IntervalEstimate,
    PassAtK,
    ResultRow,
    TextComparison,
    names_of,
    order_of,
)
from rmas.evaluation.statistics import (
    Estimate,
    bootstrap_ratio,
    difference,
    paired_test,
    pass_at_k,
    wilson,
)
from rmas.tasks.grader import RELEASE

REFERENCE = "text"
"""The method that others are compared with."""

Questions = Mapping[str, Mapping[int, Record]]
"""Question id -> rollout -> record."""


def summarise_workdir(workdir: Path) -> list[ResultRow]:
    """The rows of the evaluation in a workdir, which is of one benchmark.

    Raises InputError where there are no records, or files are damaged.
    """
    found = summarise(read_evaluations([workdir]))
    if len(found) > 1:
        names = ", ".join(map(printable, found))
        raise InputError(f"{workdir} has records of several benchmarks ({names}), not of one")
    (rows,) = found.values()
    return rows


def summarise(evaluations: Evaluations, k: int | None = None) -> dict[str, list[ResultRow]]:
    """Benchmark -> its rows, in the order of `results.order_of`.

    `k` is that of pass@k, by default the least number of rollouts that a question of a method has.
    """
    found = {}
    for benchmark, variants in evaluations.questions.items():
        names = names_of((v.method, v.latent_length) for v in variants)
        rows = [
            _row(evaluations, benchmark, variant, names[variant.method, variant.latent_length], k)
            for variant in variants
        ]
        found[benchmark] = sorted(rows, key=order_of)
    return dict(sorted(found.items()))


def _row(
    evaluations: Evaluations, benchmark: str, variant: Variant, name: str, k: int | None
) -> ResultRow:
    variants = evaluations.questions[benchmark]
    questions = variants[variant]
    n = len(questions)
    records = [record for rollouts in questions.values() for record in rollouts.values()]
    rollouts = [len(own) for own in questions.values()]
    right = math.fsum(_means(questions, "exact").values())
    low, high = wilson(min(right, n), n)
    by_release = all(RELEASE in r.scores for r in records)
    gaps = [r.scores["exact"] - r.scores[RELEASE] for r in records if by_release]
    notes = collections.Counter(printable(r.note[:40]) for r in records if r.note)
    has_f1 = all("f1" in r.scores for r in records)
    keys = [Key(benchmark, variant, q, rollout) for q, own in questions.items() for rollout in own]
    timed = [batch for key in keys if (batch := evaluations.batches.get(key))]
    batches = list({id(batch): batch for batch in timed}.values())
    compiled = [batch.compile for batch in batches if batch.compile is not None]
    phases = dict.fromkeys(name for batch in batches for name in batch.phases)
    reference = Variant(REFERENCE, variant.rounds, None)
    return ResultRow(
        benchmark=benchmark,
        name=name,
        method=variant.method,
        rounds=variant.rounds,
        latent_length=variant.latent_length,
        n=n,
        records=len(records),
        rollouts=[min(rollouts), max(rollouts)],
        accuracy=right / n,
        accuracy_low=low,
        accuracy_high=high,
        ceiling=_ceiling(evaluations, variant.rounds, n, records),
        pass_k=_pass_k(questions, k),
        release_compatible=_mean(_means(questions, RELEASE).values()) if by_release else None,
        ours_only=sum(gap > 0 for gap in gaps),
        release_only=sum(gap < 0 for gap in gaps),
        f1=_mean(_means(questions, "f1").values()) if has_f1 else None,
        unanswered=sum(not r.answered for r in records),
        retried=sum(r.retried for r in records),
        notes=dict(sorted(notes.items())),
        positions_estimated=sum(r.estimated for r in records),
        decoded_tokens=_mean(_means(questions, "decoded_tokens").values()),
        latent_steps=_mean(_means(questions, "latent_steps").values()),
        prompt_tokens=_mean(_means(questions, "prompt_tokens").values()),
        positions=_mean(_means(questions, "positions").values()),
        seconds=_mean(map(_share, timed)) if timed else None,
        timed=len(timed),
        batches=len(batches),
        compile=math.fsum(compiled) if 0 < len(compiled) == len(batches) else None,
        phases={
            phase: _mean(batch.phases.get(phase, 0.0) / len(batch.keys) for batch in timed)
            for phase in phases
        },
        peak_bytes=max((b.peak_bytes for b in batches if b.peak_bytes is not None), default=None),
        against_text=(
            _compare(evaluations, benchmark, variant, reference)
            if variant != reference and reference in variants
            else None
        ),
    )


def _ceiling(
    evaluations: Evaluations, rounds: int, n: int, records: Sequence[Record]
) -> float | None:
    """That of a workdir with all of these records, where they answer all of its questions."""
    for workdir in sorted(_shared_workdirs(records)):
        known = evaluations.ceilings[workdir]
        if known and known.questions == n:
            return known.by_rounds.get(rounds)
    return None


def _pass_k(questions: Questions, k: int | None) -> PassAtK | None:
    least = min(map(len, questions.values()))
    k = k or least
    hits = [[r.scores["exact"] for r in rollouts.values()] for rollouts in questions.values()]
    if least < 2 or k > least or any(score not in (0, 1) for own in hits for score in own):
        return None
    return PassAtK(k=k, value=_mean(pass_at_k(len(own), int(sum(own)), k) for own in hits))


def _compare(
    evaluations: Evaluations, benchmark: str, variant: Variant, reference: Variant
) -> TextComparison:
    """The comparison on the questions that are complete in both variants, in one workdir.

    (Another workdir may be of another system, as well as of another machine.)
    """
    variants = evaluations.questions[benchmark]
    own, text = _complete(variants[variant]), _complete(variants[reference])
    both = [
        question
        for question in own
        if question in text
        and _shared_workdirs([*own[question].values(), *text[question].values()])
    ]

    def paired(count_or_score: str) -> tuple[list[float], list[float]]:
        ours, theirs = _means(own, count_or_score), _means(text, count_or_score)
        return [ours[q] for q in both], [theirs[q] for q in both]

    def ratio(count: str) -> IntervalEstimate | None:
        ours, theirs = paired(count)
        return _interval(bootstrap_ratio(theirs, ours))

    timed: dict[str, tuple[list[TimedBatch], list[TimedBatch]]] = {}
    for question in both:
        ours = _batches(evaluations, benchmark, variant, question, own[question])
        theirs = _batches(evaluations, benchmark, reference, question, text[question])
        if ours and theirs and len({(b.workdir, b.machine) for b in (*ours, *theirs)}) == 1:
            timed[question] = ours, theirs
    clusters = _clusters([[*ours, *theirs] for ours, theirs in timed.values()])
    seconds = [_mean(map(_share, ours)) for ours, _ in timed.values()]
    text_seconds = [_mean(map(_share, theirs)) for _, theirs in timed.values()]
    scores = paired("exact")
    return TextComparison(
        n=len(both),
        n_timed=len(timed),
        clusters=len(set(clusters)),
        token_ratio=ratio("decoded_tokens"),
        position_ratio=ratio("positions"),
        time_ratio=_interval(bootstrap_ratio(text_seconds, seconds, clusters)),
        difference=_interval(difference(*scores)),
        p=paired_test(*scores),
    )


def _batches(
    evaluations: Evaluations,
    benchmark: str,
    variant: Variant,
    question: str,
    rollouts: Iterable[int],
) -> list[TimedBatch]:
    """The batches of all rollouts of a question; empty where one was not timed."""
    keys = [Key(benchmark, variant, question, rollout) for rollout in rollouts]
    if not all(key in evaluations.batches for key in keys):
        return []
    return [evaluations.batches[key] for key in keys]


def _shared_workdirs(records: Sequence[Record]) -> set[int]:
    """The workdirs that have all of the records."""
    return set.intersection(*(set(record.workdirs) for record in records))


def _clusters(batches: Sequence[Sequence[TimedBatch]]) -> list[int]:
    """A number for each question: equal where a chain of shared batches joins two of them."""
    parent = list(range(len(batches)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[int, int] = {}
    for index, own in enumerate(batches):
        for batch in own:
            parent[root(index)] = root(first.setdefault(id(batch), index))
    return [root(index) for index in range(len(parent))]


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


def _share(batch: TimedBatch) -> float:
    """Seconds of one question of a batch."""
    return batch.seconds / len(batch.keys)


def _interval(found: Estimate | None) -> IntervalEstimate | None:
    if found is None:
        return None
    value, low, high = found
    return IntervalEstimate(value=value, low=low, high=high)


def _mean(values: Iterable[float]) -> float:
    """The mean; it does not depend on the order of the values."""
    listed = list(values)
    return math.fsum(listed) / len(listed)
