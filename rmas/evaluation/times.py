"""Times of methods, compared within groups, and signs that other work disturbed them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rmas.console import printable
from rmas.evaluation.records import Evaluations, Key, TimedGroup, Variant
from rmas.evaluation.results import ResultRow, RowsByBenchmark
from rmas.evaluation.statistics import Estimate, geometric_ratio

REFERENCE = "text"
"""The method that others are compared with."""

LIMIT = 1.5
"""Equal work that differs by more than this factor in time is told."""

_MEANS = (
    "other work ran on the machine, so times and their ratios may be off: evaluate again in a new "
    "workdir while nothing else runs"
)


class TimeRatio(NamedTuple):
    """The ratio of a method's times to another's.

    Attributes:
      ratio: geometric mean over groups; None where no groups could be paired.
      groups: how many were.
      unpaired: how many were timed of at least one of both, but could not be paired.
    """

    ratio: Estimate | None
    groups: int
    unpaired: int


def groups_of(evaluations: Evaluations, benchmark: str, variant: Variant) -> list[TimedGroup]:
    """The timed groups of a variant, each once."""
    found: dict[int, TimedGroup] = {}
    for question, rollouts in evaluations.questions[benchmark].get(variant, {}).items():
        for rollout in rollouts:
            group = evaluations.groups.get(Key(benchmark, variant, question, rollout))
            if group:
                found.setdefault(id(group), group)
    return list(found.values())


def time_ratio(ours: Sequence[TimedGroup], theirs: Sequence[TimedGroup]) -> TimeRatio:
    """Their seconds over ours, within groups.

    Two groups are a pair where they have the same questions and rollout, in one workdir and on one
    machine, and the methods took turns, so in one session.
    """
    pairs = [
        (own, other)
        for own, other in _pairs(ours, theirs)
        if own.session and own.session == other.session and own.seconds > 0 < other.seconds
    ]
    ratio = geometric_ratio([b.seconds for _, b in pairs], [a.seconds for a, _ in pairs])
    # Where the two are of different machines, that is one pair that is missing.
    wanted = {(group.workdir, _asked(group)) for group in (*ours, *theirs)}
    return TimeRatio(ratio, len(pairs), len(wanted) - len(pairs))


def time_warnings(evaluations: Evaluations, rows: RowsByBenchmark) -> dict[str, list[str]]:
    """Benchmark -> a line on each reason to doubt the times of its rows; without one, no entry."""
    found = {}
    for benchmark, own in rows.items():
        lines = [
            *_of_unequal_groups(evaluations, benchmark, own),
            *_of_links(evaluations, benchmark, own),
            *_of_unpaired(evaluations, benchmark, own),
        ]
        if lines:
            found[benchmark] = lines
    return found


def _of_unequal_groups(
    evaluations: Evaluations, benchmark: str, rows: Sequence[ResultRow]
) -> Iterable[str]:
    """Groups of one latent method and shape should think equally long, as the fastest does.

    Their latent turns are the same work. What agents write is not: a group ends with its longest
    text.
    """
    over = []
    for row in rows:
        paces = _paces(evaluations, groups_of(evaluations, benchmark, _variant(row)))
        factor = max((max(own) / min(own) for own in paces), default=1.0)
        if factor > LIMIT:
            over.append(f"{_name(row)} {factor:.1f} times")
    if over:
        names = ", ".join(over)
        yield f"groups of the same shape differ in the seconds of `think`: {names}; {_MEANS}"


def _paces(evaluations: Evaluations, groups: Sequence[TimedGroup]) -> Iterable[list[float]]:
    """Seconds of `think`, by groups of one shape."""
    shapes: dict[tuple, list[float]] = {}
    for group in groups:
        seconds = group.phases.get("think", 0.0)
        if group.bucket is not None and seconds > 0:
            shape = group.bucket, len(group.keys), group.machine, group.workdir
            shapes.setdefault(shape, []).append(seconds)
    return shapes.values()


def _of_links(evaluations: Evaluations, benchmark: str, rows: Sequence[ResultRow]) -> Iterable[str]:
    """Trained and untrained links compute the same in latent turns."""
    methods = []
    for row in rows:
        if row["method"] != "latent":
            continue
        variant = _variant(row)
        ours = groups_of(evaluations, benchmark, variant)
        control = groups_of(evaluations, benchmark, variant._replace(method="untrained"))
        both = [[g.phases.get("think", 0.0) for g in pair] for pair in _pairs(ours, control)]
        factors = [max(pair) / min(pair) for pair in both if min(pair) > 0]
        if over := [factor for factor in factors if factor > LIMIT]:
            methods.append(
                f"{_name(row)} up to {max(over):.1f} times within {len(over)} of {len(factors)} "
                "groups"
            )
    if methods:
        yield (
            "trained and untrained links differ in `think`, which is the same computation: "
            f"{', '.join(methods)}; {_MEANS}"
        )


def _of_unpaired(
    evaluations: Evaluations, benchmark: str, rows: Sequence[ResultRow]
) -> Iterable[str]:
    """One line for all methods that lack times of the same kind."""
    found: dict[tuple[int, int, str], list[str]] = {}
    for row in rows:
        against = row["against_text"]
        if against is None or not against["unpaired"]:
            continue
        variant = _variant(row)
        text = Variant(REFERENCE, variant.rounds, None)
        both = [groups_of(evaluations, benchmark, own) for own in (variant, text)]
        why = "one of the two times is missing or zero, or of another machine or session"
        if not all(group.session for own in both for group in own):
            why = "an earlier version timed one method after the other"
        kind = against["groups"], against["unpaired"], why
        found.setdefault(kind, []).append(_name(row))
    for (groups, unpaired, why), names in found.items():
        rest = f"time ratios are over the other {groups}" if groups else "there is no time ratio"
        yield (
            f"{', '.join(names)}: {unpaired} of {groups + unpaired} groups cannot be paired with "
            f"text exchange, since {why}; {rest}"
        )


def _pairs(
    ours: Sequence[TimedGroup], theirs: Sequence[TimedGroup]
) -> list[tuple[TimedGroup, TimedGroup]]:
    """Groups of the same questions and rollout, of one workdir and machine."""
    others = {_place(group): group for group in theirs}
    return [(group, others[_place(group)]) for group in ours if _place(group) in others]


def _place(group: TimedGroup) -> tuple:
    """What a group shares with those that it may be compared with."""
    return group.workdir, group.machine, _asked(group)


def _asked(group: TimedGroup) -> tuple:
    return tuple((key.question, key.rollout) for key in group.keys)


def _variant(row: ResultRow) -> Variant:
    return Variant(row["method"], row["rounds"], row["latent_length"])


def _name(row: ResultRow) -> str:
    return f"{printable(row['name'])} r={row['rounds']}"
