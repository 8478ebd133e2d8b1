"""Reference loops over the public functions of `rmas.models`, for tests of the models alone."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rmas.models import embed, open_tail, positions, prefill, run, unembed, write


@functools.partial(jax.jit, static_argnums=0)
def whole(spec, params, x_BTD, valid_BT):
    """States and logits of a whole sequence, without a cache."""
    h_BTD, _ = run(spec, params, x_BTD, valid_BT, positions(valid_BT))
    return h_BTD, unembed(spec, params, h_BTD)


def _loop(spec, params, x_BTD, valid_BT, steps, feed):
    h_BD, prefix = prefill(spec, params, x_BTD, valid_BT)
    start_B = jnp.sum(valid_BT, axis=1, dtype=jnp.int32)
    one_B1 = jnp.ones((len(x_BTD), 1), bool)

    def step(carry, t):
        h_BD, tail = carry
        e_BD, out = feed(h_BD, t)
        pos_B1 = (start_B + t)[:, None]
        h_B1D, new = run(spec, params, e_BD[:, None], one_B1, pos_B1, (prefix, tail))
        return (h_B1D[:, 0], write(tail, new, one_B1, pos_B1)), (h_BD, out)

    prefix, tail = open_tail(spec, prefix, steps, h_BD.dtype)
    (h_BD, _), (states, outs) = lax.scan(step, (h_BD, tail), jnp.arange(steps, dtype=jnp.int32))
    states = jnp.concatenate([states, h_BD[None]])
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (states, outs))


@functools.partial(jax.jit, static_argnums=(0, 5))
def latent(spec, params, x_BTD, valid_BT, map_DD, steps):
    """Feeds `h @ map` back; returns the states [B, steps + 1, D] and what was fed back."""

    def feed(h_BD, t):
        return (h_BD @ map_DD,) * 2

    return _loop(spec, params, x_BTD, valid_BT, steps, feed)


@functools.partial(jax.jit, static_argnums=0)
def forced(spec, params, x_BTD, valid_BT, fed_BMD):
    """The states [B, M + 1, D] of a cached rollout that is fed given vectors."""

    def feed(h_BD, t):
        return fed_BMD[:, t], None

    return _loop(spec, params, x_BTD, valid_BT, fed_BMD.shape[1], feed)[0]


@functools.partial(jax.jit, static_argnums=(0, 4))
def greedy(spec, params, ids_BT, valid_BT, steps):
    """The most likely continuation, `[B, steps]` ids."""

    def feed(h_BD, t):
        ids_B = jnp.argmax(unembed(spec, params, h_BD), axis=-1)
        return embed(spec, params, ids_B), ids_B

    _, ids_BM = _loop(spec, params, embed(spec, params, ids_BT), valid_BT, steps, feed)
    return ids_BM
