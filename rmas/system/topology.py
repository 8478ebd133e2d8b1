"""Who speaks to whom: a topology (collaboration pattern) as data.

A round runs the agents in order. A `round` edge carries a message within the round; a
`feedback` edge carries it into the next round. Only the output agent, in the last round,
decodes text; in earlier rounds it has latent turns like the others.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from rmas.errors import InputError


@dataclasses.dataclass(frozen=True)
class Edge:
    """A message from `src` to `dst`, read in the same round or (`feedback`) in the next one."""

    src: str
    dst: str
    when: Literal["round", "feedback"]


@dataclasses.dataclass(frozen=True)
class Topology:
    """Agents in the order in which they run, the edges between them, and the output agent.

    Attributes:
      name: also selects the system text in a prompt set.
      agents: their names, in order.
      edges: the messages between them.
      output: the agent that answers.
      roles: (agent, role) pairs, where an agent's role in the prompt set is not its own name.
      callers: agents that may call tools while they write, as their prompts say.

    Raises `InputError`, naming the agent or edge, for an unknown or repeated agent, a repeated
    edge, a cycle of round edges, a round edge against the order, more than one output, and an
    agent whose messages never reach the output.
    """

    name: str
    agents: tuple[str, ...]
    edges: tuple[Edge, ...]
    output: str
    roles: tuple[tuple[str, str], ...] = ()
    callers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"topology {self.name!r}"
        if len(set(self.agents)) != len(self.agents):
            raise InputError(f"{where}: an agent is named twice in {self.agents}")
        for agent in self.agents:
            if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9]", agent):
                raise InputError(
                    f"{where}: agent name {agent!r} must be letters, digits, '_', '.' and '-', "
                    "and end in a letter or digit"
                )
        for agent, role in self.roles:
            if agent not in self.agents:
                raise InputError(f"{where}: role {role!r} is given to unknown agent {agent!r}")
        for agent in self.callers:
            if agent not in self.agents:
                raise InputError(f"{where}: callers names unknown agent {agent!r}")
        if not isinstance(self.output, str):
            raise InputError(f"{where}: output must be one agent, not {_words(self.output)}")
        if self.output not in self.agents:
            known = ", ".join(self.agents)
            raise InputError(f"{where}: output {self.output!r} is not an agent; known: {known}")
        seen = set()
        for e in self.edges:
            for end in (e.src, e.dst):
                if end not in self.agents:
                    raise InputError(f"{where}: edge {e.src}->{e.dst} names unknown agent {end!r}")
            if e.when not in ("round", "feedback"):
                raise InputError(
                    f"{where}: edge {e.src}->{e.dst}: when is {e.when!r}; write round or feedback"
                )
            if (e.src, e.dst) in seen:
                raise InputError(f"{where}: edge {e.src}->{e.dst} is named twice")
            seen.add((e.src, e.dst))
        if cycle := self._cycle():
            raise InputError(
                f"{where}: round edges {'->'.join(cycle)} form a cycle; make one a feedback edge"
            )
        for e in self.edges:
            if e.when == "round" and self.index(e.src) >= self.index(e.dst):
                raise InputError(
                    f"{where}: round edge {e.src}->{e.dst} runs against the order {self.agents}"
                )
        reaching = {self.output}
        for _ in self.agents:
            reaching |= {e.src for e in self.edges if e.dst in reaching}
        for agent in self.agents:
            if agent not in reaching:
                raise InputError(
                    f"{where}: no message of {agent!r} reaches the output agent; add an edge"
                )

    def _cycle(self) -> tuple[str, ...]:
        """Agents along a cycle of round edges, the first one again at the end; empty if none."""
        reads = {
            a: [e.src for e in self.edges if e.dst == a and e.when == "round"] for a in self.agents
        }
        left = set(self.agents)
        while free := {a for a in left if left.isdisjoint(reads[a])}:
            left -= free
        if not left:
            return ()
        path = [min(left, key=self.index)]
        while path.count(path[-1]) == 1:
            path.append(next(src for src in reads[path[-1]] if src in left))
        return tuple(reversed(path[path.index(path[-1]) :]))

    def index(self, agent: str) -> int:
        """An agent's position in the order, from 0."""
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

        `Prompt.slot_BT` counts messages in this order; feedback comes last, so that the first
        round's offsets are those of every round.
        """
        mine = [e for e in self.edges if e.dst == agent]
        return tuple(sorted(mine, key=lambda e: e.when == "feedback"))

    def outgoing(self, agent: str) -> tuple[Edge, ...]:
        """Edges that carry an agent's messages, in the topology's order."""
        return tuple(e for e in self.edges if e.src == agent)

    @property
    def link_edges(self) -> tuple[tuple[str, str], ...]:
        """The (src, dst) pairs that need an outer link, in order."""
        return tuple((e.src, e.dst) for e in self.edges)


def parse_edge(text: str, when: Literal["round", "feedback"]) -> Edge:
    """An edge from the text `src->dst`; raises `InputError` for any other text."""
    src, _, dst = (part.strip() for part in text.partition("->"))
    if not (src and dst) or "->" in dst:
        raise InputError(f"edge {text!r} is not a pair of agents; write src->dst")
    return Edge(src, dst, when)


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two topologies (as dicts, also from JSON) differ, in words; empty if they do not.

    Their names are not compared: links belong to agents and edges.
    """
    found = []
    for key in ("agents", "output"):
        if _plain(there.get(key)) != _plain(here[key]):
            found.append(f"{key} {_words(there.get(key))} there, {_words(here[key])} here")
    edges = [_edges(topology) for topology in (there, here)]
    for mine, others, place in ((edges[0], edges[1], "there"), (edges[1], edges[0], "here")):
        found += [f"edge {edge} only {place}" for edge in sorted(mine - others)]
    if _plain(there.get("roles", ())) != _plain(here["roles"]):
        found.append(f"roles {_plain(there.get('roles'))} there, {_plain(here['roles'])} here")
    return "; ".join(found)


def _edges(topology: Mapping[str, Any]) -> set[str]:
    return {f"{e['src']}->{e['dst']} ({e['when']})" for e in topology.get("edges", ())}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def single(agent: str) -> Topology:
    """The topology of one agent alone, in the role `single`."""
    roles = ((agent, "single"),)
    return Topology(name="single", agents=(agent,), edges=(), output=agent, roles=roles)
