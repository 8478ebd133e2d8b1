"""What links are trained on. Every loss is a mean over rows of means over a row's positions.

`inner_loss` trains one agent's inner link. The others train a whole system and can be weighted
together: `teacher_forced` (the release's), `rollout` (cross-entropy through true rollouts) and
`align` (each rollout against its teacher text, hop by hop).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmas import models
from rmas.errors import InputError
from rmas.links import edge_name
from rmas.models.ops import PRECISION
from rmas.shapes import Array, Params
from rmas.system.recursion import recurse
from rmas.system.topology import Topology
from rmas.system.turn import SystemSpec, inputs, rollout, send, teacher_forced, zero_messages
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Targets, Text
from rmas.training.step import tap

Taps = dict[str, dict[str, Array]]
"""Per agent and link that its turns use (`inner/a`, `outer/a->b`), zeros `[R]`: see `step.tap`."""

Measured = tuple[Array, dict[str, Array]]
"""A loss, and what else is worth a line in the record: numbers, or one for each round `[R]`."""


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """Static facts that losses need; hashable.

    `on_policy` is the share of rows whose slots hold the links' own messages in `align` (the
    others hold the teacher's), `earlier_rounds` the weight of the mean loss of the rounds before
    the last in `teacher_forced` (0: the last alone; the release's alternative is 0.1).
    """

    topology: Topology
    spec: SystemSpec
    latent_steps: int
    on_policy: float
    earlier_rounds: float


def taps_of(context: TrainingContext, rounds: int) -> Taps:
    """Zeros for every link that an agent's turn uses, in every round."""
    return {
        agent: dict.fromkeys(
            [f"inner/{agent}"]
            + [f"outer/{edge_name(e.src, e.dst)}" for e in context.topology.outgoing(agent)],
            jnp.zeros(rounds, jnp.float32),
        )
        for agent in context.topology.agents
    }


def _tapped(links: Params, taps: dict[str, Array]) -> Params:
    """Links whose gradients are measured where this turn uses them."""
    found = {part: dict(trees) for part, trees in links.items()}
    for name, squares in taps.items():
        part, _, key = name.partition("/")
        found[part][key] = tap(found[part][key], squares)
    return found


def _data(
    context: TrainingContext, taps: Taps | None, own: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What each turn gets beside its prompt: an objective's own arrays, and taps."""
    own, taps = own or {}, taps or {}
    return {agent: (own.get(agent), taps.get(agent, {})) for agent in context.topology.agents}


def row_mean(value_BT: Array, mask_BT: Array) -> Array:
    """Mean of each row over its masked positions `[B]`; zero for a row without any."""
    count_B = jnp.sum(mask_BT, axis=-1)
    return jnp.sum(jnp.where(mask_BT, value_BT, 0.0), axis=-1) / jnp.maximum(count_B, 1)


def inner_loss(
    context: TrainingContext, agent: str, params: Params, links: Params, batch: Text
) -> Array:
    """Cosine distance of `inner(h_{t-1})` to the embedding of token t, over the role's text.

    The paper's first stage (reference: inner loop). The agent runs without gradient.
    """
    prompt = batch.prompt
    model = context.spec.model(agent)
    x_BTD = models.embed(model, params, prompt.ids_BT)
    pos_BT = models.positions(prompt.valid_BT)
    h_BTD, _ = models.run(model, params, x_BTD, prompt.valid_BT, pos_BT)
    mask_BT = batch.text_BT[:, 1:] & prompt.valid_BT[:, :-1]
    return inner_distance(context, agent, links, h_BTD[:, :-1], x_BTD[:, 1:], mask_BT)


def inner_distance(
    context: TrainingContext, agent: str, links: Params, h_BTD: Array, y_BTD: Array, mask_BT: Array
) -> Array:
    """The mean over rows of the masked mean cosine distance of `inner(h)` to `y`."""
    z_BTD = context.spec.links.inner(links, agent, jax.lax.stop_gradient(h_BTD))
    y_BTD = y_BTD.astype(z_BTD.dtype)
    distance_BT = 1.0 - optax.losses.cosine_similarity(z_BTD, y_BTD, epsilon=1e-8)
    return jnp.mean(row_mean(distance_BT, mask_BT))


def text_loss(context: TrainingContext, agent: str, params: Params, batch: Text, incoming) -> Array:
    """Cross-entropy of an agent's text after its slotted prompt, per row `[B]`."""
    prompt = batch.prompt
    model = context.spec.model(agent)
    x_BTD = inputs(model, params, prompt, incoming)
    pos_BT = models.positions(prompt.valid_BT)
    remat = context.spec.remat
    h_BTD, _ = models.run(model, params, x_BTD, prompt.valid_BT, pos_BT, remat=remat)
    logits_BTV = models.unembed(model, params, h_BTD[:, :-1])
    loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, prompt.ids_BT[:, 1:])
    return row_mean(loss_BT, batch.text_BT[:, 1:] & prompt.valid_BT[:, :-1])


def teacher_forced_loss(
    context: TrainingContext, params, links, batch: dict[str, Text], key, taps: Taps | None = None
) -> Measured:
    """The release's outer loop: messages are states of teacher texts, the loss the answer's."""
    topology, out = context.topology, context.topology.output
    prompts = {agent: text.prompt for agent, text in batch.items()}
    rounds = prompts[out].ids_BT.shape[0]

    def turn(agent, prompt, incoming, data):
        text_BT, own_taps = data

        def forward(links, incoming):
            x_BTD = inputs(context.spec.model(agent), params[agent], prompt, incoming)
            z_BMD = teacher_forced(context.spec, params[agent], links, agent, x_BTD, prompt)
            loss_B = jnp.zeros(len(x_BTD))
            if agent == out and context.earlier_rounds:
                loss_B = text_loss(context, agent, params[agent], Text(prompt, text_BT), incoming)
            return send(topology, context.spec, links, agent, z_BMD), loss_B

        return jax.checkpoint(forward)(_tapped(links, own_taps), incoming)

    length = prompts[out].state_index_BM.shape[-1]
    zeros = zero_messages(context.spec, links, prompts[out].ids_BT.shape[1], length)
    masks = {agent: text.text_BT for agent, text in batch.items()}
    incoming, aux = recurse(topology, prompts, turn, zeros, _data(context, taps, masks))
    last = jax.tree.map(lambda x: x[-1], batch[out])
    loss = jnp.mean(text_loss(context, out, params[out], last, incoming))
    if rounds == 1 or not context.earlier_rounds:
        return loss, {}
    earlier_R = jnp.mean(aux[out], axis=1)
    measured = {"teacher_forced/round": jnp.append(earlier_R, loss)}
    return loss + context.earlier_rounds * jnp.mean(earlier_R), measured


def rollout_loss(
    context: TrainingContext, params, links, batch, key, taps: Taps | None = None
) -> Measured:
    """Cross-entropy of the answer through the true rollouts of all rounds."""
    prompts, last = batch
    topology, out = context.topology, context.topology.output

    def turn(agent, prompt, incoming, data):
        def forward(links, incoming):
            x_BTD = inputs(context.spec.model(agent), params[agent], prompt, incoming)
            _, z_BMD = rollout(
                context.spec,
                params[agent],
                links,
                agent,
                x_BTD,
                prompt.valid_BT,
                context.latent_steps,
                checkpoint=True,
            )
            return send(topology, context.spec, links, agent, z_BMD)

        return jax.checkpoint(forward)(_tapped(links, data[1]), incoming), ()

    zeros = zero_messages(context.spec, links, prompts[out].ids_BT.shape[1], context.latent_steps)
    incoming, _ = recurse(topology, prompts, turn, zeros, _data(context, taps))
    return jnp.mean(text_loss(context, out, params[out], last, incoming)), {}


def align_loss(
    context: TrainingContext, params, links, batch, key, taps: Taps | None = None
) -> Measured:
    """Each true rollout against the teacher's text, in the sender's and the readers' embeddings.

    Normalised squared error of `inner(h_t)` to the embedding of the agent's next token, and of
    `outer(inner(h_t))` to the reader's embedding of the same piece of text. Gradients stay
    inside a turn. This objective is ours, not the paper's.
    """
    prompts, targets = batch
    topology, spec = context.topology, context.spec
    rows = prompts[topology.output].ids_BT.shape[1]
    own_B11 = jax.random.bernoulli(key, context.on_policy, (rows, 1, 1))

    def turn(agent, prompt, incoming, data: tuple[Targets, dict[str, Array]]):
        target, own_taps = data

        def forward(links, incoming):
            x_BTD = inputs(spec.model(agent), params[agent], prompt, incoming)
            _, z_BMD = rollout(
                spec,
                params[agent],
                links,
                agent,
                x_BTD,
                prompt.valid_BT,
                context.latent_steps,
                checkpoint=True,
            )
            y_BMD = models.embed(spec.model(agent), params[agent], target.ids_BM)
            loss = _normalised_error(z_BMD, y_BMD, target.valid_BM)
            cosine = jnp.mean(row_mean(_cosine(z_BMD, y_BMD), target.valid_BM))
            sent = {}
            for e in topology.outgoing(agent):
                name = edge_name(e.src, e.dst)
                z_BMd, wanted = spec.links.outer(links, e.src, e.dst, z_BMD), target.edges[name]
                y_BNd = models.embed(spec.model(e.dst), params[e.dst], wanted.ids_BN)
                y_BNd = y_BNd.astype(z_BMd.dtype)
                y_BMd = jnp.einsum("BMN,BNd->BMd", wanted.weights_BMN, y_BNd, precision=PRECISION)
                loss += _normalised_error(z_BMd, y_BMd, jnp.any(wanted.weights_BMN > 0, axis=-1))
                sent[name] = jnp.where(own_B11, jax.lax.stop_gradient(z_BMd), y_BMd)
            return sent, (loss, cosine)

        return forward(_tapped(links, own_taps), incoming)

    zeros = zero_messages(spec, links, rows, context.latent_steps)
    _, aux = recurse(topology, prompts, turn, zeros, _data(context, taps, targets))
    losses = [loss_R for loss_R, _ in aux.values()]
    measured = {f"cosine/{agent}": jnp.mean(cosine_R) for agent, (_, cosine_R) in aux.items()}
    rounds = max(map(len, losses))
    spoke_R = sum(np.arange(rounds) < len(loss_R) for loss_R in losses)
    sum_R = sum(jnp.pad(loss_R, (0, rounds - len(loss_R))) for loss_R in losses)
    measured["align/round"] = sum_R / spoke_R
    return sum(map(jnp.sum, losses)) / sum(map(len, losses)), measured


def _cosine(z_BMD: Array, y_BMD: Array) -> Array:
    """Of `[..., D]` and `[..., D]`, in the type of the first; no gradient goes through."""
    z_BMD = jax.lax.stop_gradient(z_BMD)
    return optax.losses.cosine_similarity(z_BMD, y_BMD.astype(z_BMD.dtype), epsilon=1e-8)


def _normalised_error(z_BMD: Array, y_BMD: Array, valid_BM: Array) -> Array:
    y_BMD = y_BMD.astype(z_BMD.dtype)
    error_B = row_mean(jnp.sum((z_BMD - y_BMD) ** 2, axis=-1), valid_BM)
    scale_B = row_mean(jnp.sum(y_BMD**2, axis=-1), valid_BM)
    return jnp.mean(error_B / jnp.where(scale_B > 0, scale_B, 1.0))


@dataclasses.dataclass(frozen=True)
class Objective:
    """How rows become arrays, and arrays a loss.

    Attributes:
      prepare: `prepare(examples, rows)` -> numpy arrays.
      loss: `loss(context, params, links, batch, key, taps=None) -> Measured`.
      axes: where the rows are in the arrays, as `jax.vmap` takes it.
    """

    prepare: Callable[[Examples, Sequence[Row]], Any]
    loss: Callable[..., Measured]
    axes: Any = 1


OBJECTIVES = {
    "teacher_forced": Objective(Examples.teacher_forced, teacher_forced_loss),
    "rollout": Objective(Examples.rollout, rollout_loss, (1, 0)),
    "align": Objective(lambda ex, rows: (ex.latent(rows), ex.targets(rows)), align_loss),
}


def parse_objective(text: str) -> tuple[tuple[str, float], ...]:
    """`"align:1.0,rollout:0.1"` as names and weights; a name alone weighs 1.

    Raises `InputError` for an unknown name, a repeated one or a weight that is not positive.
    """
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, weight = (part.strip() for part in item.partition(":"))
        if name not in OBJECTIVES or name in found:
            known = ", ".join(OBJECTIVES)
            raise InputError(f"objective {text!r}: {name!r} is unknown or repeated; known: {known}")
        try:
            found[name] = float(weight) if weight else 1.0
        except ValueError:
            found[name] = 0.0
        if not (found[name] > 0 and np.isfinite(found[name])):
            raise InputError(f"objective {text!r}: weight {weight!r} of {name!r} is not positive")
    return tuple(found.items())


def system_loss(
    context: TrainingContext, objective, params, links, batches, key, taps: Taps | None = None
) -> Measured:
    """The weighted sum of objectives, and each of them with its details for the record."""
    total, found = jnp.zeros(()), {}
    for n, (name, weight) in enumerate(objective):
        own = OBJECTIVES[name].loss
        loss, more = own(context, params, links, batches[name], jax.random.fold_in(key, n), taps)
        total = total + weight * loss
        found |= {name: loss, **more}
    return total, found
