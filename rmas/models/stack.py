"""The loop over layers: one `lax.scan` over the repetitions of the layer pattern's period.

The layers of one period are unrolled inside the scan's body, so that mixed patterns (sliding and
global attention, recurrent and attention layers) are scanned like uniform ones; layers after the
last whole period are unrolled after the scan.
"""

import jax
from jax import lax

from rmas.models.cache import Entries, Segment
from rmas.models.mixers import Block, Context, make_context
from rmas.models.spec import LayerSpec, ModelSpec
from rmas.parallel import constrain
from rmas.shapes import Array, Params


def run_layers(
    spec: ModelSpec,
    params: Params,
    x_BTD: Array,
    valid_BT: Array,
    pos_BT: Array,
    past: tuple[Segment, ...],
    remat: bool = False,
    left_padded: bool = False,
) -> tuple[Array, Entries]:
    """Runs all decoder layers over T new positions.

    Args:
      params: as `init_layers` makes them.
      x_BTD: the layers' input.
      valid_BT: which positions are real, not padding.
      pos_BT: positions, int32.
      past: cache segments of earlier positions.
      remat: activation checkpointing: reverse mode recomputes each period from its input.
      left_padded: a promise: the valid ones of each row's new positions are its last ones.

    Returns:
      The output `[B, T, D]` and the cache entries of the new positions.
    """
    contexts: dict[LayerSpec, Context] = {
        layer: make_context(
            spec,
            layer,
            pos_BT=pos_BT,
            valid_BT=valid_BT,
            past=past,
            dtype=x_BTD.dtype,
            left_padded=left_padded,
        )
        for layer in dict.fromkeys(spec.layers)
    }

    def apply(layers, x_BTD, params, entries):
        new = []
        for j, layer in enumerate(layers):
            x_BTD = constrain(x_BTD, "batch", None, None)
            seen = tuple(segment[j] for segment in entries)  # this layer's in each segment
            own = {"params": params[str(j)]}
            x_BTD, entry = Block(spec, layer).apply(own, x_BTD, contexts[layer], seen)
            new.append(entry)
        return x_BTD, tuple(new)

    def body(x_BTD, xs):
        return apply(spec.period, x_BTD, *xs)

    if remat:
        body = jax.checkpoint(body, prevent_cse=False)  # a scan's body is not merged with others
    stacked = (params["period"], tuple(s.entries.period for s in past))
    x_BTD, period = lax.scan(body, x_BTD, stacked, length=spec.n_periods)
    x_BTD, rest = apply(spec.rest, x_BTD, params["rest"], tuple(s.entries.rest for s in past))
    return x_BTD, Entries(period, rest)


def init_layers(spec: ModelSpec, key: Array) -> Params:
    """Random layer parameters in the stacked layout of `run_layers`, float32."""
    x_BTD = jax.numpy.zeros((1, 1, spec.d_model))
    valid_BT = jax.numpy.ones((1, 1), bool)
    pos_BT = jax.numpy.zeros((1, 1), jax.numpy.int32)

    def init(layer: LayerSpec, key: Array) -> Params:
        context = make_context(
            spec, layer, pos_BT=pos_BT, valid_BT=valid_BT, past=(), dtype=x_BTD.dtype
        )
        return Block(spec, layer).init(key, x_BTD, context, ())["params"]

    def stacked(j: int, layer: LayerSpec) -> Params:
        keys = jax.random.split(jax.random.fold_in(key, j), spec.n_periods)
        return jax.vmap(lambda k: init(layer, k))(keys)

    n = len(spec.period)
    return {
        "period": {str(j): stacked(j, layer) for j, layer in enumerate(spec.period)},
        "rest": {
            str(j): init(layer, jax.random.fold_in(key, n + j)) for j, layer in enumerate(spec.rest)
        },
    }
