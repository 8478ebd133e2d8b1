"""pass@k: how likely one of k answers is right, from n answers of a question."""

import math


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate from `n` answers, `correct` of which are right.

    It is the share of the sets of `k` answers that hold a right one.
    Raises ValueError unless 1 <= k <= n and 0 <= correct <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {correct} right among {n}: k must lie in 1 .. n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
