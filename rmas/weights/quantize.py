"""Int8 weights for frozen agents: symmetric, one scale per output channel.

The kernels of linear maps are quantized (`*_proj/kernel`, `head/kernel`); embeddings, norms,
biases, convolutions and the decay of delta-net layers are not. All functions of `rmas.models`
accept quantized parameters: `ops.matmul` handles both kinds.
"""

import jax
import jax.numpy as jnp

from rmas.shapes import Array, Params

_LARGEST = 127


def is_quantized(path: str) -> bool:
    """Whether the parameter at this path (as in `head/kernel`) is converted to int8."""
    *_, owner, name = path.split("/")
    return name == "kernel" and (owner == "head" or owner.endswith("_proj"))


@jax.jit
def quantize_kernel(kernel_DF: Array) -> Params:
    """Quantizes a kernel `[..., D, F]`.

    Returns `{"kernel": int8 [..., D, F], "scale": float32 [..., F]}`, whose product approximates
    the kernel. In each output channel the largest absolute int8 value is 127; a channel of zeros
    has scale 1.
    """
    wide_DF = kernel_DF.astype(jnp.float32)
    largest_F = jnp.max(jnp.abs(wide_DF), axis=-2)
    scale_F = jnp.where(largest_F > 0, largest_F / _LARGEST, 1.0)
    q_DF = jnp.round(wide_DF / scale_F[..., None, :]).astype(jnp.int8)
    return {"kernel": q_DF, "scale": scale_F}


def quantize(params: Params, path: str = "") -> Params:
    """A copy of a tree of parameters with its kernels in int8; `path` is the tree's own path."""
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
