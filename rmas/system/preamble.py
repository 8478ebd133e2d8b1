"""Preambles: what stands in a prompt before its first slot, the same text in all rounds.

Neither the messages nor the round change a preamble's keys, values and recurrent states. So they
are computed once, and every turn reads them as the past of the rest of its prompt. Under
differentiation with respect to links they are constants.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import struct

from rmas import models
from rmas.models import ModelSpec, Segment
from rmas.shapes import Array, Params
from rmas.system.encode import Encoded, Slot, fill
from rmas.system.turn import Prompt, SystemSpec

LEAST = 16
"""Shorter preambles are read again in every turn: a call of their own would gain nothing."""

Pasts = Mapping[str, tuple[Segment, ...]]
"""By agent, the cache's segments that its turns continue; agents without a preamble are absent."""


@struct.dataclass
class Preamble:
    """Preambles of one agent's rows as left-padded arrays; a row may have none."""

    ids_BT: Array
    valid_BT: Array


@struct.dataclass
class Prompts:
    """All agents' prompts.

    Attributes:
      preambles: of agents that have them, `[B, T]`.
      rest: what follows them in each round, `[R, B, T]`.
    """

    preambles: dict[str, Preamble]
    rest: dict[str, Prompt]


ROW_AXES: Any = Prompts(preambles=0, rest=1)  # type: ignore[arg-type]  # axes instead of arrays
"""The axes of the rows in `Prompts`, as `parallel.put_batch` reads them."""


def preamble_ids(prompts: Sequence[Encoded]) -> tuple[int, ...]:
    """The ids with which all of some prompts begin, before any slot.

    At least one position of each prompt is left to be read after them.
    """
    begins = [_before_slot(encoded) for encoded in prompts]
    shared = 0
    for own in zip(*begins, strict=False):
        if len(set(own)) > 1:
            break
        shared += 1
    # Slots may be empty.
    fewest = min(len(fill(encoded, lambda source: ())) for encoded in prompts)
    return tuple(begins[0][: min(shared, max(fewest - 1, 0))])


def _before_slot(encoded: Encoded) -> list[int]:
    """The ids before a prompt's first slot."""
    runs = itertools.takewhile(lambda run: not isinstance(run, Slot), encoded)
    return [i for run in runs if not isinstance(run, Slot) for i in run]


def read(
    model: ModelSpec,
    params: Params,
    preamble: Preamble,
    past: tuple[Segment, ...] = (),
    remat: bool = False,
) -> Segment:
    """The cache after preambles that continue `past`, as one segment with it."""
    x_BTD = models.embed(model, params, preamble.ids_BT)
    _, own = models.prefill(model, params, x_BTD, preamble.valid_BT, remat=remat, past=past)
    return models.join((*past, own))


def read_all(
    spec: SystemSpec, params: Mapping[str, Params], preambles: Mapping[str, Preamble]
) -> Pasts:
    """The caches after the preambles of all agents that have them.

    Where weights are trained, reverse mode computes them again.
    """

    def one(agent: str, own: Preamble) -> Segment:
        model = spec.model(agent)
        return jax.checkpoint(lambda p: read(model, p, own, remat=spec.remat))(params[agent])

    return {agent: (one(agent, own),) for agent, own in preambles.items()}
