"""Layer modules: how positions mix (attention) and how each is transformed (gated MLP).

Every mixer has one signature, `mixer(x_BTD, context, past) -> (y_BTD, entry)`: `past` holds
this layer's entry of each cache segment, `entry` is what the new positions add.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from rmas.models import ops
from rmas.models.cache import KV
from rmas.models.spec import LayerSpec, ModelSpec
from rmas.shapes import Array


@dataclasses.dataclass(frozen=True)
class Context:
    """What all layers with one `LayerSpec` share for a call: rotary angles and masks.

    `masks` has one `[B, T, S]` entry per cache segment and a last one for the new positions.
    """

    cos: Array
    sin: Array
    masks: tuple[Array, ...]


def make_context(
    spec: ModelSpec, layer: LayerSpec, pos_BT: Array, valid_BT: Array, past: tuple, dtype
) -> Context:
    """Builds the context of one kind of layer; `past` is a tuple of `Segment`."""
    cos, sin = ops.rope_angles(layer.rope, pos_BT, spec.head_dim, dtype)
    causal_TT = jnp.tril(jnp.ones((pos_BT.shape[1],) * 2, bool))
    seen = [(s.valid_BS[:, None, :], s.pos_BS) for s in past]
    seen.append((valid_BT[:, None, :] & causal_TT, pos_BT))
    masks = []
    for mask_BTS, pos_BS in seen:
        if layer.window is not None:
            mask_BTS = mask_BTS & (pos_BT[:, :, None] - pos_BS[:, None, :] < layer.window)
        masks.append(jnp.broadcast_to(mask_BTS, (*pos_BT.shape, pos_BS.shape[1])))
    return Context(cos, sin, tuple(masks))


def dense(features: int, bias: bool, name: str) -> nn.Dense:
    """A linear map whose type follows its argument and weights."""
    return nn.Dense(
        features,
        use_bias=bias,
        precision=ops.PRECISION,
        kernel_init=nn.initializers.lecun_normal(),
        name=name,
    )


class RMSNorm(nn.Module):
    """`ops.rms_norm` with its weight."""

    eps: float

    @nn.compact
    def __call__(self, x_TD: Array) -> Array:
        weight_D = self.param("weight", nn.initializers.ones, (x_TD.shape[-1],))
        return ops.rms_norm(x_TD, weight_D, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; q/k norm and biases as the spec says."""

    spec: ModelSpec

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: tuple[KV, ...]) -> tuple[Array, KV]:
        s = self.spec
        B, T, _ = x_BTD.shape

        def heads(name: str, n: int) -> Array:
            y = dense(n * s.head_dim, s.qkv_bias, f"{name}_proj")(x_BTD)
            return y.reshape(B, T, n, s.head_dim)

        q_BTHK, k_BSHK = heads("q", s.n_heads), heads("k", s.n_kv_heads)
        v_BSHK = heads("v", s.n_kv_heads)
        if s.qk_norm:
            q_BTHK = RMSNorm(s.norm_eps, name="q_norm")(q_BTHK)
            k_BSHK = RMSNorm(s.norm_eps, name="k_norm")(k_BSHK)
        q_BTHK = ops.apply_rope(q_BTHK, context.cos, context.sin)
        new = KV(ops.apply_rope(k_BSHK, context.cos, context.sin), v_BSHK)
        q_BTHGK = q_BTHK.reshape(B, T, s.n_kv_heads, s.n_heads // s.n_kv_heads, s.head_dim)
        segments = [
            (kv.k_BSHK, kv.v_BSHK, mask_BTS)
            for kv, mask_BTS in zip((*past, new), context.masks, strict=True)
        ]
        o_BTF = ops.attend(q_BTHGK, segments).reshape(B, T, -1)
        return dense(s.d_model, s.out_bias, "o_proj")(o_BTF), new


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))`."""

    spec: ModelSpec

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        s = self.spec
        gate_BTF = ops.ACTIVATIONS[s.activation](dense(s.d_ff, s.mlp_bias, "gate_proj")(x_BTD))
        up_BTF = dense(s.d_ff, s.mlp_bias, "up_proj")(x_BTD)
        return dense(s.d_model, s.mlp_bias, "down_proj")(gate_BTF * up_BTF)


class Block(nn.Module):
    """One decoder layer: mixer and MLP, each behind its norm, each added to the stream."""

    spec: ModelSpec

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: tuple[KV, ...]) -> tuple[Array, KV]:
        eps = self.spec.norm_eps
        normed = RMSNorm(eps, name="input_norm")(x_BTD)
        y_BTD, entry = Attention(self.spec, name="attention")(normed, context, past)
        x_BTD = x_BTD + y_BTD
        return x_BTD + GatedMLP(self.spec, name="mlp")(RMSNorm(eps, name="mlp_norm")(x_BTD)), entry
