"""Ways of doing the same thing, timed in turn, and the ratios of their times with intervals."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.special import stdtrit  # which JAX installs


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of one way: seconds of each repetition, and what each gave."""

    seconds: tuple[float, ...]
    results: tuple[Any, ...]

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)


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


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The geometric mean of ratios, and its 95 % interval; None from a single one."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        ends = "" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{ends}"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Of times by repetition: a t-interval of the logarithms of ratios within a repetition."""
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    mean, n = statistics.fmean(logs), len(logs)
    if n < 2:
        return Ratio(math.exp(mean), None, None)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(logs) / math.sqrt(n)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns behind the first are right-aligned."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, marks, *rows))


def seconds_cells(seconds: Sequence[float]) -> list[str]:
    """The median of some seconds, and the least and the most of them."""
    ends = f"{min(seconds):.3f} - {max(seconds):.3f}"
    return [f"{statistics.median(seconds):.3f} s", ends]
