"""A frozen decoder as three pure functions: `embed`, `run` on embeddings, `unembed`.

Latent recursion enters between token embeddings, so `run` takes vectors, not ids. Parameters
are a plain nested dict: `embed/weight [V, D]`, `layers/period/<j>/... [L, ...]`,
`layers/rest/<j>/...`, `norm/weight [D]` and, where the head is not tied, `head/kernel [D, V]`.
"""

import functools

import jax
import jax.numpy as jnp

from rmas.models import ops
from rmas.models.cache import Entries, Segment
from rmas.models.spec import ModelSpec
from rmas.models.stack import init_layers, run_layers
from rmas.shapes import Array, Params


def positions(valid_BT: Array, start_B: Array | int = 0) -> Array:
    """Position of each valid slot, counting valid slots only; invalid ones repeat or are zero."""
    start = jnp.asarray(start_B, jnp.int32).reshape(-1, 1)
    return jnp.maximum(jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1 + start, 0)


def embed(params: Params, ids_BT: Array) -> Array:
    """Input embeddings `[B, T, D]` in the weights' type."""
    return jnp.take(params["embed"]["weight"], ids_BT, axis=0)


def run(
    spec: ModelSpec,
    params: Params,
    x_BTD: Array,
    valid_BT: Array,
    pos_BT: Array,
    past: tuple[Segment, ...] = (),
) -> tuple[Array, Entries]:
    """Runs T new positions after `past`.

    Returns the hidden states after the final norm (what the head reads, and what links read)
    and the new cache entries. States at invalid positions are meaningless but finite; valid
    ones do not depend on them.
    """
    x_BTD = x_BTD.astype(params["embed"]["weight"].dtype)
    h_BTD, entries = run_layers(spec, params["layers"], x_BTD, valid_BT, pos_BT, past)
    return ops.rms_norm(h_BTD, params["norm"]["weight"], spec.norm_eps), entries


def unembed(spec: ModelSpec, params: Params, h_BTD: Array) -> Array:
    """Logits `[B, T, V]`, float32 at least."""
    if spec.tied:
        weight = params["embed"]["weight"]
        logits = jnp.einsum("...D,VD->...V", h_BTD, weight, precision=ops.PRECISION)
    else:
        weight = params["head"]["kernel"]
        logits = jnp.einsum("...D,DV->...V", h_BTD, weight, precision=ops.PRECISION)
    return ops.at_least_float32(logits)


def prefill(spec: ModelSpec, params: Params, x_BTD: Array, valid_BT: Array):
    """Runs a left-padded prompt; returns its last state `[B, D]` and the prefix segment."""
    pos_BT = positions(valid_BT)
    h_BTD, entries = run(spec, params, x_BTD, valid_BT, pos_BT)
    return h_BTD[:, -1], Segment(entries, valid_BT, pos_BT)


@functools.partial(jax.jit, static_argnums=0)
def init_params(spec: ModelSpec, key: Array) -> Params:
    """Random parameters, float32 (normal, scaled by the inverse root of the fan-in; norms one)."""
    k_embed, k_layers, k_head = jax.random.split(key, 3)
    scale = spec.d_model**-0.5
    params = {
        "embed": {"weight": scale * jax.random.normal(k_embed, (spec.vocab_size, spec.d_model))},
        "layers": init_layers(spec, k_layers),
        "norm": {"weight": jnp.ones((spec.d_model,))},
    }
    if not spec.tied:
        shape = (spec.d_model, spec.vocab_size)
        params["head"] = {"kernel": scale * jax.random.normal(k_head, shape)}
    return params


def abstract_params(spec: ModelSpec) -> Params:
    """The tree of shapes, without memory."""
    return jax.eval_shape(lambda k: init_params(spec, k), jax.random.key(0))
