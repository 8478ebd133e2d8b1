"""The gated delta rule: linear attention whose state decays, and the short convolution before it.

For each value head, with key k, value v, query q, write strength b and log decay g <= 0:

    S <- exp(g) S;  S <- S + k (b (v - S^T k))^T;  o = S^T q

(Gated DeltaNet, arXiv 2412.06464; transformers' qwen3_5.) All is computed in float32 at least.
Positions with b = 0 and g = 0 leave the state unchanged: that is how padding is masked.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rmas.models.ops import PRECISION, at_least_float32
from rmas.shapes import Array

CHUNK = 64
"""Positions that `chunked` processes at once."""
_EPS = 1e-6


def unit(x_BTHK: Array) -> Array:
    """Vectors divided by their length; the epsilon under the root keeps zeros zero."""
    return x_BTHK * lax.rsqrt(jnp.sum(x_BTHK * x_BTHK, axis=-1, keepdims=True) + _EPS)


def convolve(x_BTC: Array, window_BWC: Array, kernel_WC: Array) -> Array:
    """Causal depthwise convolution of T inputs.

    Args:
      window_BWC: the inputs before them, one position fewer than the kernel's width.

    Returns:
      `[B, T, C]` in the dtype of `x_BTC`, summed in float32 at least.
    """
    width, T = len(kernel_WC), x_BTC.shape[1]
    joined = jnp.concatenate([window_BWC.astype(x_BTC.dtype), x_BTC], axis=1)
    joined, kernel_WC = at_least_float32(joined), at_least_float32(kernel_WC)
    terms = (joined[:, w : w + T] * kernel_WC[w] for w in range(width))
    y_BTC = functools.reduce(jnp.add, terms)
    return y_BTC.astype(x_BTC.dtype)


def step(
    q_BHK: Array, k_BHK: Array, v_BHGU: Array, b_BHG: Array, g_BHG: Array, s_BHGKU: Array
) -> tuple[Array, Array]:
    """One position of the recurrence; the caller scales queries.

    Returns `o_BHGU` and the new state.
    """
    s_BHGKU = s_BHGKU * jnp.exp(g_BHG)[..., None, None]
    known_BHGU = jnp.einsum("BHGKU,BHK->BHGU", s_BHGKU, k_BHK, precision=PRECISION)
    write_BHGU = (v_BHGU - known_BHGU) * b_BHG[..., None]
    s_BHGKU = s_BHGKU + k_BHK[:, :, None, :, None] * write_BHGU[..., None, :]
    return jnp.einsum("BHGKU,BHK->BHGU", s_BHGKU, q_BHK, precision=PRECISION), s_BHGKU


def chunked(
    q_BTHK: Array, k_BTHK: Array, v_BTHGU: Array, b_BTHG: Array, g_BTHG: Array, s_BHGKU: Array
) -> tuple[Array, Array]:
    """T positions of the recurrence, `CHUNK` at a time.

    Within a chunk the writes depend on each other linearly: solving one triangular system gives
    all of them, for any state at the start of the chunk.

    Returns `o_BTHGU` and the new state.
    """
    T = q_BTHK.shape[1]
    size = min(CHUNK, T)

    def split(x: Array) -> Array:
        """`[B, T, ...]` to `[chunks, B, size, ...]`, padded with zeros at the end."""
        pad = [(0, 0), (0, -T % size)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, pad).reshape(len(x), -1, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    later = jnp.tril(jnp.ones((size, size), bool), -1)  # [I, J]: whether I is after J
    upto = jnp.tril(jnp.ones((size, size), bool))

    def body(s_BHGKU, xs):
        q_BIHK, k_BIHK, v_BIHGU, b_BIHG, g_BIHG = xs
        g_BHGI, b_BHGI = (jnp.moveaxis(z, 1, -1) for z in (g_BIHG, b_BIHG))
        v_BHGIU = jnp.moveaxis(v_BIHGU, 1, 3)
        # The log decay from J to I. Each is summed separately: in the difference of two cumulative
        # sums a weak decay after a strong one would be lost to rounding.
        between_BHGIJ = jnp.where(later, g_BHGI[..., None], 0.0)
        fall_BHGIJ = jnp.matmul(upto.astype(g_BHGI.dtype), between_BHGIJ, precision=PRECISION)
        fall_BHGIJ = jnp.where(upto, jnp.exp(fall_BHGIJ), 0.0)
        kk_BHIJ = jnp.einsum("BIHK,BJHK->BHIJ", k_BIHK, k_BIHK, precision=PRECISION)
        qk_BHIJ = jnp.einsum("BIHK,BJHK->BHIJ", q_BIHK, k_BIHK, precision=PRECISION)
        mixed_BHGIJ = b_BHGI[..., None] * fall_BHGIJ * kk_BHIJ[:, :, None]
        system = jnp.where(later, mixed_BHGIJ, 0.0) + jnp.eye(size, dtype=s_BHGKU.dtype)
        decay_BHGI = jnp.exp(jnp.cumsum(g_BHGI, axis=-1))
        known_BHGIU = jnp.einsum("BIHK,BHGKU->BHGIU", k_BIHK, s_BHGKU, precision=PRECISION)
        wanted = (v_BHGIU - decay_BHGI[..., None] * known_BHGIU) * b_BHGI[..., None]
        write_BHGIU = lax.linalg.triangular_solve(
            system, wanted, left_side=True, lower=True, unit_diagonal=True
        )
        read = jnp.einsum("BIHK,BHGKU->BHGIU", q_BIHK, s_BHGKU, precision=PRECISION)
        weights = fall_BHGIJ * qk_BHIJ[:, :, None]
        o_BHGIU = decay_BHGI[..., None] * read + jnp.einsum(
            "BHGIJ,BHGJU->BHGIU", weights, write_BHGIU, precision=PRECISION
        )
        left_BHGI = fall_BHGIJ[..., -1, :]
        s_BHGKU = s_BHGKU * decay_BHGI[..., -1, None, None] + jnp.einsum(
            "BIHK,BHGI,BHGIU->BHGKU", k_BIHK, left_BHGI, write_BHGIU, precision=PRECISION
        )
        return s_BHGKU, jnp.moveaxis(o_BHGIU, 3, 1)

    xs = tuple(split(x) for x in (q_BTHK, k_BTHK, v_BTHGU, b_BTHG, g_BTHG))
    s_BHGKU, out = lax.scan(body, s_BHGKU, xs)
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(len(out), -1, *out.shape[3:])[:, :T], s_BHGKU


def log_decay(a_BTH: Array, a_log_H: Array, dt_bias_H: Array) -> Array:
    """The log of each head's decay, `-exp(a_log) * softplus(a + dt_bias)`, which is at most 0."""
    a_BTH, dt_bias_H = at_least_float32(a_BTH), at_least_float32(dt_bias_H)
    return -jnp.exp(at_least_float32(a_log_H)) * jax.nn.softplus(a_BTH + dt_bias_H)
