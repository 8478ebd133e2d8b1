"""Each true rollout against the teacher's text, in the sender's and the readers' embeddings.

Normalised squared error of `inner(h_t)` to the embedding of the agent's next token, and of
`outer(inner(h_t))` to the reader's embedding of the same piece of text. Gradients stay inside a
turn. This objective is ours, not the paper's.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from rmas import models
from rmas.links import edge_name
from rmas.models.ops import PRECISION
from rmas.shapes import Array, Params
from rmas.system.batch import bucket
from rmas.system.preamble import ROW_AXES, Prompts, read_all
from rmas.system.recursion import recurse
from rmas.system.topology import Edge
from rmas.system.turn import Prompt, zero_messages
from rmas.tasks.rows import Row
from rmas.training.alignment import align
from rmas.training.examples import Examples, count_all_tokens, on_host
from rmas.training.objectives.base import (
    Lengths,
    LossAndMetrics,
    Objective,
    Probes,
    TrainingContext,
    abstract,
    latent_turn,
    row_mean,
    turn_data,
    turn_links,
    with_probes,
    zero_prompts,
)


@struct.dataclass
class EdgeTargets:
    """A teacher text in the receiver's tokens: ids `[R, B, N]`, weights `[R, B, M, N]`.

    Row m of the weights spreads 1 over the receiver's tokens that share the piece of text of the
    sender's token m (see `alignment.align`); it is zero where no token does.
    """

    ids_BN: Array
    weights_BMN: Array


@struct.dataclass
class Targets:
    """What a rollout should say: its next tokens `[R, B, M]`, and the same by edge."""

    ids_BM: Array
    valid_BM: Array
    edges: dict[str, EdgeTargets]


Batch = tuple[Prompts, dict[str, Targets]]
"""All agents' prompts, and by agent what their rollouts should say."""


def prepare(examples: Examples, rows: Sequence[Row]) -> Batch:
    """The prompts of all rounds, and per agent and round the targets of its rollout."""
    return examples.pack(examples.latent_lines(rows)), targets(examples, rows)


def targets(examples: Examples, rows: Sequence[Row]) -> dict[str, Targets]:
    """Per agent and round, the first M tokens of its text, its own and its readers'."""
    topology, M = examples.renderer.system.topology, examples.latent_steps
    agents = examples.renderer.system.agents
    out = {}
    for agent in topology.agents:
        ids_RBM = np.zeros((examples.rounds, len(rows), M), np.int32)
        valid_RBM = np.zeros(ids_RBM.shape, bool)
        aligned: dict[Edge, list[tuple[tuple[int, ...], np.ndarray]]]
        aligned = {e: [] for e in topology.outgoing(agent)}
        for k in range(examples.rounds):
            for b, row in enumerate(rows):
                own = examples.text_ids(agent, row, k)[:M]
                ids_RBM[k, b, : len(own)], valid_RBM[k, b, : len(own)] = own, True
                text = row.text(topology.role(agent), k)
                for e, pairs in aligned.items():
                    pairs.append(align(agents[agent].chat, agents[e.dst].chat, text, M))
        edges = {
            edge_name(e.src, e.dst): _edge_targets(examples, pairs, ids_RBM.shape)
            for e, pairs in aligned.items()
        }
        out[agent] = Targets(on_host(ids_RBM), on_host(valid_RBM), edges)
    return out


def _edge_targets(
    examples: Examples,
    pairs: list[tuple[tuple[int, ...], np.ndarray]],
    shape: tuple[int, int, int],
) -> EdgeTargets:
    R, B, M = shape
    N = bucket(examples.longest(max(len(ids) for ids, _ in pairs)))
    ids_XN = np.zeros((len(pairs), N), np.int32)
    weights_XMN = np.zeros((len(pairs), M, N), np.float32)
    for x, (ids, weights_MN) in enumerate(pairs):
        ids_XN[x, : len(ids)] = ids
        weights_XMN[x, :, : len(ids)] = weights_MN
    return EdgeTargets(on_host(ids_XN.reshape(R, B, N)), on_host(weights_XMN.reshape(R, B, M, N)))


def abstract_batch(context: TrainingContext, rounds: int, rows: int, lengths: Lengths) -> Batch:
    """The shapes of `prepare`'s arrays, for readers whose texts are as long as a message."""
    M = context.latent_steps
    N = bucket(M)

    def edge() -> EdgeTargets:
        return EdgeTargets(
            jnp.zeros((rounds, rows, N), jnp.int32), jnp.zeros((rounds, rows, M, N), jnp.float32)
        )

    def batch() -> Batch:
        return zero_prompts(context, rounds, rows, lengths), {
            agent: Targets(
                jnp.zeros((rounds, rows, M), jnp.int32),
                jnp.zeros((rounds, rows, M), bool),
                {edge_name(e.src, e.dst): edge() for e in context.topology.outgoing(agent)},
            )
            for agent in context.topology.agents
        }

    return abstract(batch)


