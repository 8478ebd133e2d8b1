"""Cross-entropy of the answer through the true latent rollouts of all rounds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmas.models import Segment
from rmas.shapes import Array, Params
from rmas.system.batch import level
from rmas.system.preamble import ROW_AXES, Prompts, read_all
from rmas.system.recursion import recurse
from rmas.system.turn import Prompt, send, zero_messages
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text, count_all_tokens
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

Past = tuple[Segment, ...]
"""The cache's segments that a prompt continues; empty where it has no preamble."""

Batch = tuple[Prompts, Text]
"""All agents' prompts, and the rest of the output agent's last one with the answer `[B, T]`."""

AnswerTurn = Callable[[str, Prompt, Past, tuple[Array, ...], Any], tuple[dict[str, Array], Any]]
"""`turn(agent, prompt, past, incoming, data) -> (messages, aux)`: `recursion.Turn`, with the cache
that the prompt continues."""


def prepare(examples: Examples, rows: Sequence[Row]) -> Batch:
    """The prompts of all rounds, and the output agent's last one with its answer's text."""
    lines = examples.latent_lines(rows)
    output, k = examples.renderer.system.topology.output, examples.rounds - 1
    texts = [
        examples.fit_line(output, row, prompt.with_text(examples.text_ids(output, row, k)))
        for row, prompt in zip(rows, lines[output][-1], strict=True)
    ]
    *lines[output], last = level([*lines[output], texts])
    return examples.pack(lines), examples.stack_texts([row.rest for row in last])


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
    """The mean cross-entropy of the answers; gradients go through all rounds.

    As a metric, the share of answers that greedy decoding would write to the letter.
    """
    topology = context.topology

    def turn(
        agent: str, prompt: Prompt, past: Past, incoming: tuple[Array, ...], data: Any
    ) -> tuple[dict[str, Array], Any]:
        def checkpointed(links: Params, incoming: tuple[Array, ...]) -> dict[str, Array]:
            links = turn_links(context, links, agent)
            z_BMD = latent_turn(context, params, links, agent, prompt, incoming, past)
            return send(topology, context.spec, links, agent, z_BMD)

        return jax.checkpoint(checkpointed)(with_probes(links, data[1]), incoming), ()

    data = turn_data(context, probes)
    value, exact, _ = answer_loss(context, params, links, batch, turn, data)
    return value, {"rollout/exact": exact}


def answer_loss(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    batch: Batch,
    turn: AnswerTurn,
    data: dict[str, Any],
) -> tuple[Array, Array, dict[str, Any]]:
    """The mean cross-entropy of the answers `[]` after all rounds of any kind of turn.

    `links` decide the dtype of messages; `data` is what each agent's turns get, with a leading
    round axis. Also returns the share of answers that greedy decoding would write, and what else
    the turns gave, by agent, as `recurse` does.
    """
    prompts, last = batch
    out = context.topology.output
    pasts = read_all(context.spec, params, prompts.preambles)

    def run(agent: str, prompt: Prompt, incoming: tuple[Array, ...], own: Any) -> Any:
        return turn(agent, prompt, pasts.get(agent, ()), incoming, own)

    zeros = zero_messages(context.spec, links, len(last.text_BT), context.latent_steps)
    incoming, aux = recurse(context.topology, prompts.rest, run, zeros, data)
    loss_B, exact_B = text_loss(context, out, params[out], last, incoming, pasts.get(out, ()))
    return jnp.mean(loss_B), jnp.mean(exact_B, dtype=loss_B.dtype), aux


def count_tokens(batch: Batch) -> int:
    """Tokens of all prompts, and of what follows the preamble in the last one with its text."""
    prompts, last = batch
    return count_all_tokens(prompts) + last.count_tokens()


OBJECTIVE = Objective(
    prepare=prepare,
    abstract_batch=abstract_batch,
    loss=loss,
    count_tokens=count_tokens,
    axes=(ROW_AXES, 0),
)
