"""Training rows from questions and gold answers: the texts of attempts that were right.

Agents exchange texts; a question that is answered wrong is attempted again with other random keys.
Every attempt is appended to a file, a group of questions at a time, and fsynced: a run that was
killed resumes, and ends with the same rows.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.console import Progress
from rmas.errors import InputError
from rmas.evaluation.json_lines import keep_damaged, line_of, parse_line, whole_lines
from rmas.evaluation.plan import questions_of_group
from rmas.files import append_lines, atomic_write_text
from rmas.system.answers import Answer, Question
from rmas.system.topology import Topology
from rmas.tasks.grader import Grade
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row

_log = logging.getLogger(__name__)
ATTEMPTS, ROWS = "attempts.jsonl", "rows.jsonl"
"""Names of the files that are written: all attempts, and the rows."""


@dataclasses.dataclass(frozen=True)
class RowMaker:
    """Makes training rows.

    Raises InputError where two agents have the same role, since a row has one text per role.

    Attributes:
      topology: of the agents that answer.
      answer: `answer(questions, batch, n)` returns the answers of attempt `n`, from 0, to a group
        of questions, in their order, with programs of `batch` rows.
      grade: `grade(texts, rows)`; an attempt is right where the score `exact` is 1.
      attempts: how often a question is asked at most.
      batch: questions of a batch.
      group_batches: batches of a group at most; 0: as `questions_of_group` says.
    """

    topology: Topology
    answer: Callable[[Sequence[Question], int, int], list[Answer]]
    grade: Callable[[Sequence[str], Sequence[Row]], Sequence[Grade]]
    attempts: int
    batch: int
    group_batches: int = 0

    def __post_init__(self) -> None:
        roles = [self.topology.role(agent) for agent in self.topology.agents]
        for role in roles:
            if roles.count(role) > 1:
                raise InputError(
                    f"several agents have the role {role!r}, but a row has one text per role; give "
                    "every agent its own role"
                )

    def make(self, rows: Sequence[Row], folder: Path) -> int:
        """Writes `attempts.jsonl` and `rows.jsonl` in `folder`; returns the number of rows.

        Raises InputError where no answer was right.
        """
        right: dict[str, dict[str, Any]] = {}
        path = folder / ATTEMPTS
        old = whole_lines(path)
        at, resuming = 0, True
        for n in range(self.attempts):
            left = [row for row in rows if row.id not in right]
            size = questions_of_group(len(left), self.batch, self.group_batches)
            label = f"rows, attempt {n + 1} of {self.attempts}"
            with Progress(len(left), label=label, unit="questions") as progress:
                for start in range(0, len(left), size):
                    group = left[start : start + size]
                    found = _read(old[at : at + len(group)], group, n) if resuming else None
                    if found is None:
                        if resuming:  # drops the lines of an incomplete group
                            _drop(path, old, at, len(group))
                            resuming = False
                        found = self._attempt(group, n)
                        with path.open("a") as file:
                            append_lines(file, map(line_of, found))
                    at += len(group)
                    right |= {line["id"]: line for line in found if line["kept"]}
                    progress.update(start + len(group), right=len(right) / len(rows))
        if not right:
            raise InputError(
                f"none of {len(rows)} questions was answered right in {self.attempts} attempts, so "
                f"there are no rows; see {path} for what the agents wrote"
            )
        made = [_row(row, right[row.id]) for row in rows if row.id in right]
        atomic_write_text(folder / ROWS, "".join(json.dumps(line) + "\n" for line in made))
        return len(made)

    def _attempt(self, group: Sequence[Row], n: int) -> list[dict[str, Any]]:
        answers = self.answer([question_of(row) for row in group], self.batch, n)
        grades = self.grade([answer.text for answer in answers], group)
        found = []
        for row, answer, grade in zip(group, answers, grades, strict=True):
            texts = {self.topology.role(agent): own for agent, own in answer.texts.items()}
            complete = all(text.strip() for own in texts.values() for text in own)
            right = grade.scores["exact"] == 1
            line = {"id": row.id, "attempt": n, "answer": grade.answer, "right": right}
            found.append(line | {"kept": right and complete, "texts": texts})
        return found


def _drop(path: Path, lines: Sequence[str], kept: int, group: int) -> None:
    """Keeps the first lines; where a whole group is dropped a kill was not the cause."""
    if len(lines) - kept >= group:
        _log.warning(
            "%s is damaged behind line %d: what follows is attempted again; the file as it was is "
            "now %s",
            path,
            kept,
            keep_damaged(path).name,
        )
    atomic_write_text(path, "".join(f"{line}\n" for line in lines[:kept]))


def _read(lines: Sequence[str], group: Sequence[Row], n: int) -> list[dict[str, Any]] | None:
    """The attempts `n` at the rows of a group; None where some are missing."""
    try:
        found = [parse_line(line) for line in lines]
        same = [(line["id"], line["attempt"]) for line in found] == [(row.id, n) for row in group]
    except (ValueError, KeyError, TypeError):
        return None
    return found if same else None


def _row(row: Row, line: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the form that `rmas.tasks.files` reads."""
    meta = dict(row.meta) | {"made": {"attempt": line["attempt"]}}
    own = {"id": row.id, "question": row.question, "answer": row.answer}
    return own | {"meta": meta, "texts": line["texts"]}
