"""Cross-entropy of the answer through the true latent rollouts of all rounds."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmas.shapes import Array, Params
from rmas.system.batch import Line
from rmas.system.recursion import recurse
from rmas.system.turn import Prompt, send, zero_messages
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text, count_prompt_tokens
from rmas.training.objectives.base import (
    Lengths,
    LossAndMetrics,
    Objective,
    Probes,
    TrainingContext,
    abstract,
    latent_turn,
    prompt_positions,
    text_loss,
    turn_data,
    turn_links,
    with_probes,
    zero_prompts,
    zero_text,
)

Batch = tuple[dict[str, Prompt], Text]
"""Every agent's prompts of all rounds `[R, B, T]`, and the output agent's last with the answer
`[B, T]`."""


def prepare(examples: Examples, rows: Sequence[Row]) -> Batch:
    """The prompts of all rounds, and the output agent's last one with its answer's text."""
    prompts = examples.latent_prompts(rows)
    output, k = examples.renderer.system.topology.output, examples.rounds - 1
    lines = []
    for row in rows:
        prompt = examples.renderer.latent_line(output, question_of(row), k, examples.latent_steps)
        text = examples.text_ids(output, row, k)
        whole = Line(prompt.ids + text, prompt.slots + (-1,) * len(text), len(text))
        lines.append(examples.fit_line(output, row, whole))
    return prompts, examples.stack_texts(lines)


def abstract_batch(context: TrainingContext, rounds: int, rows: int, lengths: Lengths) -> Batch:
    """The shapes of `prepare`'s arrays."""
    positions = prompt_positions(context, lengths, context.latent_steps)
    last = positions[context.topology.output] + lengths.text
    return abstract(
        lambda: (zero_prompts(context, rounds, rows, lengths), zero_text(rows, positions=last))
    )


def loss(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    batch: Batch,
    key: Array,
    probes: Probes | None = None,
) -> LossAndMetrics:
    """The mean cross-entropy of the answers; gradients go through all rounds."""
    prompts, last = batch
    topology, out = context.topology, context.topology.output

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Array, ...], data: Any
    ) -> tuple[dict[str, Array], Any]:
        def checkpointed(links: Params, incoming: tuple[Array, ...]) -> dict[str, Array]:
            links = turn_links(context, links, agent)
            z_BMD = latent_turn(context, params, links, agent, prompt, incoming)
            return send(topology, context.spec, links, agent, z_BMD)

        return jax.checkpoint(checkpointed)(with_probes(links, data[1]), incoming), ()

    zeros = zero_messages(context.spec, links, prompts[out].ids_BT.shape[1], context.latent_steps)
    incoming, _ = recurse(topology, prompts, turn, zeros, turn_data(context, probes))
    return jnp.mean(text_loss(context, out, params[out], last, incoming)), {}


def count_tokens(batch: Batch) -> int:
    """Tokens of all prompts, and of the last one with its text."""
    prompts, last = batch
    return sum(map(count_prompt_tokens, prompts.values())) + last.count_tokens()


OBJECTIVE = Objective(
    prepare=prepare,
    abstract_batch=abstract_batch,
    loss=loss,
    count_tokens=count_tokens,
    axes=(1, 0),
)
