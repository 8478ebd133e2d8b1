"""Who speaks to whom: a collaboration pattern as data.

A round runs the agents in order. A `round` edge carries a message within the round; a
`feedback` edge carries it into the next round. Only the output agent, in the last round,
decodes text; in earlier rounds it rolls out like the others.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

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
    `callers` are the agents that call tools while they write, as the pattern's prompts tell them.

    Raises `InputError` when made, naming the agent or edge: an unknown or repeated agent, a
    cycle of round edges or one against the order, a repeated edge, more than one output, an output
    that is no agent, an agent whose messages never reach the output.
    """

    name: str
    agents: tuple[str, ...]
    edges: tuple[Edge, ...]
    output: str
    roles: tuple[tuple[str, str], ...] = ()
    callers: tuple[str, ...] = ()

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
        for agent, role in self.roles:
            if agent not in self.agents:
                raise InputError(f"{where}: role {role!r} is of unknown agent {agent!r}")
        for agent in self.callers:
            if agent not in self.agents:
                raise InputError(f"{where}: unknown agent {agent!r} may call tools")
        if not isinstance(self.output, str):
            raise InputError(f"{where}: one agent answers, not {_words(self.output)}")
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
        if cycle := self._cycle():
            raise InputError(
                f"{where}: round edges {'->'.join(cycle)} form a cycle; make one a feedback edge"
            )
        for e in self.edges:
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


def parse_edge(text: str, when: Literal["round", "feedback"]) -> Edge:
    """An edge from `src->dst`; raises `InputError` where the text is something else."""
    ends = [end.strip() for end in text.split("->")]
    if len(ends) != 2 or not all(ends):
        raise InputError(f"edge {text!r} is no pair of agents; write src->dst")
    return Edge(*ends, when)


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two topologies (as dicts, also from JSON) differ, in words; empty where they do not.

    Their names do not count: links belong to agents and edges.
    """
    told = []
    for key in ("agents", "output"):
        if _plain(there.get(key)) != _plain(here[key]):
            told.append(f"{key} {_words(there.get(key))} there, {_words(here[key])} here")
    edges = [_edges(topology) for topology in (there, here)]
    for mine, others, place in ((edges[0], edges[1], "there"), (edges[1], edges[0], "here")):
        told += [f"edge {edge} only {place}" for edge in sorted(mine - others)]
    if _plain(there.get("roles", ())) != _plain(here["roles"]):
        told.append(f"roles {_plain(there.get('roles'))} there, {_plain(here['roles'])} here")
    return "; ".join(told)


def _edges(topology: Mapping[str, Any]) -> set[str]:
    return {f"{e['src']}->{e['dst']} ({e['when']})" for e in topology.get("edges", ())}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def single(agent: str) -> Topology:
    """One agent alone."""
    roles = ((agent, "single"),)
    return Topology(name="single", agents=(agent,), edges=(), output=agent, roles=roles)
