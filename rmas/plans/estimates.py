"""How long programs take by the TPU compiler's cycles, and what these leave out."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from rmas.models import PREFILL
from rmas.plans import hlo
from rmas.system.turn import LATENT_STEPS

Scope = tuple[str, str]
"""An agent, and `PREFILL` or `LATENT_STEPS`; empty where an operation belongs to neither."""
_NONE: Scope = ("", "")


@dataclasses.dataclass(frozen=True)
class Exchanges:
    """What devices send each other in one run of a program, which no estimate counts.

    Attributes:
      calls: number of collectives.
      bytes: of their results on one device, in all.
    """

    calls: int
    bytes: int


def exchanges(text: str, unknown: int = 1) -> Exchanges:
    """The collectives of a compiled program; `unknown` as in `hlo.runs`."""
    found = [(hlo.runs(c.loops, unknown), c.bytes) for c in hlo.collectives(text)]
    return Exchanges(sum(n for n, _ in found), sum(n * size for n, size in found))


def by_scope(text: str, agents: Sequence[str]) -> dict[Scope, int]:
    """All estimated cycles of a program by agent and part of its turn.

    Operations that the compiler made itself have no scope; inside of loops they count where most
    of the loop's operations do.
    """
    found: Counter[Scope] = Counter()
    for nest in hlo.cycles(text):
        own: Counter[Scope] = Counter()
        for operation in nest.operations:
            own[_scope(operation.source, agents)] += operation.cycles
        if nest.loops and (inside := {scope: n for scope, n in own.items() if scope != _NONE}):
            most = max(inside, key=lambda scope: inside[scope])
            own[most] += own.pop(_NONE, 0)
        times = hlo.runs(nest.loops)
        for scope, n in own.items():
            found[scope] += n * times
    return dict(found)


def per_token(text: str) -> int:
    """Estimated cycles of one token of a decode chunk: of one passage through its loop."""
    total = 0
    for nest in hlo.cycles(text):
        if nest.loops:
            total += nest.once * hlo.runs(nest.loops[1:])
    return total


def _scope(source: str, agents: Sequence[str]) -> Scope:
    words = source.replace("(", "/").replace(")", "/").split("/")
    agent = next((word for word in words if word in agents), "")
    part = next((part for part in (LATENT_STEPS, PREFILL) if part in words), "")
    return (agent, part) if agent and part else _NONE
