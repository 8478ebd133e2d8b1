"""The generator of all-pairs combinations."""

import itertools

import pytest

from support.pairwise import combinations, pairs_of


def covered(found):
    return {
        frozenset(pair)
        for combination in found
        for pair in itertools.combinations(combination.items(), 2)
    }


def test_all_pairs_of_free_factors():
    factors = {"a": (1, 2, 3, 4), "b": (1, 2, 3), "c": (True, False), "d": ("x", "y", "z")}
    found = combinations(factors)
    assert covered(found) == set(pairs_of(factors))
    assert len(found) <= 14  # 12 at least, 72 in all
    assert found == combinations(factors)
    assert found[0]["a"] == 1


@pytest.mark.parametrize(("sizes", "most"), [((2,) * 12, 14), ((5, 4, 4, 3, 3, 2, 2, 2), 24)])
def test_few_combinations(sizes, most):
    factors = {f"f{n}": tuple(range(size)) for n, size in enumerate(sizes)}
    found = combinations(factors)
    assert covered(found) == set(pairs_of(factors))
    assert len(found) <= most


def test_what_may_not_meet_is_left_out_and_nothing_else():
    factors = {"a": (0, 1, 2), "b": (0, 1, 2), "c": (0, 1), "d": (0, 1)}

    def allowed(chosen):
        # a=2 needs b=0, which needs c=1: so a=2 and c=0 never meet, though no rule names both.
        if chosen.get("a") == 2 and chosen.get("b", 0) != 0:
            return False
        return not (chosen.get("b") == 0 and chosen.get("c", 1) != 1)

    found = combinations(factors, allowed)
    whole = (dict(zip(factors, v, strict=True)) for v in itertools.product(*factors.values()))
    assert covered(found) == covered(filter(allowed, whole))
    assert all(map(allowed, found))
