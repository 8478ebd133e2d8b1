"""Comparisons of paired questions: ratios and differences with intervals, and tests."""

import math
from collections.abc import Sequence

import numpy as np

SAMPLES = 2000
"""Bootstrap samples, and random signs of a test."""


def bootstrap_ratio(
    above: Sequence[float], below: Sequence[float], samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float, float] | None:
    """Ratio of the sums of paired units, and its 95 % interval (percentiles of the bootstrap).

    Units are what is drawn anew: questions, or batches of questions that share a time. None where
    there is nothing below to divide by.
    """
    a_U, b_U = np.asarray(above, float), np.asarray(below, float)
    if a_U.shape != b_U.shape:
        raise ValueError(f"{len(a_U)} units above, {len(b_U)} below; they must be paired")
    if len(a_U) == 0 or b_U.sum() <= 0:
        return None
    drawn_SU = _draws(len(a_U), samples, seed)
    sums_S = b_U[drawn_SU].sum(axis=1)
    ratios_S = a_U[drawn_SU].sum(axis=1)[sums_S > 0] / sums_S[sums_S > 0]
    low, high = np.percentile(ratios_S, [2.5, 97.5])
    return float(a_U.sum() / b_U.sum()), float(low), float(high)


def bootstrap_difference(
    one: Sequence[float], other: Sequence[float], samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float, float] | None:
    """Mean of the differences of paired questions, and its 95 % interval; None for none."""
    d_Q = np.asarray(one, float) - np.asarray(other, float)
    if len(d_Q) == 0:
        return None
    low, high = np.percentile(d_Q[_draws(len(d_Q), samples, seed)].mean(axis=1), [2.5, 97.5])
    return float(d_Q.mean()), float(low), float(high)


def paired_test(
    one: Sequence[float], other: Sequence[float], samples: int = 10_000, seed: int = 0
) -> float:
    """p of the hypothesis that two methods score alike on paired questions, two-sided.

    McNemar's exact test where all scores are 0 or 1; else differences with random signs.
    """
    a_Q, b_Q = np.asarray(one, float), np.asarray(other, float)
    if a_Q.shape != b_Q.shape:
        raise ValueError(f"{len(a_Q)} scores and {len(b_Q)}; they must be paired")
    d_Q = (a_Q - b_Q)[a_Q != b_Q]
    n = len(d_Q)
    if n == 0:
        return 1.0
    if np.isin(np.concatenate([a_Q, b_Q]), (0.0, 1.0)).all():
        fewer = min(int((d_Q > 0).sum()), int((d_Q < 0).sum()))
        tail = sum(math.comb(n, k) for k in range(fewer + 1))
        return min(1.0, 2 * tail / 2**n)
    signs_SQ = np.random.default_rng(seed).choice((-1.0, 1.0), (samples, n))
    extreme = np.abs(signs_SQ @ d_Q) >= abs(d_Q.sum()) - 1e-12
    return float((extreme.sum() + 1) / (samples + 1))


def _draws(n: int, samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, (samples, n))
