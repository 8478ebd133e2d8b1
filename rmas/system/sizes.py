"""How large a system is, and what of it each device of a mesh would hold, before it is loaded.

Everything is counted from shapes: no weight is read, and the mesh need not exist here.
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


@dataclasses.dataclass(frozen=True)
class AgentSize:
    """One agent. Bytes are those of one device.

    Attributes:
      parameters: of the frozen model.
      inner: of its inner link.
      weights: bytes of the frozen model; 0 where it shares those of `shares`.
      cache: bytes that 1,000 positions of one question add (recurrent state counted once).
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
    """A system. `outer` are parameters by `src->dst`; `links` are bytes of one device."""

    agents: tuple[AgentSize, ...]
    outer: Mapping[str, int]
    links: int

    @property
    def trainable(self) -> int:
        """Parameters of all links."""
        return sum(a.inner for a in self.agents) + sum(self.outer.values())

    @property
    def frozen(self) -> int:
        """Parameters of all models, shared ones once."""
        return sum(a.parameters for a in self.agents if a.shares is None)

    @property
    def resident(self) -> int:
        """Bytes that stay on each device: weights and links."""
        return self.links + sum(a.weights for a in self.agents)


def measure(
    specs: Mapping[str, ModelSpec],
    edges: tuple[tuple[str, str], ...],
    form: Form,
    mesh: AbstractMesh,
    dtype: Any,
    quantize: bool = False,
    shares: Mapping[str, str] | None = None,
) -> SystemSize:
    """Counts a system of these agents and links.

    Args:
      dtype: what weights would be cast to.
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
    """Bytes of one device."""
    shapes = abstract_weights(spec, dtype, quantize)
    shardings = parallel.param_shardings(mesh, shapes, heads_of(spec))
    parts = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, shapes, shardings
    )
    return sum(jax.tree.leaves(parts))


def _cache(spec: ModelSpec, dtype: Any) -> int:
    """Bytes of one row's cache, unsplit."""

    def prefix() -> Segment:
        x_BTD = jnp.zeros((1, CACHE_POSITIONS, spec.d_model), dtype)
        valid_BT = jnp.ones((1, CACHE_POSITIONS), bool)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), models.abstract_params(spec))
        return models.prefill(spec, params, x_BTD, valid_BT)[1]

    leaves = jax.tree.leaves(jax.eval_shape(prefix).entries)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
