"""Training rows from questions and answers: the texts of runs that came out right.

Agents exchange texts; a question whose answer is wrong is tried again, with other random keys.
Every try is kept in a file, a batch at a time, fsynced: killed at any moment and run again, it goes
on where it was, and ends with the same rows.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.console import Progress
from rmas.errors import InputError
from rmas.files import append_lines, atomic_write_text
from rmas.system.answers import Answer, Question
from rmas.system.topology import Topology
from rmas.tasks.grading import Grade
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row

TRIES, ROWS = "tries.jsonl", "rows.jsonl"


@dataclasses.dataclass(frozen=True)
class Maker:
    """What makes rows.

    Attributes:
      topology: its roles must differ, since a row has one text of a role.
      answer: `answer(questions, batch, n)` gives the answers of try `n`.
      grade: scores of answers to rows; 1 is right.
      tries: how often a question is asked at most.
      batch: questions asked together.
    """

    topology: Topology
    answer: Callable[[Sequence[Question], int, int], list[Answer]]
    grade: Callable[[Sequence[str], Sequence[Row]], Sequence[Grade]]
    tries: int
    batch: int

    def __post_init__(self):
        roles = [self.topology.role(agent) for agent in self.topology.agents]
        for role in roles:
            if roles.count(role) > 1:
                raise InputError(
                    f"role {role!r} is played by several agents, but a row has one text of a role; "
                    "give the agents roles of their own"
                )

    def make(self, rows: Sequence[Row], folder: Path) -> int:
        """Writes `tries.jsonl` and `rows.jsonl`; returns how many rows there are.

        Raises `InputError` where no answer was right.
        """
        right: dict[str, dict[str, Any]] = {}
        path = folder / TRIES
        old = path.read_text().split("\n")[:-1] if path.is_file() else []
        at, goes_on = 0, True
        for n in range(self.tries):
            left = [row for row in rows if row.id not in right]
            label = f"rows, try {n + 1} of {self.tries}"
            with Progress(len(left), label=label, unit="questions") as progress:
                for start in range(0, len(left), self.batch):
                    group = left[start : start + self.batch]
                    found = _read(old[at : at + len(group)], group, n) if goes_on else None
                    if found is None:
                        if goes_on:  # what else is there is of a batch that was cut short
                            atomic_write_text(path, "".join(f"{line}\n" for line in old[:at]))
                            goes_on = False
                        found = self._try(group, n)
                        with path.open("a") as file:
                            append_lines(file, [json.dumps(line) for line in found])
                    at += len(group)
                    right |= {line["id"]: line for line in found if line["kept"]}
                    progress.update(start + len(group), right=len(right) / len(rows))
        if not right:
            raise InputError(
                f"none of {len(rows)} questions was answered right in {self.tries} tries, so there "
                f"are no rows; see {path} for what agents wrote"
            )
        made = [_row(row, right[row.id]) for row in rows if row.id in right]
        atomic_write_text(folder / ROWS, "".join(json.dumps(line) + "\n" for line in made))
        return len(made)

    def _try(self, group: Sequence[Row], n: int) -> list[dict[str, Any]]:
        answers = self.answer([question_of(row) for row in group], self.batch, n)
        grades = self.grade([answer.text for answer in answers], group)
        found = []
        for row, answer, grade in zip(group, answers, grades, strict=True):
            texts = {self.topology.role(agent): own for agent, own in answer.texts.items()}
            whole = all(text.strip() for own in texts.values() for text in own)
            right = grade.scores["exact"] == 1
            line = {"id": row.id, "try": n, "answer": grade.answer, "right": right}
            found.append(line | {"kept": right and whole, "texts": texts})
        return found


def _read(lines: Sequence[str], group: Sequence[Row], n: int) -> list[dict[str, Any]] | None:
    """The lines of a batch, if they are all there."""
    try:
        found = [json.loads(line) for line in lines]
        same = [(line["id"], line["try"]) for line in found] == [(row.id, n) for row in group]
    except (ValueError, KeyError, TypeError):
        return None
    return found if same else None


def _row(row: Row, line: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the form that `rmas.tasks.files` reads."""
    meta = dict(row.meta) | {"made": {"try": line["try"]}}
    own = {"id": row.id, "question": row.question, "answer": row.answer}
    return own | {"meta": meta, "texts": line["texts"]}
