"""Text exchange: the same agents and edges with decoded text in the slots.

This is the baseline of latent recursion, on the same models, prompts, caches and decode loop. An
agent reads the texts that its edges bring, cut to what its context leaves, and sends what it writes
along its own edges, without the results of its tools. The output agent's last text is the answer.
A single agent is a topology of one.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import jax

from rmas.models import ModelSpec, Segment
from rmas.parallel import put_batch, use, whole_batch
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.answers import Answer, Limits, Question
from rmas.system.batch import EMPTY, Line, stack
from rmas.system.clock import Clock
from rmas.system.decode import DecodeState
from rmas.system.encode import fill
from rmas.system.preamble_cache import PreambleCache
from rmas.system.rendered import Renderer
from rmas.system.topology import Edge
from rmas.system.turn import Prompt, inputs
from rmas.system.writing import Written

Begun = tuple[DecodeState, Sequence[Question]]
"""A batch whose prompts are prefilled, and the questions that its first rows belong to."""


class WriteTurn(Protocol):
    """Writes an agent's texts of round `k` (from 0), in batches as they are prefilled.

    `turn` names the turn for random keys, `final` marks the answer.
    """

    def __call__(
        self, agent: str, k: int, batches: Iterable[Begun], *, turn: str, final: bool
    ) -> list[Written]:
        """See the class."""


@functools.partial(jax.jit, static_argnums=0)
def read(
    model: ModelSpec, params: Params, prompt: Prompt, past: tuple[Segment, ...]
) -> DecodeState:
    """Prefills a prompt of tokens that continues `past` (`decode.start`)."""
    x_BTD = inputs(model, params, prompt, ())
    return decode.start(model, params, x_BTD, prompt.valid_BT, past)


def exchange(
    renderer: Renderer,
    preambles: PreambleCache,
    limits: Limits,
    write: WriteTurn,
    questions: Sequence[Question],
    *,
    rounds: int,
    batch: int,
    clock: Clock,
) -> list[Answer]:
    """Runs all turns of all rounds; the answers hold every text.

    Raises `InputError` for a question that is too long for an agent's context.
    """
    topology = renderer.system.topology
    rows = whole_batch(renderer.system.mesh, batch)
    answers = [Answer.blank(topology) for _ in questions]
    feedback: dict[Edge, list[Written]] = {}
    for k in range(rounds):
        sent = dict(feedback)
        next_feedback: dict[Edge, list[Written]] = {}
        for name in topology.agents:
            final = k == rounds - 1 and name == topology.output
            inbox = {e.src: sent[e] for e in topology.incoming(name) if e in sent}
            limit = limits.tokens(name, final)
            turn = _Turn(renderer, preambles, name, k, rounds, limit, inbox, rows, clock)
            wrote = write(name, k, turn.read(questions, answers), turn=f"{name}/{k}", final=final)
            for answer, text in zip(answers, wrote, strict=True):
                answer.add(name, k, text)
            for e in topology.outgoing(name):
                (sent if e.when == "round" else next_feedback)[e] = wrote
            if final:
                for answer, text in zip(answers, wrote, strict=True):
                    answer.finish(text)
                return answers
        feedback = next_feedback
    raise AssertionError("the output agent writes in the last round")


@dataclasses.dataclass(frozen=True)
class _Turn:
    """What an agent reads in round `k` (from 0); `inbox` holds all texts of each sender."""

    renderer: Renderer
    preambles: PreambleCache
    name: str
    k: int
    rounds: int
    limit: int
    inbox: Mapping[str, list[Written]]
    rows: int
    clock: Clock

    def read(self, questions: Sequence[Question], answers: Sequence[Answer]) -> Iterator[Begun]:
        """Batches, each rendered and prefilled when it is taken; counts them in `answers`."""

        def batch(start: int) -> Begun:
            of = slice(start, start + self.rows)
            return self._batch(of, questions[of], answers[of]), questions[of]

        # A generator would keep a batch's cache until it is asked for the next one.
        return map(batch, range(0, len(questions), self.rows))

    def _batch(
        self, of: slice, questions: Sequence[Question], answers: Sequence[Answer]
    ) -> DecodeState:
        system = self.renderer.system
        agent = system.agents[self.name]
        with self.clock.phase("render"):
            inbox = {src: wrote[of] for src, wrote in self.inbox.items()}
            lines = _lines(self.renderer, self.name, questions, self.k, inbox, self.limit)
            for answer, row in zip(answers, lines, strict=True):
                answer.read(self.name, len(row), reused=row.preamble if self.k else 0)
            lines += [EMPTY] * (self.rows - len(lines))
            prompt = jax.tree.map(lambda x: x[0], stack([[row.rest for row in lines]]))
            prompt = put_batch(system.mesh, prompt, axis=0)
        begun = [row.ids[: row.preamble] for row in lines]
        again = self.k + 1 < self.rounds
        past = self.preambles.read(self.renderer, self.name, begun, self.clock, again)
        with use(system.mesh):
            state = read(agent.model, agent.params, prompt, past)
        self.clock.queue("read", state.logits_BV)
        return state


def _lines(
    renderer: Renderer,
    name: str,
    questions: Sequence[Question],
    k: int,
    inbox: Mapping[str, list[Written]],
    limit: int,
) -> list[Line]:
    """An agent's prompts of round `k` (from 0), one per question; `inbox` is by sender."""
    agent = renderer.system.agents[name]
    lines = []
    for b, q in enumerate(questions):
        encoded = renderer.asked(name, q, k)
        texts = {src: agent.chat.data_ids(wrote[b].text) for src, wrote in inbox.items()}
        space = agent.model.max_positions - limit - len(fill(encoded, lambda src: ()))
        if sum(map(len, texts.values())) > space > 0:
            texts = {src: ids[: space // len(texts)] for src, ids in texts.items()}
        ids = fill(encoded, texts.__getitem__)
        renderer.check_context(name, q.text, len(ids) + limit)
        lines.append(Line.of_tokens(ids, renderer.preamble(name, q)))
    return lines
