"""The prompts of a system for given questions: rendered, tokenized and laid out, each once."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from rmas.errors import InputError
from rmas.system.answers import Question
from rmas.system.batch import EMPTY, Line, line
from rmas.system.encode import Encoded
from rmas.system.load import System
from rmas.system.preamble import LEAST, preamble_ids
from rmas.system.prompts import PROGRAM, Field, Interface

_PROBES = ("A train leaves.", "What is 7?", "def f(x):")
_TOOLS = "You may call tools. Write what a tool needs between its tags; its result comes back."


@dataclasses.dataclass(frozen=True, eq=False)
class Renderer:
    """Makes the prompts of one system from questions."""

    system: System

    def encoded(
        self, agent: str, question: str, phase: str, interface: Interface = PROGRAM
    ) -> Encoded:
        """An agent's prompt for a question, with its slots; `phase` is `first` or `later`.

        Only the prompts of code tasks use `interface`.
        """
        return self._kept(agent, question, phase, interface)

    @functools.cached_property
    def _kept(self) -> Callable[..., Encoded]:
        # Of this renderer alone: a cache of the class would hold its system, and that its weights.
        return functools.lru_cache(maxsize=50_000)(self._encoded)

    def _encoded(self, agent: str, question: str, phase: str, interface: Interface) -> Encoded:
        s = self.system
        parts = s.prompts.template(s.topology.role(agent), s.task_family, phase)
        system_text = self.system_text(agent)
        values = {"question": question}
        if Field("interface") in parts:
            values["interface"] = s.prompts.interface_text(interface)
        return s.agents[agent].chat.encode(system_text, parts, values)

    def system_text(self, agent: str) -> str:
        """An agent's system message, with a description of the tools that its prompts lack."""
        text = self.system.prompts.system_text(self.system.topology)
        tools = self.system.tools_text(agent)
        return "\n\n".join(filter(None, [text, tools and f"{_TOOLS}\n{tools}"]))

    def sources(self, agent: str) -> tuple[str, ...]:
        """Senders to an agent, in the order of its message slots."""
        return tuple(e.src for e in self.system.topology.incoming(agent))

    def asked(self, agent: str, question: Question, k: int) -> Encoded:
        """An agent's prompt for a question in round `k` (from 0), with its slots."""
        return self.encoded(agent, question.text, phase(k), question.interface)

    def latent_line(self, agent: str, question: Question, k: int, steps: int) -> Line:
        """The prompt of round `k` (from 0) with slots of `steps` vectors."""
        encoded = self.asked(agent, question, k)
        preamble = self.preamble(agent, question)
        return line(encoded, self.sources(agent), stride=steps, preamble=preamble)

    def preamble(self, agent: str, question: Question) -> int:
        """The length of the preamble of an agent's prompts for a question; 0 for a short one."""
        prompts = [self.asked(agent, question, k) for k in range(2)]
        shared = len(preamble_ids(prompts))
        return shared if shared >= LEAST else 0

    def begin(self, agent: str) -> tuple[int, ...]:
        """What an agent's preambles begin with for most questions: found with some texts."""
        return self._begins[agent]

    @functools.cached_property
    def _begins(self) -> dict[str, tuple[int, ...]]:
        asked = [Question("", text) for text in _PROBES]

        def one(agent: str) -> tuple[int, ...]:
            ids = preamble_ids([self.asked(agent, q, k) for q in asked for k in range(2)])
            return ids if len(ids) >= LEAST else ()

        return {agent: one(agent) for agent in self.system.topology.agents}

    def latent_lines(
        self,
        questions: Sequence[Question],
        *,
        rounds: int,
        steps: int,
        batch: int,
        answer_tokens: int,
    ) -> dict[str, list[list[Line]]]:
        """Every agent's prompts by round and row.

        Missing rows are empty. Raises `InputError` when a prompt with its latent steps, or the
        output agent's with `answer_tokens` decoded tokens, is longer than the agent's context.
        """
        found = {}
        for agent in self.system.topology.agents:
            lines = [
                [self.latent_line(agent, q, k, steps) for q in questions]
                + [EMPTY] * (batch - len(questions))
                for k in range(rounds)
            ]
            extra = max(steps, answer_tokens if agent == self.system.topology.output else 0)
            for row, question in enumerate(questions):
                longest = max(len(rows[row]) for rows in lines)
                self.check_context(agent, question.text, longest + extra)
            found[agent] = lines
        return found

    def memory_lines(
        self,
        questions: Sequence[Question],
        *,
        rounds: int,
        steps: int,
        batch: int,
        answer_tokens: int,
    ) -> dict[str, list[list[Line]]]:
        """Every agent's prompts by round and row, with empty slots; as `latent_lines`.

        Raises `InputError` when a prompt with what its agent reads before it, the prompts and
        latent thoughts of senders, and what follows it, is longer than the agent's context.
        """
        topology = self.system.topology
        found = {
            agent: [
                [line(self.asked(agent, q, k), self.sources(agent), stride=0) for q in questions]
                + [EMPTY] * (batch - len(questions))
                for k in range(rounds)
            ]
            for agent in topology.agents
        }
        for agent in topology.agents:
            extra = max(steps, answer_tokens if agent == topology.output else 0)
            for row, question in enumerate(questions):
                longest = {a: max(len(rows[row]) for rows in found[a]) for a in topology.agents}
                read = sum(longest[e.src] + steps for e in topology.incoming(agent))
                self.check_context(agent, question.text, read + longest[agent] + extra)
        return found

    def check_context(self, agent: str, question: str, positions: int) -> None:
        """Raises `InputError` when a question needs more positions than an agent has."""
        limit = self.system.agents[agent].model.max_positions
        if positions > limit:
            raise InputError(
                f"question {question[:40]!r}... needs {positions} positions of agent {agent!r}, "
                f"whose context has {limit}; shorten it, or lower "
                "limits.latent_steps, limits.max_new_tokens or outer.max_length"
            )


def phase(k: int) -> str:
    """The name of a round's prompts."""
    return "first" if k == 0 else "later"
