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
            weights=0 if name in shares else _weights(spec, mesh, dtype, quantize),
            cache=_cache(spec, dtype),
            shares=shares.get(name),
        )
        for name, spec in specs.items()
    )
    outer = {edge: _numbers(tree) for edge, tree in links["outer"].items()}
    return SystemSize(agents, outer, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(links)))


def _numbers(tree: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _weights(spec: ModelSpec, mesh: AbstractMesh, dtype: Any, quantize: bool) -> int:
    """Bytes of a model's weights on one device."""
    shapes = abstract_weights(spec, dtype, quantize)
    shardings = parallel.param_shardings(mesh, shapes, heads_of(spec))
    parts = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, shapes, shardings
    )
    return sum(jax.tree.leaves(parts))


def _cache(spec: ModelSpec, dtype: Any) -> int:
    """Bytes of one row's cache."""

    def prefix() -> Segment:
        x_BTD = jnp.zeros((1, CACHE_POSITIONS, spec.d_model), dtype)
        valid_BT = jnp.ones((1, CACHE_POSITIONS), bool)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), models.abstract_params(spec))
        return models.prefill(spec, params, x_BTD, valid_BT)[1]

    leaves = jax.tree.leaves(jax.eval_shape(prefix).entries)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
