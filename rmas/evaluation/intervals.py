"""Confidence intervals for accuracies."""

import math
from statistics import NormalDist


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion, as (low, high) within [0, 1].

    `successes` may be fractional (a question's score averaged over rollouts). Nothing seen
    (n = 0) gives (0, 1). Raises ValueError where `successes` is not within [0, n].
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
