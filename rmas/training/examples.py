"""Rows as arrays on the host, for training; the same row always gives the same arrays.

What only one objective reads is made in its own file, `objectives/<name>.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import jax
import numpy as np
from flax import struct

from rmas.parallel import all_reduce_max
from rmas.shapes import Array
from rmas.system.batch import Line, bucket, pack, stack
from rmas.system.encode import Encoded, fill
from rmas.system.preamble import Preamble, Prompts
from rmas.system.rendered import Renderer
from rmas.system.topology import Edge
from rmas.system.turn import Prompt
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row


@struct.dataclass
class Text:
    """A prompt that ends in a role's text, and which positions are that text, `[..., B, T]`."""

    prompt: Prompt
    text_BT: Array

    def count_tokens(self) -> int:
        """Tokens of prompts and texts, padding left out."""
        return count_prompt_tokens(self.prompt)

    def predicted(self) -> Array:
        """Which positions but the last one are before a token of the text, `[..., B, T - 1]`."""
        return self.text_BT[..., 1:] & self.prompt.valid_BT[..., :-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Makes training arrays for one system.

    Attributes:
      rounds: recursion rounds of outer training.
      latent_steps: M of true rollouts.
      max_latent_tokens: how many states of a text are the message, in teacher forcing.
      max_length: longer rows are cut.
      message_tokens: incoming texts of inner training are cut to so many tokens; 0 keeps them.
      shift: 0 uses states at a text's own positions (the release), 1 those a rollout sees.
      first_round: whether inner training reads prompts of the first round alone (the release).
      cut: the side on which longer rows are cut.
      longest: the largest of this process's and the others' values, so that all processes that
        share a batch pad it alike.
    """

    renderer: Renderer
    rounds: int
    latent_steps: int
    max_latent_tokens: int
    max_length: int
    message_tokens: int
    shift: int
    first_round: bool = False
    cut: Literal["left", "right"] = "left"
    longest: Callable[[int], int] = all_reduce_max

    def text_ids(self, agent: str, row: Row, k: int) -> tuple[int, ...]:
        """Teacher text of an agent in round `k` (from 0), closing tokens included."""
        system = self.renderer.system
        return system.agents[agent].chat.text_ids(row.text(system.topology.role(agent), k))

    def encoded(self, agent: str, row: Row, k: int) -> Encoded:
        """An agent's prompt in round `k` (from 0), with open slots."""
        return self.renderer.asked(agent, question_of(row), k)

    def preamble(self, agent: str, row: Row) -> int:
        """The length of the preamble of an agent's prompts for a row (`Renderer.preamble`)."""
        return self.renderer.preamble(agent, question_of(row))

    def draw_rounds(self, rng: np.random.Generator, rows: int) -> list[int]:
        """The round (from 0) at which each of so many rows is read in inner training."""
        rounds = 1 if self.first_round else self.rounds
        return [int(rng.integers(rounds)) for _ in range(rows)]

    def inner_facts(self) -> dict[str, Any]:
        """What decides the arrays of inner training, for JSON."""
        facts = {"message_tokens": self.message_tokens, "max_length": self.max_length}
        if not self.first_round:
            facts["rounds"] = self.rounds
        return facts if self.cut == "left" else {**facts, "cut": self.cut}

    def inner(self, agent: str, rows: Sequence[Row], rounds: Sequence[int]) -> Text:
        """Prompts `[B, T]` with teacher texts in their slots, each row at its round."""
        return self.stack_texts(self.inner_lines(agent, rows, rounds))

    def inner_lines(self, agent: str, rows: Sequence[Row], rounds: Sequence[int]) -> list[Line]:
        """`inner` before its rows are arrays."""
        return [self._inner_line(agent, row, k) for row, k in zip(rows, rounds, strict=True)]

    def latent_lines(self, rows: Sequence[Row]) -> dict[str, list[list[Line]]]:
        """Every agent's prompts by round and row, with slots for latent messages."""
        return self.renderer.latent_lines(
            [question_of(row) for row in rows],
            rounds=self.rounds,
            steps=self.latent_steps,
            batch=len(rows),
            answer_tokens=0,
        )

    def pack(self, lines: Mapping[str, Sequence[Sequence[Line]]]) -> Prompts:
        """All agents' prompts as arrays, from their lines by round and row."""
        return pack(lines, self.padded)

    def fit_line(self, agent: str, row: Row, whole: Line) -> Line:
        """A line cut to `max_length`; `InputError` if that is longer than the agent's context."""
        cut = whole.cut_left if self.cut == "left" else whole.cut_right
        short = cut(self.max_length)
        self.renderer.check_context(agent, row.question, len(short))
        return short

    def padded(self, longest: int) -> int:
        """The shape that lengths up to `longest` are padded to, alike in all processes."""
        return bucket(self.longest(longest))

    def stack_texts(self, lines: Sequence[Line]) -> Text:
        """Left-padded arrays `[B, T]` from lines that end in a text."""
        prompt = stack([lines], self.padded(max(map(len, lines))))
        text = Text(prompt, text_mask([lines], prompt))
        return jax.tree.map(lambda x: x[0], text)

    def filled_line(self, agent: str, row: Row, k: int) -> Line:
        """An agent's prompt in round `k` (from 0) with the senders' teacher texts in its slots."""
        chat = self.renderer.system.agents[agent].chat
        incoming = self.renderer.system.topology.incoming(agent)
        texts = {e.src: self._source_text(e, row, k) for e in incoming}

        def message_ids(source: str) -> Sequence[int]:
            return chat.data_ids(texts[source])[: self.message_tokens or None]

        ids = fill(self.encoded(agent, row, k), message_ids)
        return Line.of_tokens(ids, self.preamble(agent, row))

    def _inner_line(self, agent: str, row: Row, k: int) -> Line:
        whole = dataclasses.replace(self.filled_line(agent, row, k), preamble=0)
        return self.fit_line(agent, row, whole.with_text(self.text_ids(agent, row, k)))

    def _source_text(self, edge: Edge, row: Row, k: int) -> str:
        role = self.renderer.system.topology.role(edge.src)
        return row.text(role, max(message_round(edge, k), 0))


def message_round(edge: Edge, k: int) -> int:
    """The round in which the message that an edge carries into round `k` was made."""
    return k - (edge.when == "feedback")


def text_mask(rounds: Sequence[Sequence[Line]], prompt: Prompt) -> Array:
    """Which positions `[R, B, T]` of the lines' arrays are the lines' own texts."""
    T = prompt.ids_BT.shape[-1]
    counts_RB = np.array([[row.text_length for row in rows] for rows in rounds])
    return on_host(np.arange(T) >= T - counts_RB[..., None])


def count_prompt_tokens(prompt: Prompt | Preamble) -> int:
    """Tokens and message vectors of a prompt's arrays, padding left out."""
    return int(np.count_nonzero(prompt.valid_BT))


def count_all_tokens(prompts: Prompts) -> int:
    """Tokens and message vectors of all agents' prompts in all rounds, padding left out."""
    total = 0
    for agent, rest in prompts.rest.items():
        total += count_prompt_tokens(rest)
        if agent in prompts.preambles:
            total += len(rest.valid_BT) * count_prompt_tokens(prompts.preambles[agent])
    return total


def on_host(x: np.ndarray) -> Array:
    """A numpy array, with the type of the device array that `parallel.put_batch` makes of it."""
    return cast(Array, x)
