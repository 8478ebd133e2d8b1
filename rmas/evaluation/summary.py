"""From records and timings to the rows of a report. All tables and plots show these rows.

Ratios and differences compare a method with the method `text` at the same rounds: times within
groups of questions, all else on the questions that both answered in all their rollouts; a question
counts by the mean of its rollouts. What is not known is None.
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
    TimedGroup,
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
from rmas.evaluation.times import REFERENCE, groups_of, time_ratio
from rmas.tasks.grader import RELEASE

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
    timed = [group for key in keys if (group := evaluations.groups.get(key))]
    groups = groups_of(evaluations, benchmark, variant)
    compiled = [group.compile for group in groups if group.compile is not None]
    phases = dict.fromkeys(name for group in groups for name in group.phases)
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
        reused_positions=_mean(_means(questions, "reused_positions").values()),
        seconds=_mean(group.seconds / len(group.keys) for group in timed) if timed else None,
        cpu_seconds=_cpu_seconds(timed),
        timed=len(timed),
        groups=len(groups),
        compile=math.fsum(compiled) if 0 < len(compiled) == len(groups) else None,
        phases={
            phase: _mean(group.phases.get(phase, 0.0) / len(group.keys) for group in timed)
            for phase in phases
        },
        peak_bytes=max((g.peak_bytes for g in groups if g.peak_bytes is not None), default=None),
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

    (Another workdir may be of another system, as well as of another machine.) Times are compared
    within all groups that both answered.
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

    times = time_ratio(
        groups_of(evaluations, benchmark, variant), groups_of(evaluations, benchmark, reference)
    )
    scores = paired("exact")
    return TextComparison(
        n=len(both),
        groups=times.groups,
        unpaired=times.unpaired,
        token_ratio=ratio("decoded_tokens"),
        position_ratio=ratio("positions"),
        time_ratio=_interval(times.ratio),
        difference=_interval(difference(*scores)),
        p=paired_test(*scores),
    )


def _shared_workdirs(records: Sequence[Record]) -> set[int]:
    """The workdirs that have all of the records."""
    return set.intersection(*(set(record.workdirs) for record in records))


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


def _cpu_seconds(timed: Sequence[TimedGroup]) -> float | None:
    """CPU seconds of a question; None where some are not known, or an accelerator computed."""
    known = [
        group.cpu_seconds / len(group.keys)
        for group in timed
        if group.cpu_seconds is not None and group.accelerator is False
    ]
    return _mean(known) if 0 < len(known) == len(timed) else None


def _interval(found: Estimate | None) -> IntervalEstimate | None:
    if found is None:
        return None
    value, low, high = found
    return IntervalEstimate(value=value, low=low, high=high)


def _mean(values: Iterable[float]) -> float:
    """The mean; it does not depend on the order of the values."""
    listed = list(values)
    return math.fsum(listed) / len(listed)
