"""The operations of decoder layers, as pure functions.

They compute in the dtype of their arguments: bfloat16, float32 or float64. Norms, rotary angles
and softmax are computed in float32 at least.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmas.models.spec import RopeSpec
from rmas.shapes import Array, Params

PRECISION = lax.Precision.HIGHEST
"""Of matrix products: by default accelerators multiply float32 arrays in bfloat16 or TF32."""
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
"""Activation functions by their name in `config.json`."""


@jax.custom_vjp
def int8_matmul(x_TD: Array, q_DF: Array, scale_F: Array) -> Array:
    """`x @ (q * scale)` for frozen weights stored as int8 with one scale per output channel.

    Reverse mode keeps the int8 weight, never a dequantized copy; the weight gets no gradient.
    """
    wide = jnp.promote_types(x_TD.dtype, scale_F.dtype)
    x_TD, w_DF = _converted(x_TD, q_DF)
    y_TF = jnp.matmul(x_TD, w_DF, precision=PRECISION, preferred_element_type=wide)
    return (y_TF * scale_F).astype(x_TD.dtype)


def _converted(x_TD: Array, q_DF: Array) -> tuple[Array, Array]:
    """`x_TD`, and the int8 weights in its dtype for a product with it."""
    # A zero that comes with `x` keeps the conversion inside a loop over `x`, which would else hold
    # a converted copy. So would a barrier on the weights, but TPUs then copy each layer's slice.
    # By way of float32 the conversion takes TPUs fewer instructions.
    x_TD, zero = lax.optimization_barrier((x_TD, jnp.zeros((), q_DF.dtype)))
    return x_TD, at_least_float32(q_DF + zero).astype(x_TD.dtype)


def _int8_forward(x_TD, q_DF, scale_F):
    return int8_matmul(x_TD, q_DF, scale_F), (q_DF, scale_F)


def _int8_backward(stored, dy_TF):
    q_DF, scale_F = stored
    dy_TF, w_DF = _converted((dy_TF * scale_F).astype(dy_TF.dtype), q_DF)
    return jnp.matmul(dy_TF, w_DF.T, precision=PRECISION), None, None


int8_matmul.defvjp(_int8_forward, _int8_backward)


LORA_A, LORA_B = "lora_a", "lora_b"
"""Low-rank factors `[D, R]` and `[R, F]` beside a kernel `[D, F]` (`rmas.weights.lora`)."""


def matmul(x_TD: Array, weights: Params) -> Array:
    """`x @ kernel` in the dtype of `x`; the kernel may be int8 with a `scale` beside it.

    With low-rank factors beside it, `x @ kernel + (x @ lora_a) @ lora_b`: their product is never
    made.
    """
    if "scale" in weights:
        y_TF = int8_matmul(x_TD, weights["kernel"], weights["scale"])
    else:
        y_TF = jnp.matmul(x_TD, weights["kernel"], precision=PRECISION)
    if LORA_A in weights:
        low_TR = jnp.matmul(x_TD, weights[LORA_A], precision=PRECISION)
        y_TF = y_TF + jnp.matmul(low_TR, weights[LORA_B], precision=PRECISION)
    return y_TF


def at_least_float32(x: Array) -> Array:
    """`x` in float32, or unchanged if it is float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rms_norm(x_TD: Array, weight_D: Array, eps: float, offset: bool = False) -> Array:
    """Root-mean-square norm over the last axis, in the dtype of `x_TD`.

    The result is rounded to that dtype and then multiplied by the weight; with `offset`
    (gemma3, qwen3_5) it is multiplied by `1 + weight` and then rounded.
    """
    y_TD = at_least_float32(x_TD)
    y_TD = y_TD * lax.rsqrt(jnp.mean(y_TD * y_TD, axis=-1, keepdims=True) + eps)
    if offset:
        return (y_TD * (1.0 + at_least_float32(weight_D))).astype(x_TD.dtype)
    return weight_D * y_TD.astype(x_TD.dtype)


def soft_cap(x: Array, cap: float) -> Array:
    """`cap * tanh(x / cap)`: `x` limited smoothly to the range from `-cap` to `cap`."""
    return cap * jnp.tanh(x / cap)


def inverse_frequencies(rope: RopeSpec) -> np.ndarray:
    """The rotary angle per position of each of `rope.dim // 2` pairs, float32.

    The llama3 form keeps frequencies of wavelengths shorter than `original / high`, divides those
    of wavelengths longer than `original / low` by `factor`, and interpolates between (Llama 3.1
    model card).
    """
    exponent = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    inverse = (np.float32(1.0) / np.float32(rope.theta) ** exponent).astype(np.float32)
    if rope.kind == "default":
        return inverse
    assert rope.factor is not None
    if rope.kind == "linear":
        return inverse / np.float32(rope.factor)
    assert rope.low_freq_factor is not None and rope.high_freq_factor is not None
    assert rope.original_max_positions is not None
    wavelength = 2 * math.pi / inverse
    smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    return ((1 - smooth) * inverse / rope.factor + smooth * inverse).astype(np.float32)


def rope_angles(rope: RopeSpec, pos_BT: Array, dtype) -> tuple[Array, Array]:
    """Cosines and sines `[B, T, 1, dim // 2]` of integer positions, float32 at least."""
    inverse = jnp.asarray(inverse_frequencies(rope), jnp.promote_types(dtype, jnp.float32))
    angle_BT1 = pos_BT[:, :, None, None].astype(inverse.dtype) * inverse
    return jnp.cos(angle_BT1), jnp.sin(angle_BT1)


def apply_rope(x_BTHK: Array, cos: Array, sin: Array) -> Array:
    """Rotates the pairs (i, i + dim / 2) of the first `dim` numbers of each head."""
    dim = 2 * cos.shape[-1]
    x1, x2 = jnp.split(at_least_float32(x_BTHK[..., :dim]), 2, axis=-1)
    rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return jnp.concatenate([rotated.astype(x_BTHK.dtype), x_BTHK[..., dim:]], axis=-1)
