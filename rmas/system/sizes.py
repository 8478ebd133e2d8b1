"""The size of a system, and of each device's share on a mesh, before anything is loaded.

Everything is counted from shapes: no weight is read, and the mesh's devices need not exist.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from rmas import models, parallel
from rmas.links import Form, LinkSpec, init_links
from rmas.models import ModelSpec, Segment
from rmas.models.attention import scores_at_once
from rmas.models.spec import AttentionLayer
from rmas.models.unrolled import unrolls
from rmas.parallel.axes import parts
from rmas.shapes import Params
from rmas.weights.placement import abstract_weights, heads_of

CACHE_POSITIONS = 1000
"""Positions of one question that `AgentSize.cache` counts."""


@dataclasses.dataclass(frozen=True)
class AgentSize:
    """The size of one agent. Bytes are those on one device.

    Attributes:
      parameters: number of parameters of the frozen model.
      inner: number of parameters of its inner link.
      weights: bytes of the frozen model; 0 if it shares those of the agent `shares`.
      cache: bytes of the KV cache of `CACHE_POSITIONS` positions of one question, with the
        recurrent state, and not split over devices.
      shares: an earlier agent whose weights it shares.
    """

    name: str
    family: str
    layers: int
    d_model: int
    parameters: int
    inner: int
    weights: int
    cache: int
    shares: str | None


@dataclasses.dataclass(frozen=True)
class SystemSize:
    """The size of a system.

    Attributes:
      agents: the agents, in order.
      outer: number of parameters of each outer link, by `src->dst`.
      links: bytes of all links on one device.
    """

    agents: tuple[AgentSize, ...]
    outer: Mapping[str, int]
    links: int

    @property
    def trainable(self) -> int:
        """Number of parameters of all links."""
        return sum(a.inner for a in self.agents) + sum(self.outer.values())

    @property
    def frozen(self) -> int:
        """Number of parameters of all models; shared ones count once."""
        return sum(a.parameters for a in self.agents if a.shares is None)

    @property
    def resident(self) -> int:
        """Bytes that stay on each device: weights and links."""
        return self.links + sum(a.weights for a in self.agents)


def measure(
    specs: Mapping[str, ModelSpec],
    edges: tuple[tuple[str, str], ...],
    form: Form,
    *,
    mesh: AbstractMesh,
    dtype: Any,
    quantize: bool = False,
    shares: Mapping[str, str] | None = None,
) -> SystemSize:
    """The size of a system of these agents and links.

    Args:
      specs: architectures by agent, in order.
      edges: (src, dst) of every outer link.
      form: the form of all links.
      mesh: the sizes of the mesh that holds the weights.
      dtype: what weights would be cast to.
      quantize: whether matrices would be held as int8.
      shares: agent -> an earlier agent with the same weights.
    """
    shares = shares or {}
    links_spec = LinkSpec(form, tuple((a, s.d_model) for a, s in specs.items()), edges)
    links = jax.eval_shape(lambda: init_links(links_spec, jax.random.key(0)))
    agents = tuple(
        AgentSize(
            name=name,
            family=spec.family,
            layers=len(spec.layers),
            d_model=spec.d_model,
            parameters=_numbers(models.abstract_params(spec)),
            inner=_numbers(links["inner"][name]),
            weights=0
            if name in shares
            else sum(jax.tree.leaves(_weight_bytes(spec, mesh, dtype, quantize))),
            cache=_cache(spec, dtype),
            shares=shares.get(name),
        )
        for name, spec in specs.items()
    )
    outer = {edge: _numbers(tree) for edge, tree in links["outer"].items()}
    return SystemSize(agents, outer, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(links)))


def _numbers(tree: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _weight_bytes(spec: ModelSpec, mesh: AbstractMesh, dtype: Any, quantize: bool) -> Params:
    """Bytes of each of a model's parameters on one device."""
    shapes = abstract_weights(spec, dtype, quantize)
    shardings = parallel.param_shardings(mesh, shapes, heads_of(spec))
    return jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, shapes, shardings
    )


def _cache(spec: ModelSpec, dtype: Any) -> int:
    """Bytes of one row's cache."""

    def prefix() -> Segment:
        x_BTD = jnp.zeros((1, CACHE_POSITIONS, spec.d_model), dtype)
        valid_BT = jnp.ones((1, CACHE_POSITIONS), bool)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), models.abstract_params(spec))
        return models.prefill(spec, params, x_BTD, valid_BT)[1]

    leaves = jax.tree.leaves(jax.eval_shape(prefix).entries)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def prefill_bytes(
    spec: ModelSpec, rows: int, positions: int, *, mesh: AbstractMesh, dtype: Any
) -> int:
    """About what one device needs, beside weights and caches, to prefill `rows` prompts.

    These are activations and logits. What exists at a time was read from programs compiled for
    TPUs and CPUs: four arrays of the residual stream's width; keys and values of one period, where
    it has several layers; and the largest of two arrays of the MLP's width, queries, keys and
    values with scores, and six arrays of a recurrent layer's channels.

    Args:
      rows: of the whole mesh.
      positions: of each prompt, with its padding.
    """
    width = jnp.dtype(dtype).itemsize
    wide = jnp.promote_types(dtype, jnp.float32).itemsize
    rows = -(-rows // parallel.batch_multiple(mesh))

    def own(meaning: str, units: int) -> int:
        """A device's part of an axis of so many pieces."""
        return units if units % parts(mesh, meaning) else units // parts(mesh, meaning)

    heads, kv = own("heads", spec.n_heads), 2 * own("kv_heads", spec.n_kv_heads) * spec.head_dim
    attention_layers = sum(isinstance(layer, AttentionLayer) for layer in spec.period)
    largest = [2 * rows * positions * own("mlp", spec.d_ff) * width]
    if attention_layers:
        projected = rows * positions * (2 * heads * spec.head_dim + kv) * width
        largest.append(projected + rows * heads * scores_at_once(positions) * wide)
    if spec.delta is not None:
        channels = 2 * own("delta_heads", spec.delta.key_heads) * spec.delta.key_dim
        channels += own("delta_value_heads", spec.delta.value_heads) * spec.delta.value_dim
        largest.append(6 * rows * positions * channels * wide)
    kept = attention_layers * kv if len(spec.period) > 1 else 0
    stream = rows * positions * (4 * spec.d_model + kept) * width
    return stream + max(largest) + rows * own("vocab", spec.vocab_size) * (wide + width)


def copied_bytes(spec: ModelSpec, *, mesh: AbstractMesh, dtype: Any, quantize: bool = False) -> int:
    """Bytes of the weights that programs for CPUs copy on each device: one period of layers."""
    return _stacked_bytes(spec, mesh, dtype, quantize) // max(spec.n_periods, 1)


def unrolled_bytes(spec: ModelSpec, caches: int, *, mesh: AbstractMesh, dtype: Any) -> int:
    """Bytes that loops over positions hold more on one CPU device (`rmas.models.unrolled`).

    These are the weights of all layers, in float32 at least, and `caches`, the bytes of the model's
    caches.
    """
    size = _stacked_bytes(spec, mesh, jnp.promote_types(dtype, jnp.float32), False) + caches
    return size if mesh.size == 1 and unrolls(spec, size) else 0


def _stacked_bytes(spec: ModelSpec, mesh: AbstractMesh, dtype: Any, quantize: bool) -> int:
    return sum(jax.tree.leaves(_weight_bytes(spec, mesh, dtype, quantize)["layers"]["period"]))
