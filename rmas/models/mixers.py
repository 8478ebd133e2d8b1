"""Flax modules of a decoder layer: the mixer (attention or gated delta rule), the MLP, norms.

Mixers are called alike: `mixer(x_BTD, context, past) -> (y_BTD, entry)`, where `past` holds this
layer's entries in the cache's segments and `entry` is the new positions' one.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmas.models import attention, delta, ops
from rmas.models.cache import KV, Entry, Segment, State, by_heads, empty_state
from rmas.models.spec import AttentionLayer, DeltaLayer, LayerSpec, ModelSpec
from rmas.parallel import constrain
from rmas.shapes import Array


@dataclasses.dataclass(frozen=True)
class AttentionContext:
    """What all attention layers with the same `LayerSpec` share in a call.

    Attributes:
      cos, sin: rotary angles (`ops.rope_angles`).
      masks: of each cache segment, and last of the new positions (see `attention.masks`).
    """

    cos: Array
    sin: Array
    masks: tuple[attention.Mask, ...]


@dataclasses.dataclass(frozen=True)
class DeltaContext:
    """What all recurrent layers share in a call.

    The recurrence runs over the valid positions of each row, which are moved to its left, in order.

    Attributes:
      valid_BT: which new positions are valid.
      order_BT: the index that each moved position comes from; None if T is 1.
      place_BT: the index that each position was moved to; None if T is 1.
    """

    valid_BT: Array
    order_BT: Array | None
    place_BT: Array | None


Context = AttentionContext | DeltaContext


def make_context(
    spec: ModelSpec,
    layer: LayerSpec,
    pos_BT: Array,
    valid_BT: Array,
    past: tuple[Segment, ...],
    dtype,
    left_padded: bool = False,
) -> Context:
    """Makes the context of one kind of layer.

    Args:
      pos_BT, valid_BT: of the new positions.
      past: the segments of the cache.
      dtype: of the activations.
      left_padded: a promise: the valid ones of each row's new positions are its last ones.
    """
    if isinstance(layer, DeltaLayer):
        if valid_BT.shape[1] == 1:
            return DeltaContext(valid_BT, None, None)
        order_BT = jnp.argsort(~valid_BT, axis=1, stable=True)
        return DeltaContext(valid_BT, order_BT, jnp.argsort(order_BT, axis=1))
    cos, sin = ops.rope_angles(layer.rope, pos_BT, dtype)
    seen = [attention.Visible(pos_BT, s.pos_BS, s.valid_BS, layer.window) for s in past]
    own = attention.Visible(
        pos_BT, pos_BT, valid_BT, layer.window, own=True, left_padded=left_padded
    )
    return AttentionContext(cos, sin, attention.masks([*seen, own]))


class Dense(nn.Module):
    """A linear map with parameters `kernel [in, out]` and, if `bias`, `bias [out]`.

    The kernel may be int8, with a `scale [out]` beside it, and have low-rank factors.
    """

    features: int
    bias: bool

    @nn.compact
    def __call__(self, x_TD: Array) -> Array:
        """Maps `[..., in]` to `[..., out]` (see `ops.matmul`)."""
        shape = (x_TD.shape[-1], self.features)
        weights = {"kernel": self.param("kernel", nn.initializers.lecun_normal(), shape)}
        for name in ("scale", ops.LORA_A, ops.LORA_B):
            if self.has_variable("params", name):
                weights[name] = self.get_variable("params", name)
        y_TF = ops.matmul(x_TD, weights)
        if self.bias:
            y_TF = y_TF + self.param("bias", nn.initializers.zeros, (self.features,))
        return y_TF


class RMSNorm(nn.Module):
    """`ops.rms_norm` as a module, with the parameter `weight [D]`."""

    eps: float
    offset: bool = False

    @nn.compact
    def __call__(self, x_TD: Array) -> Array:
        """Normalizes the last axis."""
        start = nn.initializers.zeros if self.offset else nn.initializers.ones
        weight_D = self.param("weight", start, (x_TD.shape[-1],))
        return ops.rms_norm(x_TD, weight_D, self.eps, self.offset)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions.

    The spec gives q/k norm, biases, the scale of scores, and a sigmoid gate on the output.
    """

    spec: ModelSpec
    layer: AttentionLayer

    @nn.compact
    def __call__(
        self, x_BTD: Array, context: AttentionContext, past: tuple[KV, ...]
    ) -> tuple[Array, KV]:
        """Attends from T new positions to the past ones and to themselves; see the module."""
        s = self.spec
        B, T, _ = x_BTD.shape

        def heads(name: str, n: int, size: int = s.head_dim) -> Array:
            y = Dense(n * size, s.qkv_bias, name=f"{name}_proj")(x_BTD)
            return _before_heads(y).reshape(B, T, n, size)

        q_BTHK = heads("q", s.n_heads, s.head_dim * (2 if s.gated_attention else 1))
        q_BTHK, gate_BTHK = q_BTHK[..., : s.head_dim], q_BTHK[..., s.head_dim :]
        k_BSHK, v_BSHK = heads("k", s.n_kv_heads), heads("v", s.n_kv_heads)
        if s.qk_norm:
            q_BTHK = RMSNorm(s.norm_eps, s.norm_offset, name="q_norm")(q_BTHK)
            k_BSHK = RMSNorm(s.norm_eps, s.norm_offset, name="k_norm")(k_BSHK)
        q_BTHK = ops.apply_rope(q_BTHK, context.cos, context.sin)
        k_BSHK = ops.apply_rope(k_BSHK, context.cos, context.sin)
        new = KV(*(jnp.swapaxes(x, 1, 2) for x in (k_BSHK, v_BSHK))).constrained()
        q_BTHGK = q_BTHK.reshape(B, T, s.n_kv_heads, s.n_heads // s.n_kv_heads, s.head_dim)
        seen = (kv.constrained() for kv in past)
        segments = [
            (jnp.swapaxes(kv.k_BHSK, 1, 2), jnp.swapaxes(kv.v_BHSK, 1, 2), mask_BTS)
            for kv, mask_BTS in zip((*seen, new), context.masks, strict=True)
        ]
        o_BTF = attention.attend(q_BTHGK, segments, s.query_scale).reshape(B, T, -1)
        if s.gated_attention:
            o_BTF = o_BTF * jax.nn.sigmoid(gate_BTHK.reshape(B, T, -1))
        return Dense(s.d_model, s.out_bias, name="o_proj")(o_BTF), new


def _before_heads(y_BTF: Array) -> Array:
    """A projection that is split into heads next; of one position, as an array of its own."""
    # XLA would move the split into the product. For one position TPUs then read the weights in
    # another order, and copy each layer's slice of them for it at every step.
    return jax.lax.optimization_barrier(y_BTF) if y_BTF.shape[1] == 1 else y_BTF


class GatedDelta(nn.Module):
    """Gated delta-net mixer (qwen3_5): short convolutions, delta rule, gated norm.

    A single position takes one step of the recurrence; several use its chunked form. Of `past`
    only the last entry is read.
    """

    spec: ModelSpec
    layer: DeltaLayer

    @nn.compact
    def __call__(
        self, x_BTD: Array, context: DeltaContext, past: tuple[State, ...]
    ) -> tuple[Array, State]:
        """Runs the recurrence over T new positions; see the module."""
        s, d = self.spec, self.layer
        B, T, _ = x_BTD.shape
        H, G, valid_BT = d.key_heads, d.value_heads // d.key_heads, context.valid_BT
        if context.order_BT is not None:
            x_BTD = _reordered(x_BTD, context.order_BT)
            valid_BT = jnp.take_along_axis(valid_BT, context.order_BT, axis=1)
        x_BTD = jnp.where(valid_BT[..., None], x_BTD, 0)
        old = past[-1].constrained() if past else empty_state(d, B, x_BTD.dtype)
        n_valid_B = jnp.sum(valid_BT, axis=1, dtype=jnp.int32)

        def dense(name: str, features: int) -> Array:
            return _before_heads(Dense(features, False, name=f"{name}_proj")(x_BTD))

        def convolved(name: str, window_BWC: Array, size: int) -> tuple[Array, Array]:
            """The projected and convolved input, and the window for the next positions."""
            meaning, heads = ("delta_value_heads", H * G) if name == "v" else ("delta_heads", H)
            y_BTC = by_heads(dense(name, size), meaning, heads)
            kernel_WC = Conv(d.conv_width, name=f"{name}_conv")(size)
            out_BTC = ops.ACTIVATIONS[s.activation](delta.convolve(y_BTC, window_BWC, kernel_WC))
            seen = jnp.concatenate([window_BWC, y_BTC.astype(window_BWC.dtype)], axis=1)
            index_BW = n_valid_B[:, None] + jnp.arange(d.conv_width - 1, dtype=jnp.int32)
            return out_BTC, jnp.take_along_axis(seen, index_BW[..., None], axis=1)

        (q_BTC, q_BWC), (k_BTC, k_BWC), (v_BTC, v_BWC) = (
            convolved(name, window, size)
            for name, window, size in zip(
                "qkv", (old.q_BWC, old.k_BWC, old.v_BWC), d.sizes, strict=True
            )
        )
        q_BTHK = delta.unit(ops.at_least_float32(q_BTC).reshape(B, T, H, d.key_dim))
        k_BTHK = delta.unit(ops.at_least_float32(k_BTC).reshape(B, T, H, d.key_dim))
        v_BTHGU = ops.at_least_float32(v_BTC).reshape(B, T, H, G, d.value_dim)
        a_log_H = self.param("a_log", _init_a_log, (d.value_heads,))
        dt_bias_H = self.param("dt_bias", nn.initializers.ones, (d.value_heads,))
        b_BTH = ops.at_least_float32(jax.nn.sigmoid(dense("b", d.value_heads)))
        g_BTH = delta.log_decay(dense("a", d.value_heads), a_log_H, dt_bias_H)
        b_BTHG, g_BTHG = (
            jnp.where(valid_BT[..., None], z, 0.0).reshape(B, T, H, G) for z in (b_BTH, g_BTH)
        )
        q_BTHK = q_BTHK * d.key_dim**-0.5
        if T == 1:
            q_BHK, k_BHK, v_BHGU, b_BHG, g_BHG = (
                z[:, 0] for z in (q_BTHK, k_BTHK, v_BTHGU, b_BTHG, g_BTHG)
            )
            o_BHGU, s_BHGKU = delta.step(
                q_BHK=q_BHK,
                k_BHK=k_BHK,
                v_BHGU=v_BHGU,
                b_BHG=b_BHG,
                g_BHG=g_BHG,
                s_BHGKU=old.s_BHGKU,
            )
            o_BTHGU = o_BHGU[:, None]
        else:
            o_BTHGU, s_BHGKU = delta.chunked(
                q_BTHK=q_BTHK,
                k_BTHK=k_BTHK,
                v_BTHGU=v_BTHGU,
                b_BTHG=b_BTHG,
                g_BTHG=g_BTHG,
                s_BHGKU=old.s_BHGKU,
            )
        o_BTHU = o_BTHGU.reshape(B, T, d.value_heads, d.value_dim).astype(x_BTD.dtype)
        z_BTHU = ops.at_least_float32(dense("z", d.sizes[2])).reshape(o_BTHU.shape)
        gated = RMSNorm(s.norm_eps, name="norm")(o_BTHU) * ops.ACTIVATIONS["silu"](z_BTHU)
        y_BTD = Dense(s.d_model, False, name="o_proj")(gated.astype(x_BTD.dtype).reshape(B, T, -1))
        if context.place_BT is not None:
            y_BTD = _reordered(y_BTD, context.place_BT)
        return y_BTD, State(s_BHGKU, q_BWC, k_BWC, v_BWC).constrained()


def _reordered(x_BTD: Array, index_BT: Array) -> Array:
    """The positions of each row in the order of `index_BT`."""
    # Without the constraint a mesh might split D.
    x_BTD = constrain(x_BTD, "batch", None, None)
    return jnp.take_along_axis(x_BTD, index_BT[..., None], axis=1)


class Conv(nn.Module):
    """The parameter `kernel [W, C]` of a depthwise convolution of width W."""

    width: int

    @nn.compact
    def __call__(self, channels: int) -> Array:
        """The kernel for so many channels."""
        return self.param("kernel", nn.initializers.lecun_normal(), (self.width, channels))


def _init_a_log(key: Array, shape: tuple[int, ...]) -> Array:
    # Decay rates between 0.01 and 16, as in transformers.
    return jnp.log(jax.random.uniform(key, shape, minval=0.01, maxval=16.0))


class GatedMLP(nn.Module):
    """The MLP of a decoder layer: `down(activation(gate(x)) * up(x))`."""

    spec: ModelSpec

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        s = self.spec
        gate_BTF = Dense(s.d_ff, s.mlp_bias, name="gate_proj")(x_BTD)
        up_BTF = Dense(s.d_ff, s.mlp_bias, name="up_proj")(x_BTD)
        hidden_BTF = ops.ACTIVATIONS[s.activation](gate_BTF) * up_BTF
        return Dense(s.d_model, s.mlp_bias, name="down_proj")(hidden_BTF)


class Block(nn.Module):
    """One decoder layer: a mixer and an MLP, each with a norm before it, on a residual stream."""

    spec: ModelSpec
    layer: LayerSpec

    @nn.compact
    def __call__(
        self, x_BTD: Array, context: Context, past: tuple[Entry | None, ...]
    ) -> tuple[Array, Entry]:
        """The layer's output and its cache entry of the T new positions; see the module."""
        s = self.spec

        def norm(name: str, x_BTD: Array) -> Array:
            return RMSNorm(s.norm_eps, s.norm_offset, name=name)(x_BTD)

        entry: Entry
        h_BTD = norm("input_norm", x_BTD)
        if isinstance(self.layer, AttentionLayer):
            assert isinstance(context, AttentionContext)
            kvs = tuple(e for e in past if isinstance(e, KV))
            y_BTD, entry = Attention(s, self.layer, name="attention")(h_BTD, context, kvs)
        else:
            assert isinstance(context, DeltaContext)
            states = tuple(e for e in past if isinstance(e, State))
            y_BTD, entry = GatedDelta(s, self.layer, name="delta")(h_BTD, context, states)
        x_BTD = x_BTD + (norm("post_mixer_norm", y_BTD) if s.post_norms else y_BTD)
        y_BTD = GatedMLP(s, name="mlp")(norm("mlp_norm", x_BTD))
        return x_BTD + (norm("post_mlp_norm", y_BTD) if s.post_norms else y_BTD), entry
