"""Layers that run one by one instead of in a scan, in loops over single positions on a CPU.

A scan over layers takes each layer's weights and cache out of the stacked arrays. XLA's compiler
for CPUs copies them there, for every latent step and every token, which takes as long as the
products of one position do. `unroll` takes them out once, before the loop.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rmas.models.cache import Entries, Segment
from rmas.models.spec import ModelSpec
from rmas.parallel import on_one_cpu
from rmas.shapes import Params

MOST_LAYERS = 32
"""Models with more layers stay in a scan: the time to compile grows with each."""
MOST_BYTES = 1 << 30
"""Models with more bytes of stacked weights and caches stay in a scan: what is taken out is in
memory twice. Types of fewer bits count as float32, in which XLA's compiler for CPUs computes."""


def unrolls(spec: ModelSpec, size: int) -> bool:
    """Whether a model is unrolled on one CPU, with `size` bytes of stacked weights and caches."""
    return len(spec.layers) <= MOST_LAYERS and size <= MOST_BYTES


def unroll(
    spec: ModelSpec, params: Params, segments: tuple[Segment, ...]
) -> tuple[ModelSpec, Params, tuple[Segment, ...]]:
    """A model for `run` whose layers are not scanned, where that is faster: on one CPU device.

    Args:
      params: of the whole model.
      segments: of the model's cache.

    Returns:
      The spec, parameters and segments in the form of `ModelSpec.unrolled`; elsewhere, and for
      models that are too large, those that were given.
    """
    stacked = (params["layers"]["period"], [s.entries.period for s in segments])
    size = sum(x.size * max(x.dtype.itemsize, 4) for x in jax.tree.leaves(stacked))
    if not (on_one_cpu() and unrolls(spec, size)):
        return spec, params, segments
    layers = params["layers"]
    period = tuple(layers["period"][str(j)] for j in range(len(spec.period)))
    rest = tuple(layers["rest"][str(j)] for j in range(len(spec.rest)))
    apart = {str(i): layer for i, layer in enumerate(_apart(spec, period, rest))}
    return (
        dataclasses.replace(spec, unrolled=True),
        params | {"layers": {"period": {}, "rest": apart}},
        tuple(
            dataclasses.replace(s, entries=Entries((), _apart(spec, *_both(s)))) for s in segments
        ),
    )


def roll(spec: ModelSpec, segment: Segment) -> Segment:
    """A segment of the unrolled model's cache in the form of `spec`; others as they are."""
    entries, rest = _both(segment)
    if entries:
        return segment
    n = len(spec.period)
    last = n * spec.n_periods
    period = tuple(jax.tree.map(lambda *x: jnp.stack(x), *rest[j:last:n]) for j in range(n))
    return dataclasses.replace(segment, entries=Entries(period, rest[last:])).constrained()


def _both(segment: Segment) -> tuple[tuple, tuple]:
    return segment.entries.period, segment.entries.rest


def _apart(spec: ModelSpec, period: tuple, rest: tuple) -> tuple:
    """One tree for each layer, in order, of those that are stacked for each layer of the period."""
    stacked = (
        jax.tree.map(lambda x, i=i: x[i], tree) for i in range(spec.n_periods) for tree in period
    )
    return (*stacked, *rest)
