"""Intervals and tests against brute force over all samples and signs, and published tables."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from rmas.evaluation.statistics import (
    bootstrap_ratio,
    difference,
    geometric_ratio,
    paired_test,
    pass_at_k,
    t_quantile,
    wilson,
)


def outer_points(values):
    """The 2.5 and 97.5 % points of a whole distribution."""
    values = sorted(values)
    last = len(values) - 1
    return values[int(0.025 * last)], values[-1 - int(0.025 * last)]


def test_ratio_is_of_sums_and_a_constant_ratio_has_no_width():
    assert bootstrap_ratio([30, 10], [10, 10])[0] == 2.0  # not the mean of 3 and 1
    assert bootstrap_ratio([3, 6, 30], [1, 2, 10]) == (3.0, 3.0, 3.0)


def test_ratio_against_all_draws():
    above, below = [4.0, 9.0, 1.0, 7.0], [2.0, 3.0, 1.0, 1.0]
    all_draws = [
        sum(above[i] for i in draw) / sum(below[i] for i in draw)
        for draw in itertools.product(range(4), repeat=4)
    ]
    low, high = outer_points(all_draws)
    found = bootstrap_ratio(above, below, samples=20_000)
    assert found == pytest.approx((21 / 7, low, high), abs=0.05)


def test_what_has_no_ratio_or_no_interval():
    assert bootstrap_ratio([], []) is None
    assert bootstrap_ratio([1, 2], [0, 0]) is None
    assert bootstrap_ratio([1], [2]) == (0.5, None, None)
    ratio, low, high = bootstrap_ratio([1, 1], [0, 2])  # a quarter of the draws divides by 0
    assert (ratio, low, high) == (1.0, 0.5, None)
    assert bootstrap_ratio([0, 4], [0, 2]) == (2.0, 2.0, 2.0)  # 0 / 0 is left out


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ([1, 2], [1]),
        ([1, -2], [1, 2]),
        ([1, math.inf], [1, 2]),
        ([1, math.nan], [1, 2]),
    ],
)
def test_impossible_units(above, below):
    for ratio in (bootstrap_ratio, geometric_ratio):
        with pytest.raises(ValueError, match=r"one length|not negative|finite|above 0"):
            ratio(above, below)


def test_geometric_ratio_by_hand():
    """Ratios 2, 8 and 4: their mean is 4, and their logarithms differ by log 2."""
    value, low, high = geometric_ratio([2.0, 8.0, 12.0], [1.0, 1.0, 3.0])
    half = 4.302653 * math.log(2) / math.sqrt(3)  # Student's t of two degrees of freedom
    assert value == pytest.approx(4)
    assert (low, high) == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)), rel=1e-6)
    assert geometric_ratio([3.0, 6.0, 30.0], [1.0, 2.0, 10.0]) == pytest.approx((3, 3, 3))
    # A ratio turned round is the inverse, with its interval.
    turned = geometric_ratio([1.0, 1.0, 3.0], [2.0, 8.0, 12.0])
    assert turned == pytest.approx((1 / value, 1 / high, 1 / low))
    assert geometric_ratio([3.0], [2.0]) == (pytest.approx(1.5), None, None)
    assert geometric_ratio([], []) is None
    with pytest.raises(ValueError, match="above 0"):
        geometric_ratio([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("freedom", "both"),
    # Tables of Student's t: probability 0.95 and 0.99 between the two ends.
    [
        *((1, (12.706, 63.657)), (2, (4.303, 9.925)), (3, (3.182, 5.841)), (4, (2.776, 4.604))),
        *((7, (2.365, 3.499)), (10, (2.228, 3.169)), (29, (2.045, 2.756)), (120, (1.980, 2.617))),
    ],
)
def test_student_s_t_as_in_tables(freedom, both):
    found = t_quantile(freedom), t_quantile(freedom, 0.99)
    assert found == pytest.approx(both, abs=5e-4)


def test_difference_against_all_draws():
    a, b = [1, 0, 1, 1, 1], [0, 0, 1, 0, 1]
    draws = itertools.product([x - y for x, y in zip(a, b, strict=True)], repeat=5)
    low, high = outer_points([sum(draw) / 5 for draw in draws])
    assert difference(a, b, samples=20_000) == pytest.approx((0.4, low, high))
    assert difference(b, a)[0] == pytest.approx(-0.4)
    assert difference([1, 1], [1, 1]) == (0.0, 0.0, 0.0)
    assert difference([1], [0]) == (1.0, None, None)
    assert difference([], []) is None
    with pytest.raises(ValueError, match="one length"):
        difference([1], [])


def test_intervals_hold_what_they_promise():
    """Of 200 drawn experiments, about 95 % of the intervals hold the true difference."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        a, b = rng.random(80) < 0.7, rng.random(80) < 0.5
        _, low, high = difference(a.astype(float), b.astype(float), samples=400)
        held += low <= 0.2 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_intervals_of_geometric_ratios_hold_what_they_promise():
    """Of 400 drawn runs of eight groups, about 95 % of the intervals hold the true ratio."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        _, low, high = geometric_ratio(*np.exp(rng.normal((np.log(3), 0), 0.3, (8, 2)).T))
        held += low <= 3 <= high
    assert 0.93 <= held / 400 <= 0.97


def test_equal_input_gives_equal_output_whatever_the_portions(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 300))
    first = bootstrap_ratio(a, b), difference(a, b), paired_test(a, b)
    assert (bootstrap_ratio(a, b), difference(a, b), paired_test(a, b)) == first
    assert bootstrap_ratio(a, b, seed=1) != first[0]
    monkeypatch.setattr("rmas.evaluation.statistics._CELLS", 1000)
    assert bootstrap_ratio(a, b) == pytest.approx(first[0], rel=0.01)


def scores(both, only_a, only_b, neither):
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, Fraction(1)),
        (1, 0, Fraction(1)),
        (6, 0, Fraction(2, 64)),
        (2, 8, Fraction(2 * (1 + 10 + 45), 1024)),
        (5, 5, Fraction(1)),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    assert paired_test(*scores(3, only_a, only_b, 4)) == float(p)
    assert paired_test(*scores(30, only_b, only_a, 0)) == float(p)


def test_mcnemar_of_many_questions_is_exact_and_finite():
    more, fewer = 2600, 2400
    tail = sum(math.comb(5000, k) for k in range(fewer + 1))
    assert paired_test(*scores(0, more, fewer, 0)) == 2 * tail / 2**5000
    assert 0 <= paired_test(*scores(0, 3000, 0, 0)) < 1e-300


def test_sign_flips_against_all_signs():
    a, b = [0.5, 1.0, 0.25, 0.75, 0.0, 1.0], [0.25, 0.5, 0.25, 1.0, 0.0, 0.25]
    gaps = [Fraction(x) - Fraction(y) for x, y in zip(a, b, strict=True) if x != y]
    sums = [
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    p = Fraction(sum(s >= abs(sum(gaps)) for s in sums), len(sums))
    assert paired_test(a, b) == float(p)


def test_rounding_of_means_is_no_difference():
    third = (1 + 0 + 0) / 3
    assert paired_test([third, 0.1 + 0.2], [1 - 2 / 3, 0.3]) == 1.0


def test_random_signs_come_near_mcnemar():
    """With half scores the two tests ask the same: 24 against 8 questions of one size."""
    a, b = scores(10, 24, 8, 10)
    exact = paired_test(a, b)
    halves = [0.5 * x for x in a], [0.5 * x for x in b]
    assert paired_test(*halves) == pytest.approx(exact, abs=0.003)
    assert paired_test(*halves) == paired_test(*halves)
    assert paired_test([0.5] * 40, [0.0] * 40) == 1 / 10_001  # never 0


def test_no_units_have_no_p():
    assert paired_test([], []) is None
    with pytest.raises(ValueError, match="one length"):
        paired_test([1], [1, 0])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 1 - 0.1170, 1.0),
    ],
)
def test_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_ends_of_intervals_are_exact_and_nothing_seen_says_nothing():
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_more_confidence_is_wider():
    low, high = wilson(50, 100)
    wider = wilson(50, 100, confidence=0.99)
    assert wider[0] < low < high < wider[1]


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, -1), (float("nan"), 2)])
def test_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="within 0 and n"):
        wilson(successes, n)


def test_pass_at_k_is_the_share_of_sets_with_a_right_answer():
    for n in range(1, 8):
        for correct in range(n + 1):
            right = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                sets = list(itertools.combinations(right, k))
                share = sum(map(any, sets)) / len(sets)
                assert pass_at_k(n, correct, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_impossible_pass_at_k(n, correct, k):
    with pytest.raises(ValueError, match="k must lie in"):
        pass_at_k(n, correct, k)
