"""Who speaks to whom: a collaboration pattern as data.

A round runs the agents in order. A `round` edge carries a message within the round; a
`feedback` edge carries it into the next round. Only the output agent, in the last round,
decodes text; in earlier rounds it rolls out like the others.
"""

import dataclasses
import re
from typing import Literal

from rmas.errors import InputError


@dataclasses.dataclass(frozen=True)
class Edge:
    """A message from `src` to `dst`, used in the same round or in the next one."""

    src: str
    dst: str
    when: Literal["round", "feedback"]


@dataclasses.dataclass(frozen=True)
class Topology:
    """Agents in the order in which they run, the edges between them, and the output agent.

    An agent plays the role of its own name in the prompt set unless `roles` names another.

    Raises `InputError` when made, naming the agent or edge: an unknown or repeated agent, a
    round edge against the order (round edges never form a cycle), a repeated edge, an output
    that is no agent, an agent whose messages never reach the output.
    """

    name: str
    agents: tuple[str, ...]
    edges: tuple[Edge, ...]
    output: str
    roles: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        where = f"topology {self.name!r}"
        if len(set(self.agents)) != len(self.agents):
            raise InputError(f"{where}: an agent is named twice in {self.agents}")
        for agent in self.agents:
            if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9]", agent):
                raise InputError(
                    f"{where}: agent name {agent!r} must be letters, digits, '_', '.' and '-', "
                    "and end in a letter or digit"
                )
        if self.output not in self.agents:
            raise InputError(f"{where}: output {self.output!r} is no agent; known: {self.agents}")
        seen = set()
        for e in self.edges:
            for end in (e.src, e.dst):
                if end not in self.agents:
                    raise InputError(f"{where}: edge {e.src}->{e.dst} names unknown agent {end!r}")
            if e.when not in ("round", "feedback"):
                raise InputError(f"{where}: edge {e.src}->{e.dst}: when must be round or feedback")
            if (e.src, e.dst) in seen:
                raise InputError(f"{where}: edge {e.src}->{e.dst} is named twice")
            seen.add((e.src, e.dst))
            if e.when == "round" and self.index(e.src) >= self.index(e.dst):
                raise InputError(
                    f"{where}: round edge {e.src}->{e.dst} runs against the order {self.agents}"
                )
        heard = {self.output}
        for _ in self.agents:
            heard |= {e.src for e in self.edges if e.dst in heard}
        for agent in self.agents:
            if agent not in heard:
                raise InputError(f"{where}: nothing that {agent!r} says reaches the output agent")

    def index(self, agent: str) -> int:
        """Place of an agent in the order."""
        return self.agents.index(agent)

    @property
    def before(self) -> tuple[str, ...]:
        """Agents that run before the output agent in a round."""
        return self.agents[: self.index(self.output)]

    @property
    def after(self) -> tuple[str, ...]:
        """Agents that run after the output agent in a round (never in the last one)."""
        return self.agents[self.index(self.output) + 1 :]

    def role(self, agent: str) -> str:
        """The agent's role in the prompt set."""
        return dict(self.roles).get(agent, agent)

    def incoming(self, agent: str) -> tuple[Edge, ...]:
        """Edges that bring messages to an agent: round edges, then feedback edges.

        This is the order of the messages behind `Prompt.slot_BT`; feedback comes last, so that
        the first round's offsets are those of every round.
        """
        mine = [e for e in self.edges if e.dst == agent]
        return tuple(sorted(mine, key=lambda e: e.when == "feedback"))

    def outgoing(self, agent: str) -> tuple[Edge, ...]:
        """Edges that carry an agent's message."""
        return tuple(e for e in self.edges if e.src == agent)

    @property
    def link_edges(self) -> tuple[tuple[str, str], ...]:
        """The (src, dst) pairs that need an outer link, in order."""
        return tuple((e.src, e.dst) for e in self.edges)


def single(agent: str) -> Topology:
    """One agent alone."""
    roles = ((agent, "single"),)
    return Topology(name="single", agents=(agent,), edges=(), output=agent, roles=roles)
