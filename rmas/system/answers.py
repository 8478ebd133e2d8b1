"""What is asked of a system, and what comes back."""

import dataclasses
from collections.abc import Mapping, Sequence

from rmas.errors import InputError
from rmas.options import Options, option
from rmas.system.prompts import PROGRAM, Interface
from rmas.system.topology import Topology
from rmas.system.writing import Written


@dataclasses.dataclass(frozen=True)
class Question:
    """A question to a system.

    Attributes:
      id: its name; random keys are folded from it.
      text: what is asked.
      interface: what a code task asks for.

    Raises `InputError` for a text with an invalid character, as from bytes that are not UTF-8.
    """

    id: str
    text: str
    interface: Interface = PROGRAM

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"question {self.id}: character {error.start} is not valid Unicode; write UTF-8"
            ) from None


COUNTS = ("prompt_tokens", "latent_steps", "decoded_tokens", "positions", "reused_positions")
"""What is counted of an agent's part in an answer; see `Answer`."""


@dataclasses.dataclass
class Answer:
    """What a system wrote, and its cost.

    Attributes:
      texts: per agent in order of turns, with tool results as the agent read them.
      counts: per agent
        `prompt_tokens`: positions read: prompts with slot vectors, messages and tool results;
        `latent_steps`: states of its rollouts;
        `decoded_tokens`: tokens that it wrote, stop tokens included;
        `positions`: positions that its model was run on: those of prompts, each round's preamble
        but the first left out; the latent steps but the first of a turn (which the prompt gives);
        and the written tokens but the last of a turn (which is never read);
        `reused_positions`: those of preambles, in the rounds after the first, which the keys and
        values of the first serve again (`rmas.system.preamble`).
      tools: every call: agent, round (from 1), tool, body, result, failed.
      text: the final answer as the output agent wrote it, without tool results.
      ids: its tokens, the stop token included.
      retried: whether the answer was continued once (`writing.Retry`).
    """

    texts: dict[str, list[str]]
    counts: dict[str, dict[str, int]]
    tools: list[dict[str, object]] = dataclasses.field(default_factory=list)
    text: str = ""
    ids: tuple[int, ...] = ()
    retried: bool = False

    @classmethod
    def blank(cls, topology: Topology) -> "Answer":
        """An answer with nothing written yet, and counts of zero for every agent."""
        return cls({}, {agent: dict.fromkeys(COUNTS, 0) for agent in topology.agents})

    def read(self, agent: str, tokens: int, reused: int) -> None:
        """Counts a prompt that an agent read, of which `reused` positions were not run again."""
        self.counts[agent]["prompt_tokens"] += tokens
        self.counts[agent]["positions"] += tokens - reused
        self.counts[agent]["reused_positions"] += reused

    def think(self, agent: str, steps: int, turns: int, run: int | None = None) -> None:
        """Counts latent turns of so many steps, of which the model was run on `run` positions.

        By default on those of all but the first, which the prompt gives.
        """
        self.counts[agent]["latent_steps"] += steps * turns
        self.counts[agent]["positions"] += (steps - 1 if run is None else run) * turns

    def add(self, agent: str, k: int, wrote: Written) -> None:
        """Adds a text that an agent wrote in round `k` (from 0)."""
        self.texts.setdefault(agent, []).append(wrote.transcript)
        self.counts[agent]["prompt_tokens"] += wrote.tokens_read
        self.counts[agent]["decoded_tokens"] += len(wrote.ids)
        self.counts[agent]["positions"] += wrote.tokens_read + wrote.tokens_run
        self.tools += [
            {"agent": agent, "round": k + 1, **dataclasses.asdict(use)} for use in wrote.tools
        ]

    def finish(self, wrote: Written) -> None:
        """Sets the final answer: the output agent's last text."""
        self.text, self.ids, self.retried = wrote.text, wrote.ids, wrote.retried


@dataclasses.dataclass(frozen=True)
class Limits(Options):
    """Lengths of what agents produce, in latent steps and tokens."""

    latent_steps: int = option(32, "latent thoughts of a turn", unit="steps", least=1)
    max_new_tokens: int = option(
        0,
        "longest answer; 0: 2,000, half the context, or what the longest prompt leaves",
        unit="tokens",
        least=0,
    )
    message_tokens: int = option(
        0,
        "longest message in text exchange; 0: as max_new_tokens, at most a quarter of the smallest "
        "context",
        unit="tokens",
        least=0,
    )
    own_tokens: Mapping[str, int] = option(
        factory=dict,
        help="the same for single agents: their messages, and the answer if they give it",
        unit="tokens",
        least=1,
    )

    def answered_by(self, agent: str) -> "Limits":
        """The same where `agent` answers: its own limit, if it has one, is that of the answer."""
        tokens = self.own_tokens.get(agent, self.max_new_tokens)
        return dataclasses.replace(self, max_new_tokens=tokens)

    def tokens(self, agent: str, final: bool) -> int:
        """How many tokens an agent may write in a turn; `final` marks the answer."""
        if final:
            return self.max_new_tokens
        return self.own_tokens.get(agent, self.message_tokens or self.max_new_tokens)


def row_names(
    questions: Sequence[Question], batch: int, rollout_index: int, turn: str = "answer"
) -> list[str]:
    """The names that a turn's random keys are folded from; empty for rows that only fill up."""
    names = [f"{q.id}/{rollout_index}/{turn}" for q in questions]
    return names + [""] * (batch - len(names))
