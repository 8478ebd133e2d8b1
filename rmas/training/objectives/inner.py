"""The loss of inner training, which has one agent; it is not in the table of objectives."""

import jax
import jax.numpy as jnp
import optax

from rmas import models
from rmas.shapes import Array, Params
from rmas.training.examples import Text
from rmas.training.objectives.base import TrainingContext, row_mean


def inner_loss(
    context: TrainingContext, agent: str, params: Params, links: Params, batch: Text
) -> Array:
    """Cosine distance of `inner(h_{t-1})` to the embedding of token t, over the role's text.

    The paper's first stage (reference: inner loop). The agent runs without gradient. `params` are
    its weights; a scalar.
    """
    prompt = batch.prompt
    model = context.spec.model(agent)
    x_BTD = models.embed(model, params, prompt.ids_BT)
    pos_BT = models.positions(prompt.valid_BT)
    h_BTD, _ = models.run(model, params, x_BTD, prompt.valid_BT, pos_BT, left_padded=True)
    return inner_distance(context, agent, links, h_BTD[:, :-1], x_BTD[:, 1:], batch.predicted())


def inner_distance(
    context: TrainingContext, agent: str, links: Params, h_BTD: Array, y_BTD: Array, mask_BT: Array
) -> Array:
    """The mean cosine distance of `inner(h)` to `y` over the masked positions; a scalar.

    With `TrainingContext.token_mean` every position of the batch counts alike (the release), else
    every row that has any.
    """
    z_BTD = context.spec.links.inner(links, agent, jax.lax.stop_gradient(h_BTD))
    y_BTD = y_BTD.astype(z_BTD.dtype)
    distance_BT = 1.0 - optax.losses.cosine_similarity(z_BTD, y_BTD, epsilon=1e-8)
    if context.token_mean:
        return row_mean(distance_BT.reshape(-1), mask_BT.reshape(-1))
    return row_mean(row_mean(distance_BT, mask_BT), jnp.any(mask_BT, axis=-1))


def inner_weight(context: TrainingContext, mask_BT: Array) -> Array:
    """What `inner_distance` is a mean over: the number of positions or of rows; a scalar."""
    return jnp.sum(mask_BT if context.token_mean else jnp.any(mask_BT, axis=-1))
