"""Statistics of a report: intervals of accuracies, pass@k, and paired comparisons.

In paired comparisons index i of both sequences is the same unit: a question, or a group of them.
Everything is deterministic: equal input gives equal output.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

SAMPLES = 2000
"""Bootstrap samples."""

FLIPS = 10_000
"""Random sign vectors of the permutation test, where not all of them are tried."""

_ALL_SIGNS = 14  # up to so many units that differ, all 2^14 sign vectors are tried
_CELLS = 1_000_000  # numbers held at once

Estimate = tuple[float, float | None, float | None]
"""A value, and the ends of its 95 % interval; an end is None where nothing bounds it."""


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion, as (low, high) within [0, 1].

    `successes` may be fractional (a question's score averaged over rollouts). With n = 0 it is
    (0, 1). Raises ValueError where `successes` is not within [0, n].
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must be within 0 and n, not {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    shrink = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate that one of k answers is right, from `correct` right ones of `n`.

    It is the share of the sets of `k` answers that have a right one.
    Raises ValueError unless 1 <= k <= n and 0 <= correct <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {correct} right among {n}: k must lie in 1 .. n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    samples: int = SAMPLES,
    seed: int = 0,
) -> Estimate | None:
    """Sum of `numerators` over sum of `denominators`, with its 95 % percentile interval.

    Both ends are None with fewer than two units, the upper one also where draws divide by 0. The
    result is None where the sum of `denominators` is 0.

    Raises ValueError for sequences of different lengths, and for negative or infinite numbers.
    """
    above, below = _units(numerators), _units(denominators)
    if len(above) != len(below):
        raise ValueError("numerators and denominators must be of one length")
    if (above < 0).any() or (below < 0).any():
        raise ValueError("a ratio of sums needs numbers that are not negative")
    if below.sum() <= 0:
        return None

    def ratio(drawn_SU: np.ndarray) -> np.ndarray:
        tops, bottoms = above[drawn_SU].sum(1), below[drawn_SU].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return tops / bottoms

    return float(above.sum() / below.sum()), *_ends(ratio, len(above), samples, seed)


def geometric_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate | None:
    """Geometric mean of the ratios of units, with its 95 % interval: Student's, on the logarithms.

    The ends are None for a single unit; the result is None for no units.

    Raises ValueError for sequences of different lengths, and unless all numbers are above 0.
    """
    above, below = _units(numerators), _units(denominators)
    if len(above) != len(below):
        raise ValueError("numerators and denominators must be of one length")
    if (above <= 0).any() or (below <= 0).any():
        raise ValueError("a geometric mean needs numbers above 0")
    logs, n = np.log(above) - np.log(below), len(above)
    if not n:
        return None
    mean = float(logs.mean())
    if n == 1:
        return math.exp(mean), None, None
    half = t_quantile(n - 1) * float(logs.std(ddof=1)) / math.sqrt(n)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The number that bounds Student's t from both sides with probability `confidence`.

    `freedom` is the number of degrees of freedom, 1 or more.
    """
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:  # until the two are neighbours
        low, high = (angle, high) if _within(angle, freedom) < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(angle)


def _within(angle: float, freedom: int) -> float:
    """Probability that |t| is below sqrt(freedom) * tan(angle): the series of its integral."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = (cosine if freedom > 1 else 0.0) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def difference(
    a: Sequence[float], b: Sequence[float], samples: int = SAMPLES, seed: int = 0
) -> Estimate | None:
    """Mean of `a` minus mean of `b`, paired, with its 95 % percentile interval.

    The ends are None for a single unit; the result is None for no units. Raises ValueError as
    `bootstrap_ratio` does.
    """
    gaps = _paired(a, b)
    if not len(gaps):
        return None
    ends = _ends(lambda drawn_SU: gaps[drawn_SU].mean(1), len(gaps), samples, seed)
    return float(gaps.mean()), *ends


def paired_test(
    a: Sequence[float], b: Sequence[float], samples: int = FLIPS, seed: int = 0
) -> float | None:
    """Two-sided p-value of equal mean scores, from paired scores; None for no units.

    McNemar's exact test where every score is 0 or 1, else the sign-flip permutation test of the
    mean difference: with all sign vectors where at most 14 units differ, else with `samples`
    random ones. Raises ValueError as `bootstrap_ratio` does.
    """
    gaps = _paired(a, b)
    if not len(gaps):
        return None
    if all(score in (0, 1) for score in (*a, *b)):
        return _mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum()))
    # Equal means of rollouts may differ by rounding.
    gaps = gaps[np.abs(gaps) > 1e-12]
    n, least = len(gaps), abs(gaps.sum()) * (1 - 1e-9)
    if n <= _ALL_SIGNS:
        all_signs = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2 - 1
        return float((np.abs(all_signs @ gaps) >= least).mean())
    rng, extreme = np.random.default_rng(seed), 0
    for count in _portions(samples, n):
        signs = rng.integers(0, 2, (count, n), dtype=np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ gaps) >= least).sum())
    return (extreme + 1) / (samples + 1)


def _mcnemar(more: int, fewer: int) -> float:
    """Both tails of a fair coin's tosses, in exact integers."""
    n, term, tail = more + fewer, 1, 0
    for k in range(min(more, fewer) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def _ends(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, samples: int, seed: int
) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 % points of a statistic of `n` units drawn with replacement."""
    if n < 2:
        return None, None
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, n, (count, n))) for count in _portions(samples, n)]
    values = np.concatenate(drawn)
    values = np.sort(values[~np.isnan(values)])  # 0 / 0 is left out
    last = len(values) - 1
    # Drawn values, rounded outwards: interpolation with infinity would not be a number.
    low, high = values[int(0.025 * last)], values[-1 - int(0.025 * last)]
    return (
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
    )


def _portions(samples: int, n: int) -> list[int]:
    most = max(1, _CELLS // max(n, 1))
    return [min(most, samples - done) for done in range(0, samples, most)]


def _paired(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise ValueError("a and b must be of one length")
    return _units(a) - _units(b)


def _units(values: Sequence[float]) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError("units must be one finite number each")
    return found
