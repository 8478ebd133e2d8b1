"""Systems of any number of like agents with any number of like layers, as abstract arrays."""

import dataclasses
import itertools
import re

import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.benchmarks import random_system
from rmas.links import LinkSpec
from rmas.plans import arguments
from rmas.plans.arguments import AbstractSystem
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec


def uniform_system(layers: int, agents: int, mesh: Mesh, size: str = "tiny") -> AbstractSystem:
    """Agents in sequence, the last of which answers, and tells the first in the next round.

    Each has weights of its own and as many layers, which are all alike. `size` is that of
    `random_system.model_spec`.
    """
    names = tuple(f"agent{n}" for n in range(1, agents + 1))
    edges = [Edge(src, dst, "round") for src, dst in itertools.pairwise(names)]
    edges.append(Edge(names[-1], names[0], "feedback"))
    topology = Topology("sequence", names, tuple(edges), names[-1])
    model = random_system.model_spec("Qwen/Qwen3-1.7B", size)
    model = dataclasses.replace(model, layers=model.layers[:1] * layers)
    links = LinkSpec("ln_res", tuple((name, model.d_model) for name in names), topology.link_edges)
    spec = SystemSpec(tuple((name, model) for name in names), links)
    return arguments.abstract_system(topology, spec, mesh, dtype=jnp.float32)


def count_operations(text: str) -> int:
    """The operations in the text of a lowered program, those of its functions included."""
    return len(re.findall(r"^\s+(?:%\S+ = |stablehlo\.|func\.|return|sdy\.)", text, re.MULTILINE))
