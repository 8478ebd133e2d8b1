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
      seconds: None where they are not known.
    """

    params: Params
    segment: Segment
    run: object
    seconds: float | None


@dataclasses.dataclass(eq=False)
class PreambleCache:
    """Keys, values and states after preambles, as long as the same questions are being answered.

    Attributes:
      shared: whether runs use what others have read. Each is charged with the seconds that it took
        to read, so that times of methods do not depend on which of them came first; what took
        unknown seconds is read again.
      limit: the most bytes of one device that are kept; what exceeds it is read again.
    """

    shared: bool = False
    limit: int = BYTES
    _asked: frozenset[str] = frozenset()
    _begins: dict[tuple[int, _Ids], tuple[Params, Segment]] = dataclasses.field(
        default_factory=dict
    )
    _rows: dict[tuple[int, tuple[_Ids, ...]], _Kept] = dataclasses.field(default_factory=dict)

    def asking(self, questions: Iterable[Question]) -> None:
        """A run begins, which asks these questions; what only others asked is forgotten."""
        asked = frozenset(question.text for question in questions)
        if not self.shared or not asked <= self._asked:
            self._rows.clear()
            self._asked = asked

    def read(
        self, renderer: Renderer, agent: str, rows: Sequence[_Ids], clock: Clock, again: bool
    ) -> tuple[Segment, ...]:
        """What follows the preambles of a batch's rows continues this; nothing if none has one.

        `clock` gets the seconds of the phase `preamble`; `again` says whether the run will ask for
        them once more.
        """
        if not any(rows):
            return ()
        params = renderer.system.agents[agent].params
        key = (id(params), tuple(rows))
        kept = self._rows.get(key)
        if kept is not None and kept.run is clock.run:
            return (kept.segment,)
        if kept is not None and kept.seconds is not None:
            kept.run = clock.run
            clock.charge("preamble", kept.seconds)
            return (kept.segment,)
        self._rows.pop(key, None)
        seconds = None
        if self.shared:
            segment, seconds = clock.timed("preamble", lambda: self._read(renderer, agent, rows))
        else:
            segment = self._read(renderer, agent, rows)
            clock.queue("preamble", segment.valid_BS)
        if self.shared or again:
            held = sum(_bytes(own.segment) for own in self._rows.values())
            if held + _bytes(segment) <= self.limit:
                self._rows[key] = _Kept(params, segment, clock.run, seconds)
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
