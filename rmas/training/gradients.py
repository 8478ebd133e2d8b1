"""Gradients of the answer's loss by round: of every use of a link, and of the messages.

The loss is that of the objective `rollout`, the mean cross-entropy of the answers of a batch
through the true rollouts of all rounds. A link is used in many rounds, and its gradient is a sum
over them; here each round has a link of its own with the same numbers, so that the parts of the sum
stay apart. The gradient of a message is the signal that passes it on to earlier rounds.

`text_gradients` measures the same for the path that the paper compares with (theorem 4.1):
hidden state, softmax over the vocabulary, expected embedding. There are no links on it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rmas import models
from rmas.errors import InputError
from rmas.links import edge_name
from rmas.models.ops import PRECISION, at_least_float32
from rmas.shapes import Array, Params
from rmas.system.load import System
from rmas.system.turn import Prompt, inputs, rollout, send
from rmas.training.examples import on_host
from rmas.training.objectives.base import TrainingContext, latent_turn
from rmas.training.objectives.rollout import Batch, Past, answer_loss


@struct.dataclass
class Uses:
    """What the turns of one agent use, by round.

    Attributes:
      links: its inner link and outer links, as in the links tree, each leaf `[R, ...]`.
      added: what is added to its messages, by `edge_name`, `[R, B, M, D]`: zeros, for gradients.
    """

    links: Params
    added: dict[str, Array]


@struct.dataclass
class RoundGradients:
    """The sizes of gradients.

    Attributes:
      loss: the mean loss of the batch.
      whole: the norm of the gradient of all links, as training clips it; 0 without links.
      norms: by `inner/a`, `outer/a->b` and `message/a->b`, the norm in each round `[K]`. Agents
        before the output agent, and what they send within a round, have all R rounds; the others
        have R - 1, since nothing reads them in the last one.
      confidence: on text's path, by agent, the mean probability of the likeliest token in each
        round `[K]`.
    """

    loss: Array
    whole: Array
    norms: dict[str, Array]
    confidence: dict[str, Array]


def with_rounds(batch: Batch, rounds: int) -> Batch:
    """The batch with rounds in front that nothing reads, so that it has `rounds` in all.

    They repeat round 1, whose prompts have no slot for what comes before it. So batches of any
    number of rounds run in one program; norms of the added rounds, the first ones, are zero.
    """
    prompts, last = batch

    def longer(x_RB: Array) -> Array:
        return on_host(np.concatenate([*[x_RB[:1]] * (rounds - len(x_RB)), x_RB]))

    return dataclasses.replace(prompts, rest=jax.tree.map(longer, prompts.rest)), last


def link_gradients(
    context: TrainingContext, params: dict[str, Params], links: Params, batch: Batch
) -> RoundGradients:
    """Gradients of every link and message by round.

    Args:
      params: weights by agent.
      links: the whole tree of links; their form is that of `context.spec`.
      batch: as the objective `rollout` prepares it; decides the number of rounds.
    """
    return _sizes(context, *gradients_by_use(context, params, links, batch), {})


@functools.partial(jax.jit, static_argnums=0)
def gradients_by_use(
    context: TrainingContext, params: dict[str, Params], links: Params, batch: Batch
) -> tuple[Array, dict[str, Uses]]:
    """The loss, and its gradients themselves; see `link_gradients`."""
    uses = uses_by_round(context, links, batch, links)
    return jax.value_and_grad(lambda uses: loss_by_use(context, params, uses, batch))(uses)


def uses_by_round(
    context: TrainingContext, links: Params, batch: Batch, like: Params
) -> dict[str, Uses]:
    """The same links in all rounds, and nothing added to any message, by agent.

    `like` decides the dtype of messages: float32, or float64 where it has such leaves.
    """
    topology, (prompts, last) = context.topology, batch
    rounds, rows = len(prompts.rest[topology.output].ids_BT), len(last.text_BT)
    widths = dict(context.spec.links.widths)
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(like))
    found = {}
    for agent in topology.agents:
        edges = {edge_name(e.src, e.dst): e.dst for e in topology.outgoing(agent)}
        own = links and {
            "inner": {agent: links["inner"][agent]},
            "outer": {name: links["outer"][name] for name in edges},
        }
        found[agent] = Uses(
            jax.tree.map(lambda x: jnp.broadcast_to(x, (rounds, *x.shape)), own),
            {
                name: jnp.zeros((rounds, rows, context.latent_steps, widths[dst]), dtype)
                for name, dst in edges.items()
            },
        )
    return found


def loss_by_use(
    context: TrainingContext, params: dict[str, Params], uses: dict[str, Uses], batch: Batch
) -> Array:
    """The loss of the objective `rollout`, where each round has its own links and additions."""

    def turn(
        agent: str, prompt: Prompt, past: Past, incoming: tuple[Array, ...], own: Uses
    ) -> tuple[dict[str, Array], Any]:
        z_BMD = latent_turn(context, params, own.links, agent, prompt, incoming, past, False)
        return _add(send(context.topology, context.spec, own.links, agent, z_BMD), own), ()

    links = {agent: own.links for agent, own in uses.items()}
    return answer_loss(context, params, links, batch, turn, uses)[0]


# The path of text.


def shared_tokens(system: System) -> dict[str, np.ndarray]:
    """By agent, the ids `[V]` of the tokens that all agents share, in one order for all.

    These are all tokens but control tokens: a message of text has none.

    Raises:
      InputError: the agents' vocabularies differ, so that no sender's tokens are a reader's.
    """
    plain = {a: system.agents[a].chat.plain_tokens() for a in system.topology.agents}
    first, *others = plain
    for other in others:
        if missing := plain[first].keys() ^ plain[other].keys():
            raise InputError(
                f"{first!r} and {other!r} differ in {len(missing)} tokens, so text's path does not "
                "exist; it needs agents with the same tokens"
            )
    order = sorted(plain[first])
    return {a: np.array([ids[token] for token in order], np.int32) for a, ids in plain.items()}


def text_gradients(
    context: TrainingContext,
    params: dict[str, Params],
    tokens: dict[str, Array],
    batch: Batch,
    temperature: Array | float = 1.0,
) -> RoundGradients:
    """Gradients of messages by round where they, and latent steps, are expected embeddings.

    A state h becomes the probabilities p = softmax(logits(h) / temperature) of `tokens`, the
    sender's next input the mean of its own embeddings under p, and the message that of the
    reader's. So it is text exchange with the choice of a token left out, which has no gradient.
    """
    value, confidence, grads = _text_gradients(context, params, tokens, batch, temperature)
    return _sizes(context, value, grads, confidence)


@functools.partial(jax.jit, static_argnums=0)
def _text_gradients(
    context: TrainingContext,
    params: dict[str, Params],
    tokens: dict[str, Array],
    batch: Batch,
    temperature: Array | float,
) -> tuple[Array, dict[str, Array], dict[str, Uses]]:
    uses = uses_by_round(context, {}, batch, params)

    def loss(uses: dict[str, Uses]) -> tuple[Array, dict[str, Array]]:
        return text_loss_by_use(context, params, uses, tokens, batch, temperature)

    (value, confidence), grads = jax.value_and_grad(loss, has_aux=True)(uses)
    return value, confidence, grads


def text_loss_by_use(
    context: TrainingContext,
    params: dict[str, Params],
    uses: dict[str, Uses],
    tokens: dict[str, Array],
    batch: Batch,
    temperature: Array | float,
) -> tuple[Array, dict[str, Array]]:
    """The loss on text's path (see `text_gradients`), and how confident it is, by agent `[K]`."""
    topology, spec = context.topology, context.spec

    def probabilities(agent: str, h_BD: Array) -> Array:
        logits_BV = models.unembed(spec.model(agent), params[agent], h_BD)[..., tokens[agent]]
        return jax.nn.softmax(logits_BV / temperature)

    def expected(agent: str, p_BV: Array) -> Array:
        e_VD = models.embed(spec.model(agent), params[agent], tokens[agent])
        return jnp.matmul(p_BV, at_least_float32(e_VD), precision=PRECISION)

    def turn(
        agent: str, prompt: Prompt, past: Past, incoming: tuple[Array, ...], own: Uses
    ) -> tuple[dict[str, Array], Array]:
        model = spec.model(agent)
        h_BMD, _ = rollout(
            spec,
            params[agent],
            {},
            agent,
            inputs(model, params[agent], prompt, incoming),
            prompt.valid_BT,
            context.latent_steps,
            past=past,
            to_input=lambda h_BD: expected(agent, probabilities(agent, h_BD)),
        )
        p_BMV = probabilities(agent, h_BMD)
        sent = {edge_name(e.src, e.dst): expected(e.dst, p_BMV) for e in topology.outgoing(agent)}
        return _add(sent, own), jnp.mean(jnp.max(p_BMV, axis=-1))

    value, _, largest = answer_loss(context, params, uses, batch, turn, uses)
    return value, largest


