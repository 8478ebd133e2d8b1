"""A frozen decoder as three pure functions: `embed`, `run` on embeddings, `unembed`.

Latent recursion inserts vectors between token embeddings, so `run` reads vectors, not ids.
Parameters are a nested dict: `embed/weight [V, D]`, `layers/period/<j>/... [L, ...]`,
`layers/rest/<j>/...`, `norm/weight [D]` and, where the head is not tied, `head/kernel [D, V]`.
A matrix may be int8, with a `scale` beside its `kernel` (`rmas.weights.quantize`), and those of
layers may have low-rank factors beside it (`rmas.weights.lora`).
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rmas.models import ops
from rmas.models.cache import Entries, Segment, length
from rmas.models.spec import ModelSpec
from rmas.models.stack import init_layers, run_layers
from rmas.parallel import constrain, single_device_mesh, use
from rmas.shapes import Array, Params

PREFILL = "prefill"
"""The scope of a prefill's operations in compiled programs and profiles."""


def positions(valid_BT: Array, start_B: Array | int = 0) -> Array:
    """The positions `[B, T]`, int32, that count valid slots from `start_B`.

    An invalid slot has the position of the valid one before it, or zero.
    """
    start = jnp.asarray(start_B, jnp.int32).reshape(-1, 1)
    return jnp.maximum(jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1 + start, 0)


def embed(spec: ModelSpec, params: Params, ids_BT: Array) -> Array:
    """Input embeddings `[B, T, D]` in the weights' dtype, with the family's scale if it has one."""
    x_BTD = jnp.take(_table(params), ids_BT, axis=0)
    if spec.embed_scale is None:
        return x_BTD
    return x_BTD * jnp.asarray(spec.embed_scale, x_BTD.dtype)


def head_rows(spec: ModelSpec, params: Params, ids_N: Array) -> Array:
    """The rows `[N, D]` of the head for token ids, float32 at least: logits are `rows @ h`."""
    if spec.tied:
        return ops.at_least_float32(jnp.take(_table(params), ids_N, axis=0))
    head = params["head"]
    rows_ND = ops.at_least_float32(jnp.take(head["kernel"], ids_N, axis=1).T)
    return rows_ND * head["scale"][ids_N, None] if "scale" in head else rows_ND


@functools.partial(jax.jit, static_argnums=0)
def embedding_rms(spec: ModelSpec, params: Params) -> Array:
    """The root mean square of all token embeddings, scaled as in `embed`; float32."""
    weight_VD = params["embed"]["weight"].astype(jnp.float32)
    return jnp.sqrt(jnp.mean(jnp.square(weight_VD))) * (spec.embed_scale or 1.0)


def run(
    spec: ModelSpec,
    params: Params,
    x_BTD: Array,
    valid_BT: Array,
    pos_BT: Array,
    past: tuple[Segment, ...] = (),
    remat: bool = False,
    left_padded: bool = False,
) -> tuple[Array, Entries]:
    """Runs the decoder over T new positions.

    Args:
      x_BTD: input embeddings, or vectors in their place.
      valid_BT: which positions are real, not padding.
      pos_BT: positions, int32 (see `positions`).
      past: the cache's segments of earlier positions.
      remat: activation checkpointing: reverse mode recomputes each period of layers.
      left_padded: a promise: the valid ones of each row's new positions are its last ones. Layers
        with a window then leave out what is beyond it.

    Returns:
      The hidden states `[B, T, D]` after the final norm, which the head and links read, and the
      cache entries of the new positions. States at invalid positions are finite but meaningless;
      those at valid positions do not depend on them.
    """
    x_BTD = x_BTD.astype(params["embed"]["weight"].dtype)
    h_BTD, entries = run_layers(
        spec,
        params["layers"],
        x_BTD,
        valid_BT=valid_BT,
        pos_BT=pos_BT,
        past=past,
        remat=remat,
        left_padded=left_padded,
    )
    norm = params["norm"]["weight"]
    return ops.rms_norm(h_BTD, norm, spec.norm_eps, spec.norm_offset), entries


