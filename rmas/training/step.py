"""One update of the links as one compiled program: gradients, accumulated if asked, and AdamW."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh

from rmas.parallel import constrain, replicated, state_shardings
from rmas.shapes import Array, Params

Loss = Callable[..., tuple[Array, dict[str, Array]]]
"""`loss(links, frozen, batch, key) -> (loss, metrics)`: only links are differentiated. A task with
probes (see `gradient_probe`) passes them as a last argument."""

Weigh = Callable[[Any], Array]
"""`weigh(batch)`: the number of what the loss is a mean over, a scalar."""


@struct.dataclass
class TrainState:
    """All that training changes; the checkpoint adds the position in the data.

    Attributes:
      links: the trained links, float32, or whatever is trained in their place.
      opt_state: the optimizer's moments and counts.
      step: updates done, int32.
    """

    links: Params
    opt_state: optax.OptState
    step: Array


@jax.custom_vjp
def gradient_probe(tree: Params, squares: Array) -> Params:
    """Returns the tree unchanged, and measures its gradient at this place of a program.

    `squares` is a scalar zero. Its own gradient is the sum of squares of the gradient that flows
    back through this call: that of one use of the tree, such as one agent's turn in one round.
    """
    return tree


def _probe_forward(tree: Params, squares: Array) -> tuple[Params, None]:
    return tree, None


def _probe_backward(_: None, grads: Params) -> tuple[Params, Array]:
    total = sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads))
    return grads, jnp.asarray(total)


gradient_probe.defvjp(_probe_forward, _probe_backward)


def init_train_state(links: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(links, optimizer.init(links), jnp.zeros((), jnp.int32))


def shardings_of(
    mesh: Mesh,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    trained: Any = None,
) -> TrainState:
    """Where a state lies between steps, as a tree like `state` (of arrays or their shapes).

    `trained` are the shardings of what is trained, which moments follow; None: those of links.
    """
    if trained is None:
        return state_shardings(mesh, state)
    whole = replicated(mesh)
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, at: at,
        state.opt_state,
        trained,
        transform_non_params=lambda _: whole,
    )
    return TrainState(trained, moments, whole)  # type: ignore[arg-type]  # shardings for arrays


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    seed: int,
    shardings: Any,
    mesh: Mesh,
    axes: Any = 0,
    accumulate: int = 1,
    probes: Params | None = None,
    weigh: Weigh | None = None,
    gather: bool = True,
) -> jax.stages.Wrapped:
    """The jitted update `(state, frozen, batch) -> (state, metrics)`, which consumes its state.

    Args:
      shardings: those of the state, before and after the update.
      axes: the axis of the rows in the batch's arrays, as `jax.vmap` reads `in_axes`.
      accumulate: gradient accumulation: the number of micro-batches of equal size that a batch is
        cut into. Losses and gradients are averaged over them. Each has rows of every device.
      weigh: the weight of a micro-batch in these averages; without it all weigh alike.
      probes: zeros for the loss's last argument; see `gradient_probe`. With accumulation, norms by
        round are the root mean square of those of the micro-batches.
      gather: whether links are gathered once a step, before the loss; else each use of them sees
        them split as they lie between steps.

    The state is donated: the new one is written over it, and its arrays are deleted. `frozen`
    holds whatever is not trained; it is an argument, so that weights are neither copied into the
    program nor donated. Metrics are `loss`, `grad_norm`, those of the loss, and gradient norms by
    link.
    """
    whole = replicated(mesh)

    def replicated_loss(
        links: Params, probes: Params | None, frozen: Any, batch: Any, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        if gather and mesh.size > 1:
            links = lax.with_sharding_constraint(links, whole)
        return loss(links, frozen, batch, key, *([] if probes is None else [probes]))

    def gradients(links: Params, frozen: Any, batch: Any, key: Array) -> Any:
        grad_fn = jax.value_and_grad(replicated_loss, argnums=(0, 1), has_aux=True)
        if accumulate == 1:
            return grad_fn(links, probes, frozen, batch, key)

        def add(total: Any, micro_batch: tuple[Array, Any, Array]) -> tuple[Any, None]:
            n, rows, share = micro_batch
            found = grad_fn(links, probes, frozen, rows, jax.random.fold_in(key, n))
            return jax.tree.map(lambda x, y: x + (share * y).astype(x.dtype), total, found), None

        micro_batches = _cut(batch, axes, accumulate)
        first = jax.tree.map(lambda x: x[0], micro_batches)
        shapes = jax.eval_shape(grad_fn, links, probes, frozen, first, key)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        weights = jnp.ones(accumulate) if weigh is None else jax.vmap(weigh)(micro_batches)
        shares = weights / jnp.maximum(jnp.sum(weights), 1)
        return lax.scan(add, zero, (jnp.arange(accumulate), micro_batches, shares))[0]

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, whole))
    def step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, more), (grads, squares) = gradients(state.links, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.links)
        links = optax.apply_updates(state.links, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **more}
        metrics |= _norms(grads, squares)
        return TrainState(links, opt_state, state.step + 1), metrics

    return step


def _cut(batch: Any, axes: Any, n: int) -> Any:
    """A batch as `n` micro-batches on a new first axis; number i has the rows i, n + i, 2n + i, ...

    So each has as many rows of every device.
    """

    def one(axis: int, x: Array) -> Array:
        shape = (*x.shape[:axis], x.shape[axis] // n, n, *x.shape[axis + 1 :])
        x = jnp.moveaxis(x.reshape(shape), axis + 1, 0)
        return constrain(x, *[None] * (axis + 1), "batch", *[None] * (x.ndim - axis - 2))

    return jax.tree.map(lambda axis, part: jax.tree.map(lambda x: one(axis, x), part), axes, batch)


def _norms(grads: Params, squares: Params | None) -> dict[str, Array]:
    """Gradient norms by link (`grad_norm/outer/a->b`), and by link and round (`.../round`)."""
    found = {}
    for part, links in grads.items() if isinstance(grads, dict) else ():
        if part in ("inner", "outer"):
            for name, tree in links.items():
                found[f"grad_norm/{part}/{name}"] = optax.tree.norm(tree)
    for turns in (squares or {}).values():
        for name, squares_R in turns.items():
            found[f"grad_norm/{name}/round"] = jnp.sqrt(squares_R)
    return found
