"""Chains of operations: every line of a question needs all agents, and the line before it.

  start 4 ; one add 14 mul 6 mix 10 ; two add 3 mul 2 mix 1 ; three add 0 mul 16 mix 5 ; stop two ?

In the relay the planner knows `add`, the critic `mul`, the solver `mix` (a secret permutation
per argument). An agent does one operation of one line and passes the value on; after the `stop`
line agents copy it. The chain is the same with five agents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmas.tasks.puzzle import P, Part, Puzzle, Turn


@dataclass(frozen=True)
class Chain(Puzzle):
    """Agents in a row; the last one passes its value back to the first."""

    def turns(self, before: Sequence[Turn], start: int, rng: np.random.Generator) -> Sequence[Turn]:
        """Each role continues from the value of the role before it."""
        value = before[-1].result if before else start
        turns: list[Turn] = []
        for part in self.parts:
            turns.append(Turn(part, value, int(rng.integers(part.smallest, P))))
            value = turns[-1].result
        return turns

    def reader(self, part: Part) -> str:
        """The next role in the row reads its text."""
        return self.roles[(self.parts.index(part) + 1) % len(self.parts)]


RELAY = Chain(
    "relay",
    (
        Part("planner", "add", "sum"),
        Part("critic", "mul", "product", smallest=1),
        Part("solver", "mix", "mix"),
    ),
    lines=3,
)
"""Three roles, three lines."""

CHAIN = Chain(
    "chain",
    (
        Part("adder", "add", "sum"),
        Part("multiplier", "mul", "product", smallest=1),
        Part("mixer", "mix", "mix"),
        Part("subtractor", "sub", "difference"),
        Part("reverser", "rev", "reverse"),
    ),
    lines=2,
)
"""Five roles, two lines."""
