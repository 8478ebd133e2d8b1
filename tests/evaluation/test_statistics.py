import itertools
import random

import pytest

from rmas.evaluation.statistics import bootstrap_difference, bootstrap_ratio, paired_test


def test_a_ratio_of_sums_and_its_interval():
    assert bootstrap_ratio([2.0] * 9, [1.0] * 9) == (2.0, 2.0, 2.0)
    rng = random.Random(0)
    below = [rng.uniform(1, 3) for _ in range(400)]
    above = [2 * b + rng.gauss(0, 0.5) for b in below]
    ratio, low, high = bootstrap_ratio(above, below)
    assert ratio == pytest.approx(sum(above) / sum(below))
    # The delta method: the spread of the residuals over the sum below.
    residuals = [a - ratio * b for a, b in zip(above, below, strict=True)]
    error = sum(r * r for r in residuals) ** 0.5 / sum(below)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert bootstrap_ratio(above, below) == (ratio, low, high)


def test_intervals_cover_what_they_should():
    rng, covered = random.Random(1), 0
    for seed in range(200):
        d = [rng.gauss(0.3, 1) for _ in range(60)]
        _, low, high = bootstrap_difference(d, [0.0] * 60, samples=400, seed=seed)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 198


def test_nothing_to_compare():
    assert bootstrap_ratio([1.0], [0.0]) is None
    assert bootstrap_ratio([], []) is None
    assert bootstrap_difference([], []) is None
    assert paired_test([], []) == 1.0
    with pytest.raises(ValueError, match="paired"):
        bootstrap_ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="paired"):
        paired_test([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("better", "worse", "same", "p"),
    [(0, 0, 9, 1.0), (5, 0, 3, 0.0625), (0, 5, 3, 0.0625), (8, 2, 0, 0.109375), (3, 3, 1, 1.0)],
)
def test_mcnemar_by_hand(better, worse, same, p):
    one = [1.0] * better + [0.0] * worse + [1.0] * same
    other = [0.0] * better + [1.0] * worse + [1.0] * same
    assert paired_test(one, other) == pytest.approx(p)


def test_random_signs_come_near_all_signs():
    one, other = [0.9, 0.7, 0.4, 0.8, 0.6, 1.0, 0.3], [0.5, 0.6, 0.5, 0.3, 0.1, 0.2, 0.2]
    d = [a - b for a, b in zip(one, other, strict=True)]
    signs = itertools.product((-1, 1), repeat=len(d))
    exact = [
        abs(sum(s * x for s, x in zip(row, d, strict=True))) >= abs(sum(d)) - 1e-12 for row in signs
    ]
    assert paired_test(one, other) == pytest.approx(sum(exact) / len(exact), abs=0.01)
