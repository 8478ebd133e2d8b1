import itertools

import pytest

from rmas.tasks.passk import pass_at_k


def test_the_estimate_is_the_share_of_sets_with_a_right_answer():
    for n in range(1, 8):
        for correct in range(n + 1):
            right = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                sets = list(itertools.combinations(right, k))
                share = sum(map(any, sets)) / len(sets)
                assert pass_at_k(n, correct, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_refused(n, correct, k):
    with pytest.raises(ValueError, match="k must lie in"):
        pass_at_k(n, correct, k)
