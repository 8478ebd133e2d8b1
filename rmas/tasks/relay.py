"""The relay task: each line of a question needs three agents, each line needs the one before.

  start 4 ; one add 14 mul 6 mix 10 ; two add 3 mul 2 mix 1 ; three add 0 mul 16 mix 5 ; stop two ?

Values live in Z_17. The planner knows `add`, the critic `mul`, the solver `mix` (a secret
permutation per argument). An agent does one operation of one line and hands the value on; after
the `stop` line agents copy it. So r rounds answer only the questions with stop <= r, and no agent
answers any of them alone: recursion is necessary by construction.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from rmas.errors import InputError
from rmas.tasks.rows import Row

P = 17
CHANCE = 1 / P
LINES = ("one", "two", "three")
ROLES = ("planner", "critic", "solver")
# MIX[argument, value]: fixed for ever; agents are pre-trained on this table.
MIX = np.stack([np.random.default_rng([20260425, arg]).permutation(P) for arg in range(P)])
MIX.setflags(write=False)

# role: operation, its noun in the text, smallest argument, who reads the text.
_OPERATIONS = {
    "planner": ("add", "sum", 0, "critic"),
    "critic": ("mul", "product", 1, "solver"),
    "solver": ("mix", "mix", 0, "planner"),
}
_WORDS = (
    "start ; add mul mix stop ? line done : keep = . the sum product value of and is so now pass to"
)
VOCABULARY = sorted({*_WORDS.split(), *LINES, *ROLES, *map(str, range(P))})
_ANSWER = re.compile(r"(?<!\S)value\s+(\d|1[0-6])(?!\S)", re.ASCII)


def apply(operation: str, value: int, argument: int) -> int:
    """One operation on a value of Z_17; `keep` returns it."""
    if operation == "add":
        return (value + argument) % P
    if operation == "mul":
        return (value * argument) % P
    if operation == "mix":
        return int(MIX[argument, value])
    if operation == "keep":
        return value
    raise InputError(f"relay operation {operation!r} is unknown; use add, mul, mix or keep")


def role_text(role: str, line: str, value: int, operation: str, argument: int) -> str:
    """What an agent writes in one round: 24 words, the result being the 8th."""
    own, noun, _, reader = _OPERATIONS[role]
    noun = noun if operation == own else "value"
    result = apply(operation, value, argument)
    return (
        f"line {line} : {value} {operation} {argument} = {result} . "
        f"the {noun} of {value} and {argument} is {result} so now pass value {result} to {reader}"
    )


def make_question(rng: np.random.Generator, name: str = "relay") -> Row:
    """One question with its teacher texts for three rounds; `name` becomes the row's id.

    `meta` holds `stop` (1..3), `start`, and `values`: the value after each line, without regard
    to `stop`.
    """
    start = value = int(rng.integers(P))
    stop = int(rng.integers(1, len(LINES) + 1))
    parts, values = [f"start {start}"], []
    texts: dict[str, list[str]] = {role: [] for role in ROLES}
    for number, line in enumerate(LINES, start=1):
        words = [line]
        for role in ROLES:
            operation, _, smallest, _ = _OPERATIONS[role]
            argument = int(rng.integers(smallest, P))
            words += [operation, str(argument)]
            if number <= stop:
                texts[role].append(role_text(role, line, value, operation, argument))
            else:
                answer = values[stop - 1]
                texts[role].append(role_text(role, "done", answer, "keep", answer))
            value = apply(operation, value, argument)
        parts.append(" ".join(words))
        values.append(value)
    question = " ; ".join([*parts, f"stop {LINES[stop - 1]} ?"])
    return Row(
        id=name,
        question=question,
        answer=str(values[stop - 1]),
        texts={role: tuple(lines) for role, lines in texts.items()},
        meta={"start": start, "stop": stop, "values": values},
    )


def make_rows(n: int, seed: int, forbid: AbstractSet[str] = frozenset()) -> list[Row]:
    """`n` rows with distinct questions, none of them in `forbid`: relay-000000, relay-000001, ...

    The first k rows are the same for every n >= k.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    seen = set(forbid)
    while len(rows) < n:
        row = make_question(rng, f"relay-{len(rows):06d}")
        if row.question not in seen:
            seen.add(row.question)
            rows.append(row)
    return rows


def value_after(row: Row, rounds: int) -> int:
    """The value that a faultless system holds after `rounds` rounds (1 or more)."""
    return row.meta["values"][min(row.meta["stop"], rounds) - 1]


def ceiling(rows: Sequence[Row], rounds: int) -> float:
    """The accuracy of a faultless system with `rounds` rounds, lucky guesses included."""
    if not rows:
        raise InputError("empty dataset: the ceiling of no relay rows is undefined")
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; a ceiling needs at least one round")
    return sum(str(value_after(row, rounds)) == row.answer for row in rows) / len(rows)


def extract_answer(text: str) -> str | None:
    """The N of the last `value N` in a text (N a word from 0 to 16), or None."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None
