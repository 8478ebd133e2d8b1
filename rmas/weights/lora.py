"""LoRA: low-rank factors beside the matrices of frozen agents (arXiv 2106.09685).

A matrix `kernel [D, F]` becomes `kernel + (alpha / rank) a @ b`, with `a [D, R]` and `b [R, F]`;
`ops.matmul` computes with the factors, beside int8 kernels too. Every `*_proj` kernel of the layers
is adapted: of attention, of MLPs and of delta-net layers. Embeddings, head, norms, biases and
convolutions are not. An adapter is a tree of its own, with the paths of these kernels, so that
agents that share weights can each have one.
"""

import jax
import jax.numpy as jnp

from rmas.models.ops import LORA_A, LORA_B, PRECISION, at_least_float32
from rmas.shapes import Array, Params


def init_lora(params: Params, rank: int, key: Array) -> Params:
    """A new adapter for a model, float32: its product is zero until `lora_b` is trained.

    `lora_a [..., D, R]` is uniform within `D ** -0.5`, as PEFT draws it (Kaiming, with a = sqrt 5);
    `lora_b [..., R, F]` is zero. Factors of stacked layers are stacked. `params` may be shapes.
    """
    made = 0

    def adapter(tree: Params) -> Params:
        nonlocal made
        found: Params = {}
        for name, value in sorted(tree.items()):
            if not isinstance(value, dict):
                continue
            if name.endswith("_proj"):
                *lead, width, features = value["kernel"].shape
                own, bound = jax.random.fold_in(key, made), width**-0.5
                made += 1
                shape = (*lead, width, rank)
                found[name] = {
                    LORA_A: jax.random.uniform(own, shape, jnp.float32, -bound, bound),
                    LORA_B: jnp.zeros((*lead, rank, features), jnp.float32),
                }
            elif below := adapter(value):
                found[name] = below
        return found

    return {"layers": adapter(params["layers"])}


def with_lora(params: Params, lora: Params, alpha: float) -> Params:
    """The model's tree with an adapter's factors beside its kernels, which stay the same arrays.

    Factors are cast to the dtype of the model's embeddings; `lora_b` carries `alpha / rank`.
    """
    dtype = params["embed"]["weight"].dtype

    def joined(tree: Params, adapter: Params) -> Params:
        if LORA_A in adapter:
            scaled_RF = adapter[LORA_B] * _scale(adapter, alpha)
            factors = {LORA_A: adapter[LORA_A].astype(dtype), LORA_B: scaled_RF.astype(dtype)}
            return {**tree, **factors}
        return {**tree, **{name: joined(tree[name], own) for name, own in adapter.items()}}

    return joined(params, lora)


def merge_lora(params: Params, lora: Params, alpha: float) -> Params:
    """The model whose kernels are `kernel + (alpha / rank) a @ b`, for export.

    Int8 kernels are dequantized, since the sum is not int8; the others keep their dtype.
    """
    dtype = params["embed"]["weight"].dtype
    wide = jnp.promote_types(dtype, jnp.float32)

    def merged(tree: Params, adapter: Params) -> Params:
        if LORA_A not in adapter:
            return {**tree, **{name: merged(tree[name], own) for name, own in adapter.items()}}
        kernel_DF, own = at_least_float32(tree["kernel"]), tree["kernel"].dtype
        if "scale" in tree:
            kernel_DF, own = kernel_DF.astype(wide) * tree["scale"][..., None, :], dtype
        a_DR, b_RF = at_least_float32(adapter[LORA_A]), at_least_float32(adapter[LORA_B])
        sum_DF = jnp.matmul(a_DR, b_RF, precision=PRECISION) * _scale(adapter, alpha)
        rest = {name: x for name, x in tree.items() if name != "scale"}
        return {**rest, "kernel": (kernel_DF + sum_DF).astype(own)}

    return merged(params, lora)


def _scale(adapter: Params, alpha: float) -> float:
    return alpha / adapter[LORA_A].shape[-1]