def _add(messages: dict[str, Array], own: Uses) -> dict[str, Array]:
    return {name: z_BMD + own.added[name] for name, z_BMD in messages.items()}


@functools.partial(jax.jit, static_argnums=0)
def _sizes(
    context: TrainingContext, loss: Array, grads: dict[str, Uses], confidence: dict[str, Array]
) -> RoundGradients:
    """Norms by round `[K]`, without the last round where nothing in it is read."""
    topology = context.topology
    last = [f"inner/{agent}" for agent in topology.before] + [
        f"{part}/{edge_name(e.src, e.dst)}"
        for part in ("outer", "message")
        for e in topology.edges
        if e.when == "round" and e.src in topology.before
    ]
    norms: dict[str, Array] = {}
    for own in grads.values():
        trees = {f"{part}/{name}": t for part in own.links for name, t in own.links[part].items()}
        trees |= {f"message/{name}": added for name, added in own.added.items()}
        norms |= {n: _norm_by_round(t)[: None if n in last else -1] for n, t in trees.items()}
    total = [jax.tree.map(lambda x: jnp.sum(x, 0, keepdims=True), g.links) for g in grads.values()]
    whole = _norm_by_round(total)[0] if jax.tree.leaves(total) else jnp.zeros(())
    return RoundGradients(loss, whole, norms, confidence)


def _norm_by_round(tree: Any) -> Array:
    """Norms `[R]`; numbers are scaled before they are squared, which would lose small ones."""
    x_RN = jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(tree)], axis=1)
    largest_R1 = jnp.max(jnp.abs(x_RN), axis=1, keepdims=True)
    scaled_RN = x_RN / jnp.where(largest_R1 > 0, largest_R1, 1)
    return largest_R1[:, 0] * jnp.sqrt(jnp.sum(jnp.square(scaled_RN), axis=1))
