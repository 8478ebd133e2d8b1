"""The recursion loop: all rounds of all agents, one compiled program for any topology.

The loop is rotated around the output agent, because its last turn (text, or a loss) differs
from all other turns. Prologue: round 1 of the agents that run before it. Then one `lax.scan` step
per further round: the latent turns of the output agent and of the agents after it, which close
the round, and the turns of the agents before it, which open the next one. Epilogue, left to the
caller: the output agent's last turn. Nothing is computed that is not used.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from rmas.links import edge_name
from rmas.system.topology import Edge, Topology
from rmas.system.turn import Prompt

M = TypeVar("M")
"""A message: a pytree whose shapes are an edge's own, the same in all rounds. Vectors `[B, M, D]`,
or a segment of the cache (`rmas.system.memory`)."""

Turn = Callable[[str, Prompt, tuple[M, ...], Any], tuple[dict[str, M], Any]]
"""`turn(agent, prompt, incoming, data) -> (messages, aux)`: one agent's part of a round.
`incoming` are messages in the order of `Topology.incoming`, `data` is this turn's slice of the
caller's arrays, `messages` has one per outgoing edge, under its `edge_name`."""


def recurse(
    topology: Topology,
    prompts: dict[str, Prompt],
    turn: Turn[M],
    zero_messages: Callable[[Edge], M],
    data: dict[str, Any] | None = None,
) -> tuple[tuple[M, ...], dict[str, Any]]:
    """Runs every turn but the output agent's last.

    Args:
      prompts: per agent, arrays with a leading round axis `[R, B, ...]`; R is the number of
        rounds. Of the output agent's last prompt only the shape is used.
      turn: what an agent does; traced once per agent, and once more for the prologue.
      zero_messages: what stands for an edge's message before there is one.
      data: per agent, any pytree with a leading round axis, passed to `turn` round by round.

    Returns:
      The messages into the output agent's last turn, and per agent the `aux` values
      of its turns with a leading axis of turns (agents without a turn are left out).
    """
    data = data or {}
    rounds = prompts[topology.output].ids_BT.shape[0]
    closing, opening = (topology.output, *topology.after), topology.before

    def run_turn(
        agent: str,
        inputs: dict,
        this_round: dict[str, M],
        feedback: dict[str, M],
        next_feedback: dict[str, M],
    ) -> Any:
        """One turn: reads `this_round` and `feedback`, adds to `this_round` and `next_feedback`."""
        prompt, extra = inputs[agent]
        incoming = _incoming(topology, agent, this_round, feedback)
        with jax.named_scope(agent):  # for profiles, and for plans
            messages, aux = turn(agent, prompt, incoming, extra)
        for e in topology.outgoing(agent):
            name = edge_name(e.src, e.dst)
            (this_round if e.when == "round" else next_feedback)[name] = messages[name]
        return aux

    def inputs_of(agents: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        """Prompts and data of some agents in the rounds from `start` to before `stop`."""
        return {a: jax.tree.map(lambda x: x[start:stop], (prompts[a], data.get(a))) for a in agents}

    def to_closing(messages: dict[str, M]) -> dict[str, M]:
        return {name: z for name, z in messages.items() if name.split("->")[1] in closing}

    this_round: dict[str, M] = {}
    feedback: dict[str, M] = {}
    next_feedback: dict[str, M] = {}
    aux: dict[str, list[Any]] = {}
    first = jax.tree.map(lambda x: x[0], inputs_of(opening, 0, 1))
    for agent in opening:
        value = run_turn(agent, first, this_round, feedback, next_feedback)
        aux[agent] = [jax.tree.map(lambda v: v[None], value)]

    if rounds > 1:

        def body(carry: tuple[dict[str, M], ...], inputs: tuple[dict, dict]) -> tuple[tuple, dict]:
            this_round, feedback, next_feedback = (dict(messages) for messages in carry)
            to_close, to_open = inputs
            values = {
                a: run_turn(a, to_close, this_round, feedback, next_feedback) for a in closing
            }
            # The round is over: what it sent along feedback edges is read in the next one.
            this_round, feedback, next_feedback = {}, next_feedback, {}
            values |= {
                a: run_turn(a, to_open, this_round, feedback, next_feedback) for a in opening
            }
            return (to_closing(this_round), to_closing(feedback), next_feedback), values

        # No feedback exists in round 1; no slot of its prompts points to these zeros.
        feedback = {
            edge_name(e.src, e.dst): zero_messages(e)
            for e in topology.edges
            if e.when == "feedback"
        }
        carry = (to_closing(this_round), to_closing(feedback), next_feedback)
        inputs = (inputs_of(closing, 0, rounds - 1), inputs_of(opening, 1, rounds))
        (this_round, feedback, next_feedback), values = lax.scan(body, carry, inputs)
        for agent, value in values.items():
            aux.setdefault(agent, []).append(value)

    joined = {
        agent: jax.tree.map(lambda *v: jnp.concatenate(v), *values) for agent, values in aux.items()
    }
    return _incoming(topology, topology.output, this_round, feedback), joined


def _incoming(
    topology: Topology, agent: str, this_round: dict[str, M], feedback: dict[str, M]
) -> tuple[M, ...]:
    """The messages that an agent reads, in the order of `Topology.incoming`."""
    found = [
        (this_round if e.when == "round" else feedback).get(edge_name(e.src, e.dst))
        for e in topology.incoming(agent)
    ]
    return tuple(message for message in found if message is not None)