def loss(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    batch: Batch,
    key: Array,
    probes: Probes | None = None,
) -> LossAndMetrics:
    """The mean over turns of their normalised errors, in the agent's and its readers' spaces.

    `key` chooses the rows whose slots hold the links' own messages (`TrainingContext.on_policy`).
    """
    prompts, wanted = batch
    topology, spec = context.topology, context.spec
    rows = prompts.rest[topology.output].ids_BT.shape[1]
    pasts = read_all(spec, params, prompts.preambles)
    own_B11 = jax.random.bernoulli(key, context.on_policy, (rows, 1, 1))

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Array, ...], data: Any
    ) -> tuple[dict[str, Array], Any]:
        target, own_probes = data
        own_links = turn_links(context, with_probes(links, own_probes), agent)
        z_BMD = latent_turn(
            context, params, own_links, agent, prompt, incoming, pasts.get(agent, ())
        )
        # Targets are constants, also where the embeddings themselves are trained.
        y_BMD = models.embed(spec.model(agent), params[agent], target.ids_BM)
        y_BMD = jax.lax.stop_gradient(y_BMD)
        error = _normalised_error(z_BMD, y_BMD, target.valid_BM)
        cosine = jnp.mean(row_mean(_cosine(z_BMD, y_BMD), target.valid_BM))
        sent = {}
        for e in topology.outgoing(agent):
            name = edge_name(e.src, e.dst)
            z_BMd, text = spec.links.outer(own_links, e.src, e.dst, z_BMD), target.edges[name]
            y_BNd = models.embed(spec.model(e.dst), params[e.dst], text.ids_BN)
            y_BNd = jax.lax.stop_gradient(y_BNd).astype(z_BMd.dtype)
            y_BMd = jnp.einsum("BMN,BNd->BMd", text.weights_BMN, y_BNd, precision=PRECISION)
            error += _normalised_error(z_BMd, y_BMd, jnp.any(text.weights_BMN > 0, axis=-1))
            sent[name] = jnp.where(own_B11, jax.lax.stop_gradient(z_BMd), y_BMd)
        return sent, (error, cosine)

    zeros = zero_messages(spec, links, rows, context.latent_steps)
    _, aux = recurse(topology, prompts.rest, turn, zeros, turn_data(context, probes, wanted))
    errors = [error_R for error_R, _ in aux.values()]
    metrics = {f"cosine/{agent}": jnp.mean(cosine_R) for agent, (_, cosine_R) in aux.items()}
    rounds = max(map(len, errors))
    turns_R = sum(np.arange(rounds) < len(error_R) for error_R in errors)
    sum_R = sum(jnp.pad(error_R, (0, rounds - len(error_R))) for error_R in errors)
    metrics["align/round"] = jnp.asarray(sum_R / turns_R)
    return jnp.asarray(sum(map(jnp.sum, errors)) / sum(map(len, errors))), metrics


def _cosine(z_BMD: Array, y_BMD: Array) -> Array:
    """Cosine similarity `[B, M]`, in the dtype of `z_BMD`; without a gradient."""
    z_BMD = jax.lax.stop_gradient(z_BMD)
    return optax.losses.cosine_similarity(z_BMD, y_BMD.astype(z_BMD.dtype), epsilon=1e-8)


def _normalised_error(z_BMD: Array, y_BMD: Array, valid_BM: Array) -> Array:
    """Squared error in units of the wanted vectors' squares, mean over rows; a scalar."""
    y_BMD = y_BMD.astype(z_BMD.dtype)
    error_B = row_mean(jnp.sum((z_BMD - y_BMD) ** 2, axis=-1), valid_BM)
    scale_B = row_mean(jnp.sum(y_BMD**2, axis=-1), valid_BM)
    return jnp.mean(error_B / jnp.where(scale_B > 0, scale_B, 1.0))


def count_tokens(batch: Batch) -> int:
    """Tokens of all prompts."""
    return count_all_tokens(batch[0])


OBJECTIVE = Objective(
    prepare=prepare,
    abstract_batch=abstract_batch,
    loss=loss,
    count_tokens=count_tokens,
    axes=(ROW_AXES, 1),
    across=False,
)
