"""The maths of the decoder layers, as pure functions.

Types follow the arguments: bfloat16 weights compute in bfloat16, float64 ones in float64.
Norms, rotary angles and softmax run in float32 at least.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmas.models.spec import RopeSpec
from rmas.shapes import Array, Params

# Without it, products of float32 arrays run in bfloat16 or TF32 on accelerators.
PRECISION = lax.Precision.HIGHEST
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
_MASKED = -1e30


@jax.custom_vjp
def int8_matmul(x_TD: Array, q_DF: Array, scale_F: Array) -> Array:
    """`x @ (q * scale)` for frozen weights stored as int8 with one scale per output channel.

    Reverse mode keeps the stored weight, never its dequantised copy; the weight itself gets
    no gradient.
    """
    # Tied to `x`, or a loop over `x` would keep the weight dequantised throughout.
    x_TD, q_DF = lax.optimization_barrier((x_TD, q_DF))
    wide = jnp.promote_types(x_TD.dtype, scale_F.dtype)
    y_TF = jnp.matmul(
        x_TD, q_DF.astype(x_TD.dtype), precision=PRECISION, preferred_element_type=wide
    )
    return (y_TF * scale_F).astype(x_TD.dtype)


def _int8_forward(x_TD, q_DF, scale_F):
    return int8_matmul(x_TD, q_DF, scale_F), (q_DF, scale_F)


def _int8_backward(stored, dy_TF):
    q_DF, scale_F = stored
    dy_TF, q_DF = lax.optimization_barrier(((dy_TF * scale_F).astype(dy_TF.dtype), q_DF))
    return jnp.matmul(dy_TF, q_DF.astype(dy_TF.dtype).T, precision=PRECISION), None, None


int8_matmul.defvjp(_int8_forward, _int8_backward)


def matmul(x_TD: Array, weights: Params) -> Array:
    """`x @ kernel` in the type of `x`, the kernel as stored: whole, or int8 with its scale."""
    if "scale" in weights:
        return int8_matmul(x_TD, weights["kernel"], weights["scale"])
    return jnp.matmul(x_TD, weights["kernel"], precision=PRECISION)


def at_least_float32(x: Array) -> Array:
    """`x` in float32, or as it is when already wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rms_norm(x_TD: Array, weight_D: Array, eps: float, offset: bool = False) -> Array:
    """Root-mean-square norm over the last axis.

    The weight scales what is rounded back to the type of `x_TD`; with `offset`, `1 + weight`
    scales before rounding (gemma3, qwen3_5).
    """
    y_TD = at_least_float32(x_TD)
    y_TD = y_TD * lax.rsqrt(jnp.mean(y_TD * y_TD, axis=-1, keepdims=True) + eps)
    if offset:
        return (y_TD * (1.0 + at_least_float32(weight_D))).astype(x_TD.dtype)
    return weight_D * y_TD.astype(x_TD.dtype)


def soft_cap(x: Array, cap: float) -> Array:
    """`x` bent so that it stays within `cap`."""
    return cap * jnp.tanh(x / cap)


def inverse_frequencies(rope: RopeSpec) -> np.ndarray:
    """Rotary angle per position for each of `rope.dim // 2` pairs, float32.

    The llama3 form keeps wavelengths shorter than `original / high`, divides those longer
    than `original / low` by `factor`, and interpolates between (Llama 3.1 model card).
    """
    exponent = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    inverse = (np.float32(1.0) / np.float32(rope.theta) ** exponent).astype(np.float32)
    if rope.kind == "default":
        return inverse
    if rope.kind == "linear":
        return inverse / np.float32(rope.factor)
    wavelength = 2 * math.pi / inverse
    smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    return ((1 - smooth) * inverse / rope.factor + smooth * inverse).astype(np.float32)


def rope_angles(rope: RopeSpec, pos_BT: Array, dtype) -> tuple[Array, Array]:
    """Cosines and sines `[B, T, 1, dim // 2]` for integer positions, float32 at least."""
    inverse = jnp.asarray(inverse_frequencies(rope), jnp.promote_types(dtype, jnp.float32))
    angle_BT1 = pos_BT[:, :, None, None].astype(inverse.dtype) * inverse
    return jnp.cos(angle_BT1), jnp.sin(angle_BT1)


def apply_rope(x_BTHK: Array, cos: Array, sin: Array) -> Array:
    """Rotates the pairs (i, i + dim/2) of the first `dim` numbers of each head."""
    dim = 2 * cos.shape[-1]
    x1, x2 = jnp.split(at_least_float32(x_BTHK[..., :dim]), 2, axis=-1)
    rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return jnp.concatenate([rotated.astype(x_BTHK.dtype), x_BTHK[..., dim:]], axis=-1)


def attend(q_BTHGK: Array, segments: list[tuple[Array, Array, Array]], scale: float) -> Array:
    """Attention over key segments `(k_BSHK, v_BSHK, mask_BTS)` as if they were concatenated.

    Each segment gives partial sums that share one maximum, so keys are never copied together
    and key/value heads never repeated. Scores are multiplied by `scale`. A query with nothing to
    attend to gives zeros.
    Returns `[B, T, H, G, K]` in the type of the queries.
    """
    scores = []
    for k_BSHK, _, mask_BTS in segments:
        s_BHGTS = jnp.einsum("BTHGK,BSHK->BHGTS", q_BTHGK, k_BSHK, precision=PRECISION)
        s_BHGTS = at_least_float32(s_BHGTS) * scale
        scores.append(jnp.where(mask_BTS[:, None, None], s_BHGTS, _MASKED))
    top = jnp.max(jnp.stack([jnp.max(s, axis=-1) for s in scores]), axis=0)[..., None]
    top = lax.stop_gradient(top)
    total, out = 0.0, 0.0
    for s_BHGTS, (_, v_BSHK, mask_BTS) in zip(scores, segments, strict=True):
        # Masked twice: where every key is masked, exp(s - top) would be one.
        w_BHGTS = jnp.where(mask_BTS[:, None, None], jnp.exp(s_BHGTS - top), 0.0)
        total = total + jnp.sum(w_BHGTS, axis=-1, keepdims=True)
        w_BHGTS = w_BHGTS.astype(v_BSHK.dtype)
        o_BHGTK = jnp.einsum("BHGTS,BSHK->BHGTK", w_BHGTS, v_BSHK, precision=PRECISION)
        out = out + at_least_float32(o_BHGTK)
    out = out / jnp.where(total > 0, total, 1.0)
    return jnp.moveaxis(out, 3, 1).astype(q_BTHGK.dtype)
