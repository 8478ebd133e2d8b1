import pytest

from rmas.evaluation.intervals import wilson


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
def test_published_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_ends_are_exact_and_nothing_seen_says_nothing():
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
