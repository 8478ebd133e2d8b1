"""The release's objective: messages are states of teacher texts, the loss is the answer's."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmas.shapes import Array, Params
from rmas.system.batch import Line, line, with_states
from rmas.system.preamble import ROW_AXES, Prompts, read_all
from rmas.system.recursion import recurse
from rmas.system.turn import Prompt, inputs, send, teacher_forced, zero_messages
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text, count_all_tokens, message_round, text_mask
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
    zero_preambles,
    zero_text,
)

Batch = tuple[Prompts, dict[str, Array]]
"""All agents' prompts with their texts, and by agent which positions after the preamble are the
text, `[R, B, T]`."""


def prepare(examples: Examples, rows: Sequence[Row]) -> Batch:
    """Every agent's prompt and text of every round."""
    topology, states = examples.renderer.system.topology, examples.max_latent_tokens
    # No more states than the sender's own row has text positions.
    longest = min(states, examples.max_length)
    lines: dict[str, list[list[Line]]] = {}
    for agent in topology.agents:
        sources = examples.renderer.sources(agent)
        lines[agent] = [[] for _ in range(examples.rounds)]
        for k, row in ((k, row) for k in range(examples.rounds) for row in rows):
            lengths = {
                e.src: min(len(examples.text_ids(e.src, row, message_round(e, k))), longest)
                for e in topology.incoming(agent)
                if e.when == "round" or k > 0
            }
            encoded = examples.encoded(agent, row, k)
            text, preamble = examples.text_ids(agent, row, k), examples.preamble(agent, row)
            whole = line(encoded, sources, states, lengths, text, preamble)
            lines[agent][k].append(examples.fit_line(agent, row, whole))
    prompts = examples.pack(lines)
    rest = {
        agent: with_states(prompt, lines[agent], states, examples.shift)
        for agent, prompt in prompts.rest.items()
    }
    masks = {agent: text_mask(lines[agent], prompt) for agent, prompt in rest.items()}
    return Prompts(prompts.preambles, rest), masks


def abstract_batch(context: TrainingContext, rounds: int, rows: int, lengths: Lengths) -> Batch:
    """The shapes of `prepare`'s arrays, where every text is handed on whole."""
    positions = prompt_positions(context, lengths, lengths.text)

    def batch() -> Batch:
        texts = {
            agent: zero_text(rounds, rows, positions=n + lengths.text, states=lengths.text)
            for agent, n in positions.items()
        }
        rest = {agent: text.prompt for agent, text in texts.items()}
        masks = {agent: text.text_BT for agent, text in texts.items()}
        return Prompts(zero_preambles(context, rows, lengths), rest), masks

    return abstract(batch)


def loss(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    batch: Batch,
    key: Array,
    probes: Probes | None = None,
) -> LossAndMetrics:
    """Cross-entropy of the answer in the last round, and weighted that of earlier rounds."""
    topology, out = context.topology, context.topology.output
    (prompts, masks), spec = batch, context.spec
    rounds, rows, _ = prompts.rest[out].ids_BT.shape
    pasts = read_all(spec, params, prompts.preambles)

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Array, ...], data: Any
    ) -> tuple[dict[str, Array], Any]:
        text_BT, own_probes = data
        past = pasts.get(agent, ())

        def checkpointed(
            links: Params, incoming: tuple[Array, ...]
        ) -> tuple[dict[str, Array], Array]:
            links = turn_links(context, links, agent)
            x_BTD = inputs(spec.model(agent), params[agent], prompt, incoming)
            z_BMD = teacher_forced(spec, params[agent], links, agent, x_BTD, prompt, past)
            loss_B = jnp.zeros(len(x_BTD))
            if agent == out and context.earlier_rounds:
                text = Text(prompt, text_BT)
                loss_B, _ = text_loss(context, agent, params[agent], text, incoming, past)
            return send(topology, spec, links, agent, z_BMD), loss_B

        return jax.checkpoint(checkpointed)(with_probes(links, own_probes), incoming)

    states_BM = prompts.rest[out].state_index_BM
    assert states_BM is not None, "prompts of teacher forcing name the states of their message"
    zeros = zero_messages(spec, links, rows, states_BM.shape[-1])
    incoming, aux = recurse(topology, prompts.rest, turn, zeros, turn_data(context, probes, masks))
    last = jax.tree.map(lambda x: x[-1], Text(prompts.rest[out], masks[out]))
    loss_B, _ = text_loss(context, out, params[out], last, incoming, pasts.get(out, ()))
    last_loss = jnp.mean(loss_B)
    if rounds == 1 or not context.earlier_rounds:
        return last_loss, {}
    earlier_R = jnp.mean(aux[out], axis=1)
    metrics = {"teacher_forced/round": jnp.append(earlier_R, last_loss)}
    return last_loss + context.earlier_rounds * jnp.mean(earlier_R), metrics


def count_tokens(batch: Batch) -> int:
    """Tokens of all prompts and texts."""
    return count_all_tokens(batch[0])


OBJECTIVE = Objective(
    prepare=prepare,
    abstract_batch=abstract_batch,
    loss=loss,
    count_tokens=count_tokens,
    axes=(ROW_AXES, 1),
    latent=False,
)
