"""One hop at a time: what messages do to their reader's text, through one true rollout.

Of every turn that reads messages, the reader's text given these messages is compared with the text
itself (`hop`: cross-entropy), or with what the reader expects where the senders' texts stand in
its slots (`distill`: Kullback-Leibler divergence of next-token distributions from those). Gradients
reach the links of the senders' turns alone. Neither compares tokens of different tokenizers, so
they suit agents whose texts do not align token by token. Both are ours, not the paper's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from rmas import models
from rmas.errors import InputError
from rmas.models import Segment
from rmas.shapes import Array, Params
from rmas.system.batch import Line, bucket, level, split, stack, stack_preambles
from rmas.system.preamble import Preamble, Prompts, read_all
from rmas.system.recursion import recurse
from rmas.system.turn import Prompt, send, zero_messages
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text, count_all_tokens, on_host, text_mask
from rmas.training.objectives.base import (
    Lengths,
    LossAndMetrics,
    Objective,
    Probes,
    TrainingContext,
    abstract,
    latent_turn,
    prompt_positions,
    row_mean,
    states,
    turn_data,
    turn_links,
    with_probes,
    zero_preambles,
    zero_prompt,
)

Past = tuple[Segment, ...]


@struct.dataclass
class Reading:
    """What an agent reads in its turns, by round, each after the agent's preamble.

    Attributes:
      own: prompts with slots for messages, `[R, B, T]`.
      taught: prompts with the senders' texts in the slots, `[R, B, T]`.
      own_text: `own` with the agent's text, `[R, B, U]`.
      taught_text: `taught` with the agent's text, `[R, B, V]`; None in `hop`.
      wanted_BL: which of the last L positions are tokens of the text that are predicted.
    """

    own: Prompt
    taught: Prompt
    own_text: Prompt
    taught_text: Prompt | None
    wanted_BL: Array


@struct.dataclass
class Batch:
    """All agents' preambles `[B, T]`, and what they read after them."""

    preambles: dict[str, Preamble]
    readings: dict[str, Reading]


AXES: Any = Batch(preambles=0, readings=1)  # type: ignore[arg-type]  # axes instead of arrays


def prepare(examples: Examples, rows: Sequence[Row], distill: bool) -> Batch:
    """Every agent's prompts of all rounds, in their forms, with its texts."""
    own = examples.latent_lines(rows)
    preambles, readings = {}, {}
    for agent, prompts in own.items():
        kinds = _lines(examples, agent, rows, prompts, distill)
        leveled = level([lines for kind in kinds for lines in kind])
        before, rest = split({agent: leveled})
        if longest := examples.padded(max(map(len, before[agent]))):
            preambles[agent] = stack_preambles(before[agent], longest)
        R = examples.rounds
        parts = [rest[agent][at : at + R] for at in range(0, len(leveled), R)]
        readings[agent] = _reading(examples, parts)
    return Batch(preambles, readings)


def _lines(
    examples: Examples, agent: str, rows: Sequence[Row], own: list[list[Line]], distill: bool
) -> list[list[list[Line]]]:
    """Lines by kind, round and row, in the order of `Reading`."""
    most = examples.max_length - examples.latent_steps
    if most < 1:
        raise InputError(
            f"max_length {examples.max_length} leaves no position for a prompt before "
            f"{examples.latent_steps} latent steps; raise it"
        )

    def filled(row: Row, k: int) -> Line:
        line = examples.filled_line(agent, row, k).cut_left(most)
        positions = len(line) + examples.latent_steps
        examples.renderer.check_context(agent, row.question, positions)
        return line

    taught = [[filled(row, k) for row in rows] for k in range(examples.rounds)]

    def with_texts(rounds: list[list[Line]]) -> list[list[Line]]:
        return [
            [
                examples.fit_line(agent, row, line.with_text(examples.text_ids(agent, row, k)))
                for row, line in zip(rows, lines, strict=True)
            ]
            for k, lines in enumerate(rounds)
        ]

    return [own, taught, with_texts(own)] + ([with_texts(taught)] if distill else [])


