"""Ways of doing the same thing, timed in turn, and the ratios of their times with intervals."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmas.evaluation.statistics import Estimate, geometric_ratio


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of one way: seconds of each repetition, and what each gave."""

    seconds: tuple[float, ...]
    results: tuple[Any, ...]


def alternate(ways: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, Runs]:
    """Runs all ways once in each repetition, whose number each gets; their order rotates."""
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, list[Any]] = {name: [] for name in names}
    for n in range(repeats):
        first = n % len(names)
        for name in (*names[first:], *names[:first]):
            start = time.perf_counter()
            results[name].append(ways[name](n))
            seconds[name].append(time.perf_counter() - start)
    return {name: Runs(tuple(seconds[name]), tuple(results[name])) for name in names}


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Of times by repetition, at least one: the geometric mean within repetitions, with its ends.

    Raises ValueError as `geometric_ratio` does, and for no repetition.
    """
    found = geometric_ratio(above, below)
    if found is None:
        raise ValueError("a ratio needs a repetition")
    return found


def named(estimate: Estimate) -> dict[str, float | None]:
    """A ratio for JSON."""
    return dict(zip(("value", "low", "high"), estimate, strict=True))


def ratio_cells(own: Mapping[str, Any]) -> list[str]:
    """A ratio that `named` gave, and its interval; empty from a single repetition."""
    ends = "" if own["low"] is None else f"{own['low']:.2f} - {own['high']:.2f}"
    return [f"{own['value']:.2f}", ends]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns behind the first are right-aligned."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, marks, *rows))


def seconds_cells(seconds: Sequence[float]) -> list[str]:
    """The median of some seconds, and the least and the most of them."""
    ends = f"{min(seconds):.3f} - {max(seconds):.3f}"
    return [f"{statistics.median(seconds):.3f} s", ends]
