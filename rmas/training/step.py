"""One update of the links as one compiled program: gradients, in parts if need be, and AdamW."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh

from rmas.parallel import constrain, replicated
from rmas.shapes import Array, Params

Loss = Callable[..., tuple[Array, dict[str, Array]]]
"""`loss(links, frozen, batch, key) -> (loss, parts)`: links alone are differentiated. With taps
(see `tap`) they are its last argument."""


@struct.dataclass
class TrainState:
    """All that training changes; the checkpoint adds the place in the data."""

    links: Params
    opt_state: optax.OptState
    step: Array


@jax.custom_vjp
def tap(tree: Params, squares: Array) -> Params:
    """The tree as it is. The gradient of `squares`, a zero, is the sum of squares of the tree's.

    So a program tells how large a gradient was where it passed: at one turn of one round.
    """
    return tree


def _tap_forward(tree: Params, squares: Array) -> tuple[Params, None]:
    return tree, None


def _tap_backward(_: None, grads: Params) -> tuple[Params, Array]:
    total = sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads))
    return grads, total


tap.defvjp(_tap_forward, _tap_backward)


def init_train_state(links: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(links, optimizer.init(links), jnp.zeros((), jnp.int32))


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    seed: int,
    place: Any,
    mesh: Mesh,
    axes: Any = 0,
    accumulate: int = 1,
    taps: Params | None = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Array]]]:
    """The compiled update `(state, frozen, batch) -> (state, metrics)`.

    Args:
      place: the shardings of the state; it goes in and comes out there.
      axes: where the rows are in the batch's arrays, as `jax.vmap` takes it.
      accumulate: into how many parts of equal size a batch is cut; gradients are summed over
        rows, and divided by their number at the end. A part keeps every device busy.
      taps: zeros for the loss's last argument; see `tap`. With parts, norms by round are the root
        mean square of those of the parts.

    `frozen` holds whatever is not trained; it is an argument, so that weights are neither copied
    into the program nor donated. Links are gathered once a step, before the loss.
    """
    whole = replicated(mesh)

    def of_part(links: Params, taps: Params | None, frozen, batch, key: Array):
        if mesh.size > 1:
            links = lax.with_sharding_constraint(links, whole)
        return loss(links, frozen, batch, key, *([] if taps is None else [taps]))

    def gradients(links: Params, frozen, batch, key: Array):
        grad_fn = jax.value_and_grad(of_part, argnums=(0, 1), has_aux=True)
        if accumulate == 1:
            return grad_fn(links, taps, frozen, batch, key)

        def add(total, part):
            n, rows = part
            found = grad_fn(links, taps, frozen, rows, jax.random.fold_in(key, n))
            return jax.tree.map(jnp.add, total, found), None

        parts = (jnp.arange(accumulate), _cut(batch, axes, accumulate))
        first = jax.tree.map(lambda x: x[0], parts[1])
        shapes = jax.eval_shape(grad_fn, links, taps, frozen, first, key)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = lax.scan(add, zero, parts)
        return jax.tree.map(lambda x: x / accumulate, total)

    @functools.partial(jax.jit, out_shardings=(place, whole))
    def step(state: TrainState, frozen, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, parts), (grads, squares) = gradients(state.links, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.links)
        links = optax.apply_updates(state.links, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **parts}
        metrics |= _norms(grads, squares)
        return TrainState(links, opt_state, state.step + 1), metrics

    return step


def _cut(batch: Any, axes: Any, n: int) -> Any:
    """A batch as `n` parts in front: part i has the rows i, n + i, 2n + i, ..., of all devices."""

    def one(axis: int, x: Array) -> Array:
        shape = (*x.shape[:axis], x.shape[axis] // n, n, *x.shape[axis + 1 :])
        x = jnp.moveaxis(x.reshape(shape), axis + 1, 0)
        return constrain(x, *[None] * (axis + 1), "batch", *[None] * (x.ndim - axis - 2))

    return jax.tree.map(lambda axis, part: jax.tree.map(lambda x: one(axis, x), part), axes, batch)


def _norms(grads: Params, squares: Params | None) -> dict[str, Array]:
    """Gradient norms by link (`grad_norm/outer/a->b`), and of its rounds apart (`.../round`)."""
    found = {}
    for part, links in grads.items() if isinstance(grads, dict) else ():
        if part in ("inner", "outer"):
            for name, tree in links.items():
                found[f"grad_norm/{part}/{name}"] = optax.tree.norm(tree)
    for turns in (squares or {}).values():
        for name, squares_R in turns.items():
            found[f"grad_norm/{name}/round"] = jnp.sqrt(squares_R)
    return found
