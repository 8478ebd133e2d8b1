"""Text exchange: the same agents and edges with decoded text in the slots.

The honest baseline of latent recursion, on the same models, prompts, caches and decode loop. An
agent reads the texts that its edges bring, cut to what its context leaves, and what it writes goes
along its own edges (what its tools gave back stays with it); the output agent's last text is the
answer. A single agent is the
topology of one.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from rmas.models import ModelSpec
from rmas.parallel import put_batch, use, whole_batch
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.answers import Answer, Limits, Question, row_names
from rmas.system.batch import Line, line, stack
from rmas.system.clock import Clock
from rmas.system.encode import fill
from rmas.system.rendered import Renderer
from rmas.system.topology import Edge
from rmas.system.turn import Prompt, inputs
from rmas.system.writing import Written

WriteTurn = Callable[[str, int, decode.DecodeState, list[str], int, bool], list[Written]]
"""`write(agent, k, state, names, limit, final)`: an agent's text in round k from its prefilled
prompt, per row; `final` marks the answer."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def read(model: ModelSpec, size: int, params: Params, prompt: Prompt) -> decode.DecodeState:
    """Prefill of a prompt of tokens."""
    x_BTD = inputs(model, params, prompt, ())
    return decode.start(model, params, x_BTD, prompt.valid_BT, size)


def exchange(
    renderer: Renderer,
    limits: Limits,
    write: WriteTurn,
    questions: Sequence[Question],
    rounds: int,
    batch: int,
    rollout_index: int,
    clock: Clock,
) -> list[Answer]:
    """All turns of all rounds; every text is in the answers."""
    topology = renderer.system.topology
    mesh = renderer.system.mesh
    rows = whole_batch(mesh, batch)
    answers = [Answer.blank(topology) for _ in questions]
    fed: dict[Edge, list[Written]] = {}
    for k in range(rounds):
        sent, out = dict(fed), {}
        for agent in topology.agents:
            final = k == rounds - 1 and agent == topology.output
            limit = limits.tokens(agent, final)
            inbox = {e.src: sent[e] for e in topology.incoming(agent) if e in sent}
            with clock.phase("render") as made:
                lines = _lines(renderer, agent, questions, k, inbox, limit)
                prompt = _stacked(lines, rows, mesh)
                made.append(prompt)
            with use(mesh), clock.phase("read") as made:
                own = renderer.system.agents[agent]
                state = read(own.model, decode.room(limit), own.params, prompt)
                made.append(state)
            names = row_names(questions, rows, rollout_index, f"{agent}/{k}")
            wrote = write(agent, k, state, names, limit, final)
            for answer, own, row in zip(answers, wrote, lines, strict=False):
                answer.counts[agent]["prompt_tokens"] += len(row)
                answer.counts[agent]["positions"] += len(row)
                answer.add(agent, k, own)
            for e in topology.outgoing(agent):
                (sent if e.when == "round" else out)[e] = wrote
            if final:
                for answer, own in zip(answers, wrote, strict=False):
                    answer.finish(own)
                return answers
        fed = out
    raise AssertionError("the output agent writes in the last round")


def _lines(renderer, agent, questions, k, inbox: dict[str, list[Written]], limit) -> list[Line]:
    chat = renderer.system.agents[agent].chat
    lines = []
    context = renderer.system.agents[agent].model.max_positions
    for b, q in enumerate(questions):
        encoded = renderer.asked(agent, q, k)
        texts = {src: chat.data_ids(own[b].text) for src, own in inbox.items()}
        room = context - limit - len(fill(encoded, lambda src: ()))
        if sum(map(len, texts.values())) > room > 0:
            texts = {src: ids[: room // len(texts)] for src, ids in texts.items()}
        ids = fill(encoded, texts.__getitem__)
        renderer.check_context(agent, q.text, len(ids) + limit)
        lines.append(line([ids], (), 0))
    return lines


def _stacked(lines: list[Line], rows: int, mesh: Mesh) -> Prompt:
    """Prompts as arrays on the devices, filled up to so many rows."""
    prompt = stack([[*lines, *[Line((), ())] * (rows - len(lines))]])
    return put_batch(mesh, jax.tree.map(lambda x: x[0], prompt), axis=0)