def _reading(examples: Examples, parts: list[list[list[Line]]]) -> Reading:
    def longest(*rounds: list[list[Line]]) -> int:
        return examples.padded(max(len(row) for lines in rounds for rows in lines for row in rows))

    own, taught, own_text, *more = parts
    length = longest(own, taught)
    text = stack(own_text, longest(own_text))
    L = examples.padded(max(row.text_length for rows in own_text for row in rows))
    predicted = Text(text, text_mask(own_text, text)).predicted()
    pad = [(0, 0), (0, 0), (max(L - predicted.shape[-1], 0), 0)]
    return Reading(
        stack(own, length),
        stack(taught, length),
        text,
        stack(more[0], longest(more[0])) if more else None,
        on_host(np.pad(np.asarray(predicted), pad)[..., -L:]),
    )


def abstract_batch(
    context: TrainingContext, rounds: int, rows: int, lengths: Lengths, distill: bool
) -> Batch:
    """The shapes of `prepare`'s arrays."""
    M = context.latent_steps
    own, taught = (prompt_positions(context, lengths, n) for n in (M, lengths.text))

    def reading(agent: str) -> Reading:
        def prompt(positions: int) -> Prompt:
            return zero_prompt(rounds, rows, positions=positions)

        longest = max(own[agent], taught[agent])
        return Reading(
            prompt(longest),
            prompt(longest),
            prompt(own[agent] + lengths.text),
            prompt(taught[agent] + lengths.text) if distill else None,
            jnp.zeros((rounds, rows, bucket(lengths.text)), bool),
        )

    return abstract(
        lambda: Batch(
            zero_preambles(context, rows, lengths), {a: reading(a) for a in context.topology.agents}
        )
    )


def loss(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    batch: Batch,
    key: Array,
    probes: Probes | None = None,
    *,
    name: str,
) -> LossAndMetrics:
    """The mean over turns that read messages of their texts' losses.

    `key` chooses the rows whose rollouts read the links' own messages
    (`TrainingContext.on_policy`); those of the others read the senders' texts. Metrics are the
    loss by reader (`NAME/reader/AGENT`) and by round (`NAME/round`), NaN where nothing was read.
    """
    topology, spec, out = context.topology, context.spec, context.topology.output
    pasts = read_all(spec, params, batch.preambles)
    rows = batch.readings[out].own.ids_BT.shape[1]
    own_B1 = jax.random.bernoulli(key, context.on_policy, (rows, 1))

    def read(agent: str, reading: Reading, incoming: tuple[Array, ...]) -> tuple[Array, Array]:
        """The mean over rows of a text's loss, and 1 where its prompt has slots, else 0."""
        value = _text_loss(context, agent, params[agent], reading, incoming, pasts.get(agent, ()))
        has_slots = jnp.any(reading.own_text.slot_BT >= 0).astype(value.dtype)
        return value * has_slots, has_slots

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Array, ...], data: Any
    ) -> tuple[dict[str, Array], Any]:
        reading, own_probes = data
        own_links = turn_links(context, with_probes(links, own_probes), agent)
        chosen = jax.tree.map(lambda x, y: jnp.where(own_B1, x, y), prompt, reading.taught)
        constant = tuple(map(jax.lax.stop_gradient, incoming))
        past = pasts.get(agent, ())
        z_BMD = latent_turn(context, params, own_links, agent, chosen, constant, past)
        found: tuple[Array, ...] = ()
        if incoming:
            found = jax.checkpoint(functools.partial(read, agent, reading))(incoming)
        elif topology.incoming(agent):  # no message is there yet
            found = (jnp.zeros((), z_BMD.dtype), jnp.zeros((), z_BMD.dtype))
        return send(topology, spec, own_links, agent, z_BMD), found

    prompts = {agent: reading.own for agent, reading in batch.readings.items()}
    zeros = zero_messages(spec, links, rows, context.latent_steps)
    data = turn_data(context, probes, batch.readings)
    incoming, aux = recurse(topology, prompts, turn, zeros, data)
    last = jax.tree.map(lambda x: x[-1], batch.readings[out])
    found = {agent: jnp.stack(value) for agent, value in aux.items() if value}
    final_21 = jnp.stack(read(out, last, incoming))[:, None]
    found[out] = jnp.concatenate([found[out], final_21], 1) if out in found else final_21
    R = batch.readings[out].own.ids_BT.shape[0]
    by_reader = {
        agent: jnp.pad(value_2N, [(0, 0), (0, R - value_2N.shape[1])])
        for agent, value_2N in found.items()
    }
    metrics = {
        f"{name}/reader/{agent}": _mean(jnp.sum(v_2R, 1)) for agent, v_2R in by_reader.items()
    }
    total_2R = jnp.asarray(sum(by_reader.values()))
    metrics[f"{name}/round"] = _mean(total_2R)
    total, count = jnp.sum(total_2R, 1)
    return total / jnp.maximum(count, 1), metrics


