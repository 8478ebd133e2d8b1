"""A debate: two peers who need each other's last value, and a judge who needs both.

  start 4 ; one add 14 mul 6 ; two add 3 mul 2 ; three add 0 mul 16 ; stop two ?

In every line `pro` adds to the value that `con` held before, `con` multiplies the one that `pro`
held before, and the judge mixes the two (a secret permutation of con's value, chosen by pro's).
After the `stop` line all of them copy the judge's value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmas.tasks.puzzle import P, Part, Puzzle, Turn


@dataclass(frozen=True)
class Debate(Puzzle):
    """Two peers and a judge; all agents read their texts."""

    def turns(self, before: Sequence[Turn], start: int, rng: np.random.Generator) -> Sequence[Turn]:
        """Each peer continues from the other's last value, the judge from both new ones."""
        pro, con = (turn.result for turn in before[:2]) if before else (start, start)
        peers = [
            Turn(part, heard, int(rng.integers(part.smallest, P)))
            for part, heard in zip(self.parts[:2], (con, pro), strict=True)
        ]
        return [*peers, Turn(self.parts[2], peers[1].result, peers[0].result)]

    def reader(self, part: Part) -> str:
        """All agents read every text."""
        return "all"


DEBATE = Debate(
    "debate",
    (
        Part("pro", "add", "sum"),
        Part("con", "mul", "product", smallest=1),
        Part("judge", "mix", "mix", from_message=True),
    ),
    lines=3,
)
"""Debates of three lines."""
