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
from rmas.shapes import Array, Params
from rmas.system.stage import Prompt, SystemSpec
from rmas.system.topology import Edge, Topology

Stage = Callable[[str, Prompt, tuple[Array, ...], Any], tuple[Array, Any]]
"""`stage(agent, prompt, incoming, data) -> (z_BME, aux)`: one turn. `incoming` are messages
`[B, M, D]` in the order of `Topology.incoming`, `data` this turn's slice of the caller's arrays,
`z_BME` the agent's inner-mapped states."""

Box = dict[str, Array]


def recurse(
    topology: Topology,
    spec: SystemSpec,
    links: Params,
    prompts: dict[str, Prompt],
    stage: Stage,
    message_length: int,
    data: dict[str, Any] | None = None,
    dtype=jnp.float32,
) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Runs every turn but the output agent's last.

    Args:
      prompts: per agent, arrays with a leading round axis `[R, B, ...]`; R is the number of
        rounds. The output agent's last prompt is only measured, never read.
      message_length: M of every message.
      data: per agent, any pytree with a leading round axis, handed to `stage` turn by turn.
      dtype: type of messages.

    Returns:
      The messages `[B, M, D]` into the output agent's last turn, and per agent the `aux` values
      of its turns with a leading axis of turns (agents without a turn are left out).
    """
    data = data or {}
    rounds, batch = prompts[topology.output].ids_BT.shape[:2]
    widths = dict(spec.links.widths)
    closing, opening = (topology.output, *topology.after), topology.before

    def turn(agent: str, xs, sent: Box, fed: Box, out: Box):
        """One turn: reads this round's and the last round's messages, adds its own."""
        prompt, extra = xs[agent]
        z_BME, aux = stage(agent, prompt, _incoming(topology, agent, sent, fed), extra)
        for e in topology.outgoing(agent):
            box = sent if e.when == "round" else out
            box[edge_name(e.src, e.dst)] = spec.links.outer(links, e.src, e.dst, z_BME).astype(dtype)
        return aux

    def turns_of(agents, start: int, stop: int):
        return {
            a: jax.tree.map(lambda x: x[start:stop], (prompts[a], data.get(a))) for a in agents
        }

    def to_closing(box: Box) -> Box:
        return {k: z for k, z in box.items() if k.split("->")[1] in closing}

    sent, fed, out, aux = {}, {}, {}, {}
    first = jax.tree.map(lambda x: x[0], turns_of(opening, 0, 1))
    for agent in opening:
        aux[agent] = [jax.tree.map(lambda v: v[None], turn(agent, first, sent, fed, out))]

    if rounds > 1:

        def silence(e: Edge) -> Array:
            return jnp.zeros((batch, message_length, widths[e.dst]), dtype)

        def body(carry, xs):
            sent, fed, out = (dict(box) for box in carry)
            closed, opened = xs
            values = {a: turn(a, closed, sent, fed, out) for a in closing}
            sent, fed, out = {}, out, {}
            values |= {a: turn(a, opened, sent, fed, out) for a in opening}
            return (to_closing(sent), to_closing(fed), out), values

        # No feedback exists in round 1; no slot of its prompts points to these zeros.
        fed = {edge_name(e.src, e.dst): silence(e) for e in topology.edges if e.when == "feedback"}
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
