"""Drawing the next token of each row from its logits, without sorting the vocabulary.

A threshold on the logits decides which tokens top-k and top-p keep. It is found digit by digit
in the order of floating-point numbers, from counts and sums over the vocabulary alone: where the
vocabulary is split over devices, only these numbers are exchanged, and every pass reads the logits
once.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmas.options import Options, option
from rmas.shapes import Array

_DIGIT = 2
"""Bits of the threshold that one pass decides; each pass compares with `2**_DIGIT - 1` values."""


@dataclasses.dataclass(frozen=True)
class Sampling(Options):
    """How a token is drawn from the logits; the default is greedy."""

    temperature: float = option(0.0, "of the softmax; 0 is greedy", least=0)
    top_p: float = option(
        1.0, "probability mass of the likeliest tokens; 1 is off", above=0, most=1
    )
    top_k: int = option(0, "number of the likeliest tokens; 0 is off", least=0)


def choose(sampling: Sampling, logits_BV: Array, key_B: Array, count_B: Array) -> Array:
    """The next id of each row, `[B]` int32, from `key_B` and the number of tokens written."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = keep_likeliest(sampling, logits_BV / sampling.temperature)
    step_B = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(key_B), count_B)
    return jax.vmap(jax.random.categorical)(step_B, logits_BV).astype(jnp.int32)


def keep_likeliest(sampling: Sampling, logits_BV: Array) -> Array:
    """The logits, with -inf for each token that `top_k` and `top_p` leave out.

    Every token is kept whose logit is at least that of the last token needed, so that ties stay
    together. `top_k` needs the k likeliest; `top_p` needs as few of the likeliest as reach it, in
    the softmax over these k alone. Sums are rounded to the dtype of the logits. NaN counts as -inf.
    With neither, the logits are returned as they are.

    Args:
      logits_BV: divided by the temperature; float32 or float64.
    """
    if sampling.top_k == 0 and sampling.top_p == 1:
        return logits_BV
    size = logits_BV.shape[1]
    k = min(sampling.top_k or size, size)
    logits_BV = jnp.where(jnp.isnan(logits_BV), -jnp.inf, logits_BV)
    top_B1 = jnp.max(logits_BV, axis=1, keepdims=True)
    floor_B1 = jnp.full_like(top_B1, -jnp.inf)
    if k < size:
        floor_B1 = _threshold(logits_BV, jnp.full_like(top_B1, k, jnp.int32))
    if sampling.top_p < 1:
        above_BV = logits_BV > floor_B1
        total_B1 = jnp.sum(
            jnp.where(above_BV, _weight(logits_BV, top_B1), 0), axis=1, keepdims=True
        )
        # Of several tokens at the floor, only as many count as make up k.
        n_at_floor_B1 = k - jnp.sum(above_BV, axis=1, keepdims=True, dtype=jnp.int32)
        total_B1 += n_at_floor_B1.astype(total_B1.dtype) * _weight(floor_B1, top_B1)
        reaches_B1 = _threshold(logits_BV, sampling.top_p * total_B1, top_B1)
        floor_B1 = jnp.clip(reaches_B1, floor_B1, top_B1)
    return jnp.where(logits_BV >= floor_B1, logits_BV, -jnp.inf)


def _threshold(x_BV: Array, target_B1: Array, top_B1: Array | None = None) -> Array:
    """The largest value `[B, 1]` such that the elements that are at least it sum to the target.

    Each counts as one, or, with `top_B1`, as its `_weight`. The value is an element of its row;
    where rounding keeps all of a row below the target, it is -inf.
    """
    bits = 8 * x_BV.dtype.itemsize
    integer = jnp.dtype(f"int{bits}")

    def decide(i: Array, order_B1: Array) -> Array:
        """Adds a digit: the largest such that enough elements are at least the value."""
        if top_B1 is None:
            counts_BV = jnp.ones_like(x_BV, target_B1.dtype)
        else:
            # The barrier keeps the weights in the loop: storing them doubles what a pass reads.
            held_B1, order_B1 = lax.optimization_barrier((top_B1, order_B1))
            counts_BV = _weight(x_BV, held_B1)
        shift = (bits - _DIGIT * (i + 1)).astype(integer)
        digit_B1 = jnp.zeros_like(order_B1)
        for digit in range(1, 2**_DIGIT):
            value_B1 = _at_order(order_B1 + (integer.type(digit) << shift), x_BV.dtype)
            sums_B1 = jnp.sum(jnp.where(x_BV >= value_B1, counts_BV, 0), axis=1, keepdims=True)
            digit_B1 += (sums_B1 >= target_B1).astype(integer)
        return order_B1 + (digit_B1 << shift)

    first_B1 = jnp.full_like(target_B1, jnp.iinfo(integer).min, integer)
    return _at_order(lax.fori_loop(0, bits // _DIGIT, decide, first_B1), x_BV.dtype)


def _weight(x_BV: Array, top_B1: Array) -> Array:
    """What a token counts in the softmax, relative to the likeliest; one for any at the top."""
    return jnp.where(x_BV == top_B1, 1, jnp.exp(x_BV - top_B1))


def _at_order(order: Array, dtype: jnp.dtype) -> Array:
    """The number at a place in the order of all numbers of a dtype; NaN is past both infinities.

    Bits of positive numbers, read as integers, have the order of the numbers; those of negative
    ones have the reverse order. Places of NaN give the infinity next to them.
    """
    largest = jnp.iinfo(order.dtype).max
    infinity = int(np.array(np.inf, dtype).view(order.dtype))
    order = jnp.clip(order, -infinity - 1, infinity)
    return lax.bitcast_convert_type(jnp.where(order < 0, order ^ largest, order), dtype)
