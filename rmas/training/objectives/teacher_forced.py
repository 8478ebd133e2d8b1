"""The release's objective: messages are states of teacher texts, the loss is the answer's."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmas.shapes import Array, Params
from rmas.system.batch import Line, line, with_text
from rmas.system.recursion import recurse
from rmas.system.turn import Prompt, inputs, send, teacher_forced, zero_messages
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text, message_round, text_mask
from rmas.training.objectives.base import (
    Lengths,
    LossAndMetrics,
    Objective,
    Probes,
    TrainingContext,
    abstract,
    prompt_positions,
    text_loss,
    turn_data,
    turn_links,
    with_probes,
    zero_text,
)


def prepare(examples: Examples, rows: Sequence[Row]) -> dict[str, Text]:
    """Every agent's prompt and text of every round `[R, B, T]`."""
    topology, states = examples.renderer.system.topology, examples.max_latent_tokens
    # No more states than the sender's own row has text positions.
    longest = min(states, examples.max_length)
    out = {}
    for agent in topology.agents:
        sources = examples.renderer.sources(agent)
        lines: list[list[Line]] = [[] for _ in range(examples.rounds)]
        for k, row in ((k, row) for k in range(examples.rounds) for row in rows):
            lengths = {
                e.src: min(len(examples.text_ids(e.src, row, message_round(e, k))), longest)
                for e in topology.incoming(agent)
                if e.when == "round" or k > 0
            }
            encoded = examples.encoded(agent, row, k)
            whole = line(encoded, sources, states, lengths, examples.text_ids(agent, row, k))
            lines[k].append(examples.fit_line(agent, row, whole))
        prompt = with_text(
            lines, states, shift=examples.shift, length=examples.padded_length(lines)
        )
        out[agent] = Text(prompt, text_mask(lines, prompt))
    return out


def abstract_batch(
    context: TrainingContext, rounds: int, rows: int, lengths: Lengths
) -> dict[str, Text]:
    """The shapes of `prepare`'s arrays, where every text is handed on whole."""
    positions = prompt_positions(context, lengths, lengths.text)

    def batch() -> dict[str, Text]:
        return {
            agent: zero_text(rounds, rows, positions=n + lengths.text, states=lengths.text)
            for agent, n in positions.items()
        }

    return abstract(batch)


def loss(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    batch: dict[str, Text],
    key: Array,
    probes: Probes | None = None,
) -> LossAndMetrics:
    """Cross-entropy of the answer in the last round, and weighted that of earlier rounds."""
    topology, out = context.topology, context.topology.output
    prompts = {agent: text.prompt for agent, text in batch.items()}
    rounds, rows, _ = prompts[out].ids_BT.shape

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Array, ...], data: Any
    ) -> tuple[dict[str, Array], Any]:
        text_BT, own_probes = data

        def checkpointed(
            links: Params, incoming: tuple[Array, ...]
        ) -> tuple[dict[str, Array], Array]:
            links = turn_links(context, links, agent)
            x_BTD = inputs(context.spec.model(agent), params[agent], prompt, incoming)
            z_BMD = teacher_forced(context.spec, params[agent], links, agent, x_BTD, prompt)
            loss_B = jnp.zeros(len(x_BTD))
            if agent == out and context.earlier_rounds:
                loss_B = text_loss(context, agent, params[agent], Text(prompt, text_BT), incoming)
            return send(topology, context.spec, links, agent, z_BMD), loss_B

        return jax.checkpoint(checkpointed)(with_probes(links, own_probes), incoming)

    states_BM = prompts[out].state_index_BM
    assert states_BM is not None, "prompts of teacher forcing name the states of their message"
    zeros = zero_messages(context.spec, links, rows, states_BM.shape[-1])
    masks = {agent: text.text_BT for agent, text in batch.items()}
    incoming, aux = recurse(topology, prompts, turn, zeros, turn_data(context, probes, masks))
    last = jax.tree.map(lambda x: x[-1], batch[out])
    last_loss = jnp.mean(text_loss(context, out, params[out], last, incoming))
    if rounds == 1 or not context.earlier_rounds:
        return last_loss, {}
    earlier_R = jnp.mean(aux[out], axis=1)
    metrics = {"teacher_forced/round": jnp.append(earlier_R, last_loss)}
    return last_loss + context.earlier_rounds * jnp.mean(earlier_R), metrics


def count_tokens(batch: dict[str, Text]) -> int:
    """Tokens of all prompts and texts."""
    return sum(text.count_tokens() for text in batch.values())


OBJECTIVE = Objective(
    prepare=prepare,
    abstract_batch=abstract_batch,
    loss=loss,
    count_tokens=count_tokens,
    latent=False,
)