def _mean(sum_and_count: Array) -> Array:
    """Of a sum and the number of its terms; NaN without any."""
    total, count = jax.lax.stop_gradient(sum_and_count)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def _text_loss(
    context: TrainingContext,
    agent: str,
    params: Params,
    reading: Reading,
    incoming: tuple[Array, ...],
    past: Past,
) -> Array:
    """The mean over rows of the mean over a text's tokens; a scalar."""
    L = reading.wanted_BL.shape[-1]
    logits_BLV = _logits(context, agent, params, reading.own_text, incoming, past, L)
    if reading.taught_text is None:
        ids_BL = _last(reading.own_text.ids_BT, L, 0)
        loss_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, ids_BL)
    else:
        taught_BLV = _logits(context, agent, params, reading.taught_text, (), past, L)
        taught_BLV = jax.lax.stop_gradient(jax.nn.log_softmax(taught_BLV))
        log_p_BLV = jax.nn.log_softmax(logits_BLV)
        loss_BL = optax.losses.kl_divergence_with_log_targets(log_p_BLV, taught_BLV)
    return jnp.mean(row_mean(loss_BL, reading.wanted_BL))


def _logits(
    context: TrainingContext,
    agent: str,
    params: Params,
    prompt: Prompt,
    incoming: tuple[Array, ...],
    past: Past,
    L: int,
) -> Array:
    """Of each of the last L tokens of a prompt that ends in its text, `[B, L, V]`."""
    h_BTD = states(context, agent, params, prompt, incoming, past)
    return models.unembed(context.spec.model(agent), params, _last(h_BTD, L, 1))


def _last(x_BT: Array, L: int, before: int) -> Array:
    """The last L positions, or those `before` them; what is beyond the first one repeats it."""
    T = x_BT.shape[1]
    return x_BT[:, np.maximum(np.arange(T - L, T) - before, 0)]


def count_tokens(batch: Batch) -> int:
    """Tokens of all prompts, without and with texts."""
    total = 0
    for kind in ("own", "own_text", "taught_text"):
        prompts = {a: getattr(r, kind) for a, r in batch.readings.items()}
        if all(prompt is not None for prompt in prompts.values()):
            total += count_all_tokens(Prompts(batch.preambles, prompts))
    return total


def _objective(distill: bool) -> Objective:
    return Objective(
        prepare=functools.partial(prepare, distill=distill),
        abstract_batch=functools.partial(abstract_batch, distill=distill),
        loss=functools.partial(loss, name="distill" if distill else "hop"),
        count_tokens=count_tokens,
        axes=AXES,
        across=False,
        reads=("own", "taught") if distill else ("own",),
    )


HOP = _objective(distill=False)
DISTILL = _objective(distill=True)
