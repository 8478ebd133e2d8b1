"""From encoded prompts to arrays of fixed shapes: buckets, left padding, slots as indices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np

from rmas.shapes import Array
from rmas.system.encode import Encoded, Slot
from rmas.system.preamble import Preamble, Prompts
from rmas.system.turn import Prompt


def bucket(n: int) -> int:
    """The shape that a length is padded to: a multiple of 16, at most a quarter longer."""
    step = max(16, 1 << max(n.bit_length() - 3, 0))
    return -(-n // step) * step


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of one prompt.

    Attributes:
      ids: token ids; 0 at slots.
      slots: per position the index into the joined messages that it reads, or -1 at tokens.
      text_length: the number of last positions that hold the role's own text (teacher forcing).
      preamble: the number of first positions that all rounds share (`rmas.system.preamble`).
    """

    ids: tuple[int, ...]
    slots: tuple[int, ...]
    text_length: int = 0
    preamble: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_tokens(cls, ids: Sequence[int], preamble: int = 0) -> "Line":
        """A line without slots."""
        return cls(tuple(ids), (-1,) * len(ids), preamble=preamble)

    def with_text(self, text: Sequence[int]) -> "Line":
        """The line with the role's text after it, which has none yet."""
        own = Line.of_tokens(text)
        return Line(self.ids + own.ids, self.slots + own.slots, len(own), self.preamble)

    def cut_left(self, limit: int) -> "Line":
        """The last `limit` positions; without a preamble, if that cuts anything off."""
        if len(self) <= limit:
            return self
        return Line(self.ids[-limit:], self.slots[-limit:], min(self.text_length, limit))

    def cut_right(self, limit: int) -> "Line":
        """The first `limit` positions."""
        gone = max(len(self) - limit, 0)
        if not gone:
            return self
        text_length, preamble = max(self.text_length - gone, 0), min(self.preamble, limit)
        return Line(self.ids[:limit], self.slots[:limit], text_length, preamble)

    @property
    def rest(self) -> "Line":
        """The line after its preamble."""
        return Line(self.ids[self.preamble :], self.slots[self.preamble :], self.text_length)


EMPTY = Line((), ())
"""The line of a row that only fills up a batch."""


def line(
    encoded: Encoded,
    sources: Sequence[str],
    stride: int,
    lengths: Mapping[str, int] | None = None,
    text: Sequence[int] = (),
    preamble: int = 0,
) -> Line:
    """Lays out one prompt.

    Args:
      sources: senders in the order of `Topology.incoming`.
      stride: M, the length of every message array.
      lengths: positions that each sender's message fills in this row; all M without it.
      text: ids of the role's text, after the prompt.
      preamble: the number of first positions that all rounds share.
    """
    ids: list[int] = []
    slots: list[int] = []
    for run in encoded:
        if isinstance(run, Slot):
            n = stride if lengths is None else lengths[run.source]
            start = stride * list(sources).index(run.source)
            ids += [0] * n
            slots += range(start, start + n)
        else:
            ids += run
            slots += [-1] * len(run)
    return Line(tuple(ids), tuple(slots), preamble=preamble).with_text(text)


def level(rounds: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The lines of each row with the preamble that all of them have: the shortest."""
    shared = [min(line.preamble for line in lines) for lines in zip(*rounds, strict=True)]
    return [
        [dataclasses.replace(row, preamble=n) for row, n in zip(rows, shared, strict=True)]
        for rows in rounds
    ]


def split(
    lines: Mapping[str, Sequence[Sequence[Line]]],
) -> tuple[dict[str, list[tuple[int, ...]]], dict[str, list[list[Line]]]]:
    """By agent, the preamble of each row, and what follows it by round and row."""
    preambles, rest = {}, {}
    for agent, rounds in lines.items():
        rounds = level(rounds)
        preambles[agent] = [row.ids[: row.preamble] for row in rounds[0]]
        rest[agent] = [[row.rest for row in rows] for rows in rounds]
    return preambles, rest


def pack(
    lines: Mapping[str, Sequence[Sequence[Line]]], length: Callable[[int], int] = bucket
) -> Prompts:
    """All agents' prompts as numpy arrays, from their lines by round and row.

    `length` gives the shape that a length is padded to.
    """
    preambles, rest = split(lines)
    shapes = {agent: length(max(map(len, rows))) for agent, rows in preambles.items()}
    return Prompts(
        {a: stack_preambles(rows, shapes[a]) for a, rows in preambles.items() if shapes[a]},
        {
            agent: stack(rounds, length(max(len(row) for rows in rounds for row in rows)))
            for agent, rounds in rest.items()
        },
    )


def stack_preambles(rows: Sequence[Sequence[int]], length: int | None = None) -> Preamble:
    """Left-padded numpy arrays `[B, T]`; T is `length`, or the bucket of the longest row."""
    prompt = stack([[Line.of_tokens(ids) for ids in rows]], length)
    return Preamble(prompt.ids_BT[0], prompt.valid_BT[0])


def stack(rounds: Sequence[Sequence[Line]], length: int | None = None) -> Prompt:
    """Left-padded numpy arrays `[R, B, T]` from lines by round and row.

    T is `length`, or one bucket for all lines.
    """
    longest = max(len(row) for rows in rounds for row in rows)
    T = bucket(longest) if length is None else length
    shape = (len(rounds), len(rounds[0]), T)
    ids, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
    slot = np.full(shape, -1, np.int32)
    for r, rows in enumerate(rounds):
        for b, row in enumerate(rows):
            if len(row):
                ids[r, b, -len(row) :] = row.ids
                slot[r, b, -len(row) :] = row.slots
                valid[r, b, -len(row) :] = True
    return Prompt(_host(ids), _host(valid), _host(slot))


def with_states(
    prompt: Prompt, rounds: Sequence[Sequence[Line]], n_states: int, shift: int
) -> Prompt:
    """A prompt of lines that end in a role's text, with the positions of its first states.

    `state_index_BM` points to the first `n_states` positions of each text, moved left by `shift`:
    0 selects states at the text's own positions (the release), 1 those that a rollout would see.
    `rounds` are its lines, with their preambles or without.
    """
    T = prompt.ids_BT.shape[-1]
    index = np.zeros((*prompt.ids_BT.shape[:2], n_states), np.int32)
    for r, rows in enumerate(rounds):
        for b, row in enumerate(rows):
            first = T - row.text_length - shift
            index[r, b] = np.clip(np.arange(first, first + n_states), 0, T - 1)
    return dataclasses.replace(prompt, state_index_BM=_host(index))


def _host(x: np.ndarray) -> Array:
    """A numpy array, typed as what `parallel.put_batch` makes of it."""
    return cast(Array, x)