def unembed(spec: ModelSpec, params: Params, h_BTD: Array) -> Array:
    """Logits `[..., V]` of hidden states after the final norm, float32 at least."""
    if spec.tied:
        logits_BTV = jnp.einsum("...D,VD->...V", h_BTD, _table(params), precision=ops.PRECISION)
    else:
        logits_BTV = ops.matmul(h_BTD, params["head"])
    logits_BTV = ops.at_least_float32(logits_BTV)
    if spec.logit_softcap is not None:
        logits_BTV = ops.soft_cap(logits_BTV, spec.logit_softcap)
    return logits_BTV


def _table(params: Params) -> Array:
    """The embeddings `[V, D]`, gathered over `fsdp` once for lookups and a tied head."""
    return constrain(params["embed"]["weight"], "vocab", None)


def prefill(
    spec: ModelSpec,
    params: Params,
    x_BTD: Array,
    valid_BT: Array,
    remat: bool = False,
    past: tuple[Segment, ...] = (),
) -> tuple[Array, Segment]:
    """Runs a left-padded prompt of embeddings `[B, T, D]` after `past`; see `run`.

    Returns the hidden state `[B, D]` at the last position, and the prompt's own segment.
    """
    pos_BT = positions(valid_BT, length(past))
    with jax.named_scope(PREFILL):
        h_BTD, entries = run(
            spec,
            params,
            x_BTD,
            valid_BT=valid_BT,
            pos_BT=pos_BT,
            past=past,
            remat=remat,
            left_padded=True,
        )
    return h_BTD[:, -1], Segment(entries, valid_BT, pos_BT).constrained()


@functools.partial(jax.jit, static_argnums=0)
def init_params(spec: ModelSpec, key: Array) -> Params:
    """Random parameters, float32: normal with scale `fan_in ** -0.5`; norms have no effect."""
    k_embed, k_layers, k_head = jax.random.split(key, 3)
    scale = spec.d_model**-0.5
    params = {
        "embed": {"weight": scale * jax.random.normal(k_embed, (spec.vocab_size, spec.d_model))},
        "layers": init_layers(spec, k_layers),
        "norm": {"weight": jnp.full((spec.d_model,), 0.0 if spec.norm_offset else 1.0)},
    }
    if not spec.tied:
        shape = (spec.d_model, spec.vocab_size)
        params["head"] = {"kernel": scale * jax.random.normal(k_head, shape)}
    return params


def abstract_params(spec: ModelSpec) -> Params:
    """The tree of parameter shapes, float32, without allocating them."""
    return jax.eval_shape(lambda k: init_params(spec, k), jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with compiled functions; parameters are an argument of each.

    `model, params = rmas.load_model(path)` loads one. Arrays are sharded over `mesh` by the rules
    of `rmas.parallel`. To call the functions inside your own jitted function, call that one
    within `with rmas.parallel.use(model.mesh)`.
    """

    spec: ModelSpec
    mesh: Mesh = dataclasses.field(default_factory=single_device_mesh)

    def embed(self, params: Params, ids_BT: Array) -> Array:
        """Input embeddings `[B, T, D]` of token ids, in the weights' dtype."""
        return self._call(_embed, params, ids_BT)

    def run(self, params: Params, x_BTD: Array, valid_BT: Array) -> Array:
        """Hidden states `[B, T, D]` after the final norm.

        Args:
          x_BTD: input embeddings, or vectors in their place.
          valid_BT: true at real positions. Padding, usually on the left, does not change the
            states at real positions; those at padding are finite but meaningless.
        """
        return self._call(_run, params, x_BTD, valid_BT)

    def unembed(self, params: Params, h_BTD: Array) -> Array:
        """Logits `[..., V]`, float32 at least, of hidden states after the final norm."""
        return self._call(_unembed, params, h_BTD)

    def _call(self, function, params: Params, *arrays: Array) -> Array:
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((params, arrays)))
        with contextlib.nullcontext() if traced else use(self.mesh):
            return function(self.spec, params, *arrays)


_embed = jax.jit(embed, static_argnums=0)
_unembed = jax.jit(unembed, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _run(spec: ModelSpec, params: Params, x_BTD: Array, valid_BT: Array) -> Array:
    valid_BT = jnp.asarray(valid_BT, bool)
    return run(spec, params, x_BTD, valid_BT=valid_BT, pos_BT=positions(valid_BT))[0]
