"""Text exchange: the same agents and edges with decoded text in the slots.

This is the baseline of latent recursion, on the same models, prompts, caches and decode loop. An
agent reads the texts that its edges bring, cut to what its context leaves, and sends what it writes
along its own edges, without the results of its tools. The output agent's last text is the answer.
A single agent is a topology of one.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax

from rmas.models import ModelSpec, Segment
from rmas.parallel import put_batch, use, whole_batch
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.answers import Answer, Limits, Question, row_names
from rmas.system.batch import EMPTY, Line, stack
from rmas.system.clock import Clock
from rmas.system.decode import DecodeState
from rmas.system.encode import fill
from rmas.system.preamble_cache import PreambleCache
from rmas.system.rendered import Renderer
from rmas.system.topology import Edge
from rmas.system.turn import Prompt, inputs
from rmas.system.writing import Written


class WriteTurn(Protocol):
    """Writes an agent's texts of round `k` (from 0), one per row, from its prefilled prompt.

    `names` are the rows' names for random keys, `limit` is the most tokens of a text, `final`
    marks the answer.
    """

    def __call__(
        self,
        agent: str,
        k: int,
        state: DecodeState,
        *,
        names: list[str],
        limit: int,
        final: bool,
    ) -> list[Written]:
        """See the class."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def read(
    model: ModelSpec, size: int, params: Params, prompt: Prompt, past: tuple[Segment, ...]
) -> DecodeState:
    """Prefills a prompt of tokens after `past`; its cache can hold `size` more (`decode.start`)."""
    x_BTD = inputs(model, params, prompt, ())
    return decode.start(model, params, x_BTD, prompt.valid_BT, size, past)


def exchange(
    renderer: Renderer,
    limits: Limits,
    write: WriteTurn,
    preambles: PreambleCache,
    questions: Sequence[Question],
    *,
    rounds: int,
    batch: int,
    rollout_index: int,
    clock: Clock,
) -> list[Answer]:
    """Runs all turns of all rounds; the answers hold every text.

    Raises `InputError` for a question that is too long for an agent's context.
    """
    system = renderer.system
    topology, mesh = system.topology, system.mesh
    rows = whole_batch(mesh, batch)
    answers = [Answer.blank(topology) for _ in questions]
    preambles.asking(questions)
    feedback: dict[Edge, list[Written]] = {}
    for k in range(rounds):
        sent = dict(feedback)
        next_feedback: dict[Edge, list[Written]] = {}
        for name in topology.agents:
            agent = system.agents[name]
            final = k == rounds - 1 and name == topology.output
            limit = limits.tokens(name, final)
            inbox = {e.src: sent[e] for e in topology.incoming(name) if e in sent}
            with clock.phase("render") as made:
                lines = _lines(renderer, name, questions, k, inbox, limit)
                lines += [EMPTY] * (rows - len(lines))
                prompt = jax.tree.map(lambda x: x[0], stack([[line.rest for line in lines]]))
                prompt = put_batch(mesh, prompt, axis=0)
                made.append(prompt)
            with clock.phase("preamble") as made:
                begun = [line.ids[: line.preamble] for line in lines]
                past = preambles.read(renderer, name, begun)
                made.append(past)
            with use(mesh), clock.phase("read") as made:
                state = read(agent.model, decode.tail_size(limit), agent.params, prompt, past)
                made.append(state)
            names = row_names(questions, rows, rollout_index, f"{name}/{k}")
            wrote = write(name, k, state, names=names, limit=limit, final=final)
            for answer, text, row in zip(answers, wrote, lines, strict=False):
                answer.read(name, len(row), reused=row.preamble if k else 0)
                answer.add(name, k, text)
            for e in topology.outgoing(name):
                (sent if e.when == "round" else next_feedback)[e] = wrote
            if final:
                for answer, text in zip(answers, wrote, strict=False):
                    answer.finish(text)
                return answers
        feedback = next_feedback
    raise AssertionError("the output agent writes in the last round")


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
