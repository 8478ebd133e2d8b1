"""Int8 weights for frozen agents: symmetric, one scale per output channel.

What is quantised is every matrix that inputs are multiplied by (`*_proj/kernel`, `head/kernel`).
Embeddings, norms, biases, convolutions and the decay of delta layers stay as they are. Such a
tree runs wherever the full one does: `ops.matmul` reads both.
"""

import jax
import jax.numpy as jnp

from rmas.shapes import Array, Params

_LARGEST = 127


def is_quantized(path: str) -> bool:
    """Whether a parameter becomes int8, by its path (as in `head/kernel`)."""
    *_, owner, name = path.split("/")
    return name == "kernel" and (owner == "head" or owner.endswith("_proj"))


@jax.jit
def quantize_kernel(kernel_DF: Array) -> Params:
    """`{"kernel": int8 [..., D, F], "scale": float32 [..., F]}` with `kernel ~ int8 * scale`.

    Each output channel is scaled so that its largest weight is 127; one of zeros has scale 1.
    """
    wide_DF = kernel_DF.astype(jnp.float32)
    largest_F = jnp.max(jnp.abs(wide_DF), axis=-2)
    scale_F = jnp.where(largest_F > 0, largest_F / _LARGEST, 1.0)
    q_DF = jnp.round(wide_DF / scale_F[..., None, :]).astype(jnp.int8)
    return {"kernel": q_DF, "scale": scale_F}


def quantize(params: Params, path: str = "") -> Params:
    """A tree of parameters with its matrices in int8."""
    out: Params = {}
    for name, value in params.items():
        here = f"{path}/{name}" if path else name
        if isinstance(value, dict):
            out[name] = quantize(value, here)
        elif is_quantized(here):
            out |= quantize_kernel(value)
        else:
            out[name] = value
    return out
