"""All-pairs combinations: few of them, so that any two values of two factors meet in one."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Combination = dict[str, Any]
Allowed = Callable[[Combination], bool]


def combinations(
    factors: Mapping[str, Sequence[Any]], allowed: Allowed = lambda _: True
) -> list[Combination]:
    """Combinations that cover every pair of values of two factors, unless none may have it.

    Greedy and deterministic: each combination starts from the first pair that is left, and then
    picks, a factor at a time, the value with the most new pairs.

    Args:
      factors: name -> its values; the first is the simplest.
      allowed: whether values may meet; it is asked about combinations that lack some factors, too,
        and what it refuses then it must refuse whatever is added.
    """
    values = {name: range(len(own)) for name, own in factors.items()}
    left = dict.fromkeys(pairs_of(values))
    found = []

    def may(chosen: dict[str, int]) -> bool:
        return allowed({name: factors[name][n] for name, n in chosen.items()})

    def new(chosen: dict[str, int], name: str, n: int) -> int:
        return sum(_pair(item, (name, n)) in left for item in chosen.items())

    def complete(chosen: dict[str, int]) -> dict[str, int] | None:
        name = next((name for name in factors if name not in chosen), None)
        if name is None:
            return chosen
        for n in sorted(values[name], key=lambda n: (-new(chosen, name, n), n)):
            more = chosen | {name: n}
            whole = complete(more) if may(more) else None
            if whole:
                return whole
        return None

    while left:
        seed = next(iter(left))
        whole = complete(dict(seed)) if may(dict(seed)) else None
        if whole is None:  # nothing may have this pair
            del left[seed]
            continue
        for pair in itertools.combinations(whole.items(), 2):
            left.pop(_pair(*pair), None)
        found.append({name: factors[name][whole[name]] for name in factors})
    return found


def pairs_of(factors: Mapping[str, Sequence[Any]]) -> list[frozenset[tuple[str, Any]]]:
    """Every pair of values of two factors."""
    return [
        _pair((one, a), (other, b))
        for one, other in itertools.combinations(factors, 2)
        for a, b in itertools.product(factors[one], factors[other])
    ]


def _pair(one: tuple[str, Any], other: tuple[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset((one, other))
