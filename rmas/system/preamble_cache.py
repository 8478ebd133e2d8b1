"""Preambles that were read, kept for the rounds, rollouts and methods that ask the same questions.

What all questions of an agent begin with (its system text, and what stands before the question) is
read once, as a single row. What each question adds is read once a batch, and kept as long as these
questions are being answered.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from rmas import models
from rmas.models import ModelSpec, Segment
from rmas.parallel import put_batch, put_whole, replicated, use
from rmas.shapes import Array, Params
from rmas.system.answers import Question
from rmas.system.batch import stack_preambles
from rmas.system.clock import Clock
from rmas.system.load import Agent
from rmas.system.preamble import Preamble, read
from rmas.system.rendered import Renderer

BYTES = 1 << 30
"""The most bytes of one device that a cache keeps between calls."""

_Ids = tuple[int, ...]


@functools.partial(jax.jit, static_argnums=0)
def _read_one(model: ModelSpec, params: Params, preamble: Preamble) -> Segment:
    return read(model, params, preamble)


@functools.partial(jax.jit, static_argnums=0)
def _read_rows(
    model: ModelSpec,
    params: Params,
    shared: Segment | None,
    begins_B: Array,
    own: Preamble | None,
) -> Segment:
    """The cache after the rows' preambles; rows of `begins_B` begin with what is shared."""
    past = () if shared is None else (models.spread(shared, begins_B),)
    return models.join(past) if own is None else read(model, params, own, past)


@dataclasses.dataclass(eq=False)
class _Kept:
    """What was read of a batch; `params` are held so that their id stays theirs.

    Attributes:
      run: the last one (`Clock.run`) that has spent, or was charged with, its seconds.
    """

    params: Params
    segment: Segment
    run: object
    seconds: float = 0.0

    def took(self, seconds: float) -> None:
        """Says how long it took to read."""
        self.seconds = seconds

    def charge(self, clock: Clock) -> None:
        """Charges a run, once."""
        if self.run is not clock.run:
            self.run = clock.run
            clock.charge("preamble", self.seconds)


@dataclasses.dataclass(eq=False)
class PreambleCache:
    """Keys, values and states after preambles, as long as the same questions are being answered.

    Each run that uses a preamble is charged with the seconds that it took to read, so that times
    of methods do not depend on which of them came first.

    Attributes:
      limit: the most bytes of one device that are kept; what exceeds it is read again.
    """

    limit: int = BYTES
    _asked: frozenset[str] = frozenset()
    _begins: dict[tuple[int, _Ids], tuple[Params, Segment]] = dataclasses.field(
        default_factory=dict
    )
    _rows: dict[tuple[int, tuple[_Ids, ...]], "_Kept"] = dataclasses.field(default_factory=dict)

    def asking(self, questions: Iterable[Question]) -> None:
        """Says which questions are answered next; what others asked is forgotten."""
        asked = frozenset(question.text for question in questions)
        if not asked <= self._asked:
            self._rows.clear()
            self._asked = asked

    def read(
        self, renderer: Renderer, agent: str, rows: Sequence[_Ids], clock: Clock
    ) -> tuple[Segment, ...]:
        """What follows the preambles of a batch's rows continues this; nothing if none has one.

        `clock` gets the seconds of the phase `preamble`.
        """
        if not any(rows):
            return ()
        params = renderer.system.agents[agent].params
        key = (id(params), tuple(rows))
        if (kept := self._rows.get(key)) is not None:
            kept.charge(clock)
            return (kept.segment,)
        segment = self._read(renderer, agent, rows)
        kept = _Kept(params, segment, clock.run)
        clock.queue("preamble", segment.valid_BS, took=kept.took)
        if sum(_bytes(own.segment) for own in self._rows.values()) + _bytes(segment) <= self.limit:
            self._rows[key] = kept
        return (segment,)

    def _read(self, renderer: Renderer, name: str, rows: Sequence[_Ids]) -> Segment:
        agent, mesh = renderer.system.agents[name], renderer.system.mesh
        begin = renderer.begin(name)
        begins = np.array([bool(begin) and row[: len(begin)] == begin for row in rows])
        own = [row[len(begin) :] if b else row for row, b in zip(rows, begins, strict=True)]
        preamble = put_batch(mesh, stack_preambles(own)) if any(own) else None
        with use(mesh):
            shared = self._begin(agent, begin) if begins.any() else None
            return _read_rows(agent.model, agent.params, shared, put_batch(mesh, begins), preamble)

    def _begin(self, agent: Agent, begin: _Ids) -> Segment:
        key = (id(agent.params), begin)
        if key not in self._begins:
            one = put_whole(stack_preambles([begin]), replicated(agent.mesh))
            self._begins[key] = agent.params, _read_one(agent.model, agent.params, one)
        return self._begins[key][1]


def _bytes(segment: Segment) -> int:
    """Of one device."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(segment))
