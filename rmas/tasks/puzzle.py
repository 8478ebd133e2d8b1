"""Puzzles in Z_17 that no agent solves alone: what the generated tasks share.

A question has some lines of operations and names the line after which to answer (`stop`). In a
round the agents do one line, each its own operation, and pass their values on as texts of one
form. So r rounds answer only the questions with stop <= r, and no agent answers any of them
alone: recursion is necessary by construction.
"""

import abc
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from rmas.errors import InputError
from rmas.tasks.rows import Row

P = 17
"""The modulus: values are 0 to 16."""
LINES = ("one", "two", "three")
"""Names of lines."""
# MIX[argument, value] must never change: agents are pre-trained on this table.
MIX = np.stack([np.random.default_rng([20260425, arg]).permutation(P) for arg in range(P)])
MIX.setflags(write=False)

WORDS = "start ; stop ? line done : keep = . the value of and is so now pass to"
"""Words of every puzzle, in addition to numbers, lines, operations and roles."""
_ANSWER = re.compile(r"(?<!\S)value\s+(\d|1[0-6])(?!\S)", re.ASCII)


@dataclass(frozen=True)
class Part:
    """What one role does.

    Attributes:
      role: its name.
      operation: as in `apply`.
      noun: the word for its result.
      smallest: the smallest argument.
      from_message: whether the argument comes from another agent's text, and not from the question.
    """

    role: str
    operation: str
    noun: str
    smallest: int = 0
    from_message: bool = False


@dataclass(frozen=True)
class Turn:
    """One role's operation on a value, in one line."""

    part: Part
    value: int
    argument: int

    @property
    def result(self) -> int:
        """The value that the role passes on."""
        return apply(self.part.operation, self.value, self.argument)


@dataclass(frozen=True)
class Puzzle(abc.ABC):
    """A generated task.

    Attributes:
      name: of the dataset, its task family and its grader.
      parts: its roles, in the order in which they act.
      lines: the number of lines of a question.
    """

    name: str
    parts: tuple[Part, ...]
    lines: int

    @abc.abstractmethod
    def turns(self, before: Sequence[Turn], start: int, rng: np.random.Generator) -> Sequence[Turn]:
        """The turns of a line, in the order of `parts`.

        `before` are the turns of the line before, empty for the first line, which begins with the
        value `start`. `rng` draws the arguments of the question.
        """

    @abc.abstractmethod
    def reader(self, part: Part) -> str:
        """The reader of a role's text, as the text names it."""

    def make_question(self, rng: np.random.Generator, name: str) -> Row:
        """One question with its teacher texts for all rounds; `name` becomes the row's id.

        `meta` has `stop` (from 1), `start`, and `values`: the last role's value after each line,
        also of lines after `stop`.
        """
        start, stop = int(rng.integers(P)), int(rng.integers(1, self.lines + 1))
        blocks, values = [f"start {start}"], list[int]()
        turns: Sequence[Turn] = ()
        texts: dict[str, list[str]] = {role: [] for role in self.roles}
        for number, line in enumerate(LINES[: self.lines], start=1):
            turns = self.turns(turns, start, rng)
            values.append(turns[-1].result)
            asked = [t for t in turns if not t.part.from_message]
            blocks.append(" ".join([line, *(f"{t.part.operation} {t.argument}" for t in asked)]))
            for t in turns:
                content = (line, t.value, t.part.operation, t.argument)
                if number > stop:
                    content = ("done", values[stop - 1], "keep", values[stop - 1])
                texts[t.part.role].append(self.role_text(t.part.role, *content))
        return Row(
            id=name,
            question=" ; ".join([*blocks, f"stop {LINES[stop - 1]} ?"]),
            answer=str(values[stop - 1]),
            texts={role: tuple(lines) for role, lines in texts.items()},
            meta={"start": start, "stop": stop, "values": values},
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles, in the order of `parts`."""
        return tuple(part.role for part in self.parts)

    @property
    def vocabulary(self) -> list[str]:
        """Every word of questions and texts, sorted."""
        own = (w for p in self.parts for w in (p.role, p.operation, p.noun, self.reader(p)))
        return sorted({*WORDS.split(), *map(str, range(P)), *LINES[: self.lines], *own})

    def make_rows(self, n: int, seed: int, forbid: AbstractSet[str] = frozenset()) -> list[Row]:
        """`n` rows with distinct questions that are not in `forbid`; ids are as `relay-000017`.

        The first k rows are the same for every n >= k.
        """
        rng = np.random.default_rng(seed)
        rows: list[Row] = []
        seen = set(forbid)
        while len(rows) < n:
            row = self.make_question(rng, f"{self.name}-{len(rows):06d}")
            if row.question not in seen:
                seen.add(row.question)
                rows.append(row)
        return rows

    def role_text(self, role: str, line: str, value: int, operation: str, argument: int) -> str:
        """A role's text in one round: 24 words, the 8th of which is the result."""
        part = self.parts[self.roles.index(role)]
        noun = part.noun if operation == part.operation else "value"
        result = apply(operation, value, argument)
        return (
            f"line {line} : {value} {operation} {argument} = {result} . "
            f"the {noun} of {value} and {argument} is {result} "
            f"so now pass value {result} to {self.reader(part)}"
        )


def apply(operation: str, value: int, argument: int) -> int:
    """The result of an operation on a value of Z_17; `keep` returns the value.

    Raises InputError for an unknown operation.
    """
    if operation == "add":
        return (value + argument) % P
    if operation == "mul":
        return (value * argument) % P
    if operation == "mix":
        return int(MIX[argument, value])
    if operation == "sub":
        return (value - argument) % P
    if operation == "rev":
        return (argument - value) % P
    if operation == "keep":
        return value
    raise InputError(f"operation {operation!r} is unknown; use add, mul, mix, sub, rev or keep")


def value_after(row: Row, rounds: int) -> int:
    """The value that a faultless system has after `rounds` rounds (1 or more)."""
    return row.meta["values"][min(row.meta["stop"], rounds) - 1]


def ceiling(rows: Sequence[Row], rounds: int) -> float | None:
    """The accuracy of a faultless system with `rounds` rounds, which answers with its last value.

    It may be right by chance where it needed more rounds. None where a row was not generated, so
    that its values are not known. Raises InputError for no rows or fewer than one round.
    """
    if not rows:
        raise InputError("empty dataset: the ceiling of no rows is undefined")
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; a ceiling needs at least one round")
    right = 0
    for row in rows:
        if not {"values", "stop"} <= row.meta.keys():
            return None
        right += str(value_after(row, rounds)) == row.answer
    return right / len(rows)


def extract_answer(text: str) -> str | None:
    """The N of the last `value N` in a text (N a word from 0 to 16), or None."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None
