"""Latent memory: messages that are a sender's keys and values instead of vectors (LatentMAS).

Agents of one base model can read each other's caches (Zou et al. 2025, arXiv 2511.20639, latent
working memory). What is handed over along an edge is the sender's own turn: its prompt and its
latent thoughts, not what it has read itself, so that messages are equally long in all rounds. (In
LatentMAS an agent takes over the caches of all before it.) The slots in prompts are empty.

The receiver reads as if the senders' turns stood before its prompt, one after the other: feedback
of the round before first, then this round's, each in the topology's order. Positions count on from
the first to the last of these; the keys of a turn are moved to their place (`models.start_at`).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rmas import models
from rmas.errors import InputError
from rmas.links import edge_name
from rmas.models import ModelSpec, Segment
from rmas.models.spec import DeltaLayer
from rmas.shapes import Array, Params
from rmas.system import decode
from rmas.system.recursion import recurse
from rmas.system.topology import Edge, Topology
from rmas.system.turn import Prompt, SystemSpec, inputs, remember

# Traced once for all turns of an agent that read as many messages.
_remember = jax.jit(remember, static_argnames=("spec", "agent", "steps"))


def check_memory(topology: Topology, base_models: Sequence[ModelSpec]) -> None:
    """Raises `InputError` where agents cannot read each other's keys and values.

    `base_models` has an architecture for each different set of weights of theirs.
    """
    if len(base_models) > 1:
        raise InputError(
            "the method latent_memory hands over keys and values, so all agents must share one "
            f"base model; those of {topology.name} have {len(base_models)}: leave the method out"
        )
    if any(isinstance(layer, DeltaLayer) for layer in base_models[0].layers):
        raise InputError(
            "the method latent_memory hands over keys and values, and recurrent layers have none: "
            "leave the method out, or use a base model with attention in all layers"
        )


@functools.partial(jax.jit, static_argnames=("topology", "spec", "steps"))
def think_in_memory(
    *,
    topology: Topology,
    spec: SystemSpec,
    steps: int,
    params: dict[str, Params],
    links: Params,
    prompts: dict[str, Prompt],
) -> decode.DecodeState:
    """All latent turns and the prefill of the output agent's last one, as one program.

    Args:
      steps: M, the latent thoughts of a turn.
      params: of all agents, which share one base model.
      links: their inner links are read.
      prompts: per agent, arrays `[R, B, T]` without slots.
    """

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Segment, ...], _: None
    ) -> tuple[dict[str, Segment], tuple[()]]:
        segment = _remember(
            spec,
            params[agent],
            links,
            agent,
            inputs(spec.model(agent), params[agent], prompt, ()),
            prompt.valid_BT,
            steps,
            past=_in_order(topology, spec.model(agent), agent, incoming),
        )
        return {edge_name(e.src, e.dst): segment for e in topology.outgoing(agent)}, ()

    def nothing(edge: Edge) -> Segment:
        batch, length = prompts[edge.src].ids_BT.shape[1:]
        dtype = params[edge.src]["embed"]["weight"].dtype
        return models.empty_segment(spec.model(edge.src), batch, length + steps, dtype)

    incoming, _ = recurse(topology, prompts, turn, nothing)
    out = topology.output
    last = jax.tree.map(lambda x: x[-1], prompts[out])
    with jax.named_scope(out):
        x_BTD = inputs(spec.model(out), params[out], last, ())
        past = _in_order(topology, spec.model(out), out, incoming)
        return decode.start(spec.model(out), params[out], x_BTD, last.valid_BT, past)


def _in_order(
    topology: Topology, model: ModelSpec, agent: str, incoming: tuple[Segment, ...]
) -> tuple[Segment, ...]:
    """What an agent reads, one behind the other from position 0: feedback, then this round's."""
    # Before there is feedback it is missing at the end.
    edges = zip(topology.incoming(agent), incoming, strict=False)
    start_B: Array | int = 0
    placed = []
    for _, segment in sorted(edges, key=lambda pair: pair[0].when == "round"):
        placed.append(models.start_at(model, segment, start_B))
        start_B = start_B + jnp.sum(segment.valid_BS, axis=1, dtype=jnp.int32)
    return tuple(placed)
