"""Abstract arguments of the product's programs: shapes with the shardings that a run gives them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmas import parallel
from rmas.links import init_links
from rmas.parallel.axes import AXES_OF
from rmas.shapes import Params
from rmas.system.preamble import Preamble
from rmas.system.topology import Topology
from rmas.system.turn import Prompt, SystemSpec
from rmas.training.objectives.base import abstract, zero_preamble, zero_prompt
from rmas.weights.placement import abstract_agents


@dataclasses.dataclass(frozen=True, eq=False)
class AbstractSystem:
    """A system whose arrays are `jax.ShapeDtypeStruct`s with their places on a mesh.

    Attributes:
      topology: who speaks to whom.
      spec: architectures and links.
      params: weights by agent; agents that share weights have one tree.
      mesh: of devices that may be described only (`rmas.parallel.slices`).
    """

    topology: Topology
    spec: SystemSpec
    params: dict[str, Params]
    mesh: Mesh

    @property
    def links(self) -> Params:
        """The tree of links, float32, whole on every device."""
        shapes = jax.eval_shape(lambda: init_links(self.spec.links, jax.random.key(0)))
        return whole(self.mesh, shapes)


def abstract_system(
    topology: Topology,
    spec: SystemSpec,
    mesh: Mesh,
    *,
    dtype: Any,
    quantize: bool = False,
    shares: Mapping[str, str] | None = None,
) -> AbstractSystem:
    """A system on a mesh; an outline's own weights come from `Outline.abstract_params`.

    Args:
      dtype, quantize: of the weights.
      shares: agent -> an earlier agent with the same weights.
    """
    params = abstract_agents(dict(spec.models), shares or {}, mesh, dtype, quantize)
    return AbstractSystem(topology, spec, params, mesh)


def prompt(mesh: Mesh, rows: int, positions: int) -> Prompt:
    """One agent's prompt `[B, T]`, T the bucket of `positions`."""
    return batch(mesh, abstract(lambda: zero_prompt(rows, positions=positions)))


def preamble(mesh: Mesh, rows: int, tokens: int) -> Preamble:
    """One agent's preambles `[B, T]`, T the bucket of `tokens`."""
    return batch(mesh, abstract(lambda: zero_preamble(rows, positions=tokens)))


def prompts(
    system: AbstractSystem, rounds: int, rows: int, tokens: int, message: int
) -> dict[str, Prompt]:
    """What follows every agent's preamble in all rounds, `[R, B, T]`.

    `tokens` are those of a prompt with its question, after its preamble; `message` vectors stand
    in each of its slots.
    """

    def one(agent: str) -> Prompt:
        positions = tokens + message * len(system.topology.incoming(agent))
        return abstract(lambda: zero_prompt(rounds, rows, positions=positions))

    return batch(system.mesh, {agent: one(agent) for agent in system.topology.agents}, 1)


def placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array, with a sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def whole(mesh: Mesh, tree: Any) -> Any:
    """Arrays that every device holds whole."""
    return jax.tree.map(lambda x: placed(x, parallel.replicated(mesh)), tree)


def batch(mesh: Mesh, tree: Any, axes: Any = 0) -> Any:
    """Arrays whose rows are split over the mesh; `axes` as in `parallel.put_batch`."""

    def one(axis: int, part: Any) -> Any:
        sharding = NamedSharding(mesh, P(*[None] * axis, AXES_OF["batch"]))
        return jax.tree.map(lambda x: placed(x, sharding), part)

    return jax.tree.map(one, axes, tree)


def weight_bytes(params: Mapping[str, Params]) -> int:
    """Bytes of all agents' weights on one device; those that agents share count once."""
    return sum(map(device_bytes, {id(tree): tree for tree in params.values()}.values()))


def device_bytes(tree: Any) -> int:
    """Bytes of one device's parts of a tree of `jax.ShapeDtypeStruct`s."""

    def one(x: jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))
