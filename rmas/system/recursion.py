"""The recursion loop: all rounds of all agents, one compiled program for any topology.

The loop is rotated around the output agent, because its last turn (text, or a loss) is not a
turn like the others. Prologue: round 1 of the agents before it. Then, once per further round,
in one `lax.scan`: the output agent's own latent turn and the agents after it, which close the
round, and the next round of the agents before it. What remains is the output agent's slots,
filled for its last turn. Nothing is computed that is not used.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rmas.links import edge_name
from rmas.shapes import Array
from rmas.system.topology import Edge, Topology
from rmas.system.turn import Prompt

Stage = Callable[[str, Prompt, tuple[Array, ...], Any], tuple[dict[str, Array], Any]]
"""`stage(agent, prompt, incoming, data) -> (messages, aux)`: one turn. `incoming` are messages
`[B, M, D]` in the order of `Topology.incoming`, `data` is this turn's slice of the caller's
arrays, `messages` has one `[B, M, D]` per outgoing edge, under its `edge_name`."""

Box = dict[str, Array]


def recurse(
    topology: Topology,
    prompts: dict[str, Prompt],
    stage: Stage,
    zero_messages: Callable[[Edge], Array],
    data: dict[str, Any] | None = None,
) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Runs every turn but the output agent's last.

    Args:
      prompts: per agent, arrays with a leading round axis `[R, B, ...]`; R is the number of
        rounds. The output agent's last prompt is only measured, never read.
      zero_messages: the zeros that stand for an edge's message before there is one.
      data: per agent, any pytree with a leading round axis, handed to `stage` turn by turn.

    Returns:
      The messages `[B, M, D]` into the output agent's last turn, and per agent the `aux` values
      of its turns with a leading axis of turns (agents without a turn are left out).
    """
    data = data or {}
    rounds = prompts[topology.output].ids_BT.shape[0]
    closing, opening = (topology.output, *topology.after), topology.before

    def turn(agent: str, xs, sent: Box, fed: Box, out: Box):
        """One turn: reads this round's and the last round's messages, adds its own."""
        prompt, extra = xs[agent]
        messages, aux = stage(agent, prompt, _incoming(topology, agent, sent, fed), extra)
        for e in topology.outgoing(agent):
            name = edge_name(e.src, e.dst)
            (sent if e.when == "round" else out)[name] = messages[name]
        return aux

    def turns_of(agents, start: int, stop: int):
        return {a: jax.tree.map(lambda x: x[start:stop], (prompts[a], data.get(a))) for a in agents}

    def to_closing(box: Box) -> Box:
        return {k: z for k, z in box.items() if k.split("->")[1] in closing}

    sent, fed, out, aux = {}, {}, {}, {}
    first = jax.tree.map(lambda x: x[0], turns_of(opening, 0, 1))
    for agent in opening:
        aux[agent] = [jax.tree.map(lambda v: v[None], turn(agent, first, sent, fed, out))]

    if rounds > 1:

        def body(carry, xs):
            sent, fed, out = (dict(box) for box in carry)
            closed, opened = xs
            values = {a: turn(a, closed, sent, fed, out) for a in closing}
            sent, fed, out = {}, out, {}
            values |= {a: turn(a, opened, sent, fed, out) for a in opening}
            return (to_closing(sent), to_closing(fed), out), values

        # No feedback exists in round 1; no slot of its prompts points to these zeros.
        fed = {
            edge_name(e.src, e.dst): zero_messages(e)
            for e in topology.edges
            if e.when == "feedback"
        }
        carry = (to_closing(sent), to_closing(fed), out)
        xs = (turns_of(closing, 0, rounds - 1), turns_of(opening, 1, rounds))
        (sent, fed, out), values = lax.scan(body, carry, xs)
        for agent, value in values.items():
            aux.setdefault(agent, []).append(value)

    joined = {
        agent: jax.tree.map(lambda *v: jnp.concatenate(v), *values) for agent, values in aux.items()
    }
    return _incoming(topology, topology.output, sent, fed), joined


def _incoming(topology: Topology, agent: str, sent: Box, fed: Box) -> tuple[Array, ...]:
    boxes = [
        (sent if e.when == "round" else fed).get(edge_name(e.src, e.dst))
        for e in topology.incoming(agent)
    ]
    return tuple(z_BMD for z_BMD in boxes if z_BMD is not None)
