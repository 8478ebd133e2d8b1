"""Runs methods over questions and writes one record per question, so that a kill loses nothing.

The plan fixes the order of everything. Records are appended a batch at a time and fsynced; a
batch that was cut short is run again whole, so a resumed file equals an uninterrupted one.
Timings, which differ from run to run, are kept beside in their own file.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rmas.evaluation.meters import peak_bytes, seconds_compiling
from rmas.files import append_lines, atomic_write_text
from rmas.system.answers import Answer, Question
from rmas.system.batch import bucket
from rmas.tasks.graders import Graders
from rmas.tasks.grading import Grade
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row
from rmas.training.metrics import Progress

SCHEMA = 2
RECORDS, TIMINGS = "records.jsonl", "timings.jsonl"


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to answer.

    Attributes:
      name: `latent`, `text`, `single:<agent>`, ...
      rounds: how many.
      answer: `answer(questions, batch, rollout)` gives answers for at most `batch` questions.
      warm: the first batch of each length is run once more beforehand, so that its time holds no
        compilation.
      latent_length: states of a latent turn; None for methods without.
      phases: the seconds of the last call by phase.
    """

    name: str
    rounds: int
    answer: Callable[[Sequence[Question], int, int], list[Answer]]
    warm: bool = True
    latent_length: int | None = None
    phases: Callable[[], dict[str, float]] = dict


@dataclasses.dataclass(frozen=True)
class Batch:
    """Questions that are answered together; `start` is the place of the first in the plan."""

    method: Method
    rollout: int
    start: int
    rows: Sequence[Row]
    bucket: int

    def key(self, row: Row) -> tuple[str, int, int | None, int, str]:
        """What makes a record the one of this batch."""
        method = self.method
        return method.name, method.rounds, method.latent_length, self.rollout, row.id


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: methods in order, each over all rows in batches of fixed size.

    Attributes:
      task: the name of what grades.
      rows: in the order in which they are asked (`by_length`), one of `lengths` each.
      rollouts: how often each question is answered.
    """

    benchmark: str
    task: str
    methods: tuple[Method, ...]
    rows: Sequence[Row]
    lengths: Sequence[int]
    batch: int
    seed: int
    rollouts: int = 1

    def batches(self) -> Iterator[Batch]:
        """Every batch of every method, in the order in which records are written."""
        for method in self.methods:
            for rollout in range(self.rollouts):
                for start in range(0, len(self.rows), self.batch):
                    end = start + self.batch
                    longest = bucket(max(self.lengths[start:end]))
                    yield Batch(method, rollout, start, list(self.rows[start:end]), longest)

    def record(self, batch: Batch, row: Row, answer: Answer, grade: Grade) -> dict[str, Any]:
        """The record of one question."""
        return {
            "schema": SCHEMA,
            "id": row.id,
            "benchmark": self.benchmark,
            "method": batch.method.name,
            "rounds": batch.method.rounds,
            "latent_length": batch.method.latent_length,
            "rollout": batch.rollout,
            "seed": self.seed,
            "agents": answer.counts,
            "texts": answer.texts,
            "tools": answer.tools,
            "answer": grade.answer,
            "gold": row.answer,
            "scores": dict(grade.scores),
            "retried": answer.retried,
            "note": grade.note,
        }


def by_length(rows: Sequence[Row], length: Callable[[Row], int]) -> tuple[list[Row], list[int]]:
    """Rows by the bucket of their length, and the lengths; in one bucket they keep their order."""
    lengths = [length(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (bucket(lengths[i]), i))
    return [rows[i] for i in order], [lengths[i] for i in order]


def run(plan: Plan, graders: Graders, folder: Path) -> list[dict]:
    """Runs what is missing; returns all records."""
    batches = list(plan.batches())
    records = _complete(folder / RECORDS, batches)
    _drop_half_line(folder / TIMINGS)
    done, total = len(records), sum(len(batch.rows) for batch in batches)
    warm: set[tuple[Method, int]] = set()
    right: dict[Method, list[float]] = {}
    with (
        (folder / RECORDS).open("a") as record_file,
        (folder / TIMINGS).open("a") as timing_file,
        Progress(total, start=done, label="evaluate") as progress,
    ):
        seen = 0
        for batch in batches:
            seen += len(batch.rows)
            if seen <= done:
                continue
            answers, timing = _answer(plan, batch, warm)
            grades = graders.grade(plan.task, [a.text for a in answers], batch.rows)
            new = [
                plan.record(batch, *three)
                for three in zip(batch.rows, answers, grades, strict=True)
            ]
            append_lines(record_file, [json.dumps(record) for record in new])
            append_lines(timing_file, [json.dumps(timing)])
            records += new
            scores = right.setdefault(batch.method, [])
            scores += [record["scores"]["exact"] for record in new]
            name = f"{batch.method.name} r={batch.method.rounds}"
            progress.update(seen, **{name: sum(scores) / len(scores)})
    return records


def _answer(
    plan: Plan, batch: Batch, warm: set[tuple[Method, int]]
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of a batch, and what they took."""
    method, questions = batch.method, [question_of(row) for row in batch.rows]
    compiled = seconds_compiling()
    if method.warm and (method, batch.bucket) not in warm:
        method.answer(questions, plan.batch, batch.rollout)
        warm.add((method, batch.bucket))
    method.phases()  # of the warm-up: forgotten
    before, began = seconds_compiling(), time.perf_counter()
    answers = method.answer(questions, plan.batch, batch.rollout)
    seconds, after = time.perf_counter() - began, seconds_compiling()
    return answers, {
        "method": method.name,
        "rounds": method.rounds,
        "latent_length": method.latent_length,
        "rollout": batch.rollout,
        "start": batch.start,
        "n": len(batch.rows),
        "ids": [row.id for row in batch.rows],
        "seconds": seconds - (after - before),
        "compile": after - compiled,
        "phases": method.phases(),
        "peak_bytes": peak_bytes(),
    }


def _complete(path: Path, batches: Sequence[Batch]) -> list[dict]:
    """Records of whole batches, from the start of the plan; the file is cut to just these."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    kept: list[dict] = []
    at = 0
    for batch in batches:
        try:
            found = [json.loads(line) for line in lines[at : at + len(batch.rows)]]
            same = [_key(record) for record in found] == [batch.key(row) for row in batch.rows]
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            break
        kept += found
        at += len(batch.rows)
    if path.is_file():
        atomic_write_text(path, "".join(line + "\n" for line in lines[:at]))
    return kept


def _key(record: dict) -> tuple[str, int, int | None, int, str]:
    names = ("method", "rounds", "latent_length", "rollout", "id")
    return tuple(record[name] for name in names)


def _drop_half_line(path: Path) -> None:
    """What a kill left at the end would swallow the line that is appended to it."""
    text = path.read_text() if path.is_file() else "\n"
    if not text.endswith("\n"):
        atomic_write_text(path, text[: text.rfind("\n") + 1])


def seconds_of(path: Path, n: int) -> dict[tuple[str, int, int | None], float]:
    """Seconds of a rollout of all `n` questions by (method, rounds, latent length).

    The newest timing of each batch counts; what is not timed is taken to be like the rest.
    """
    found: dict[tuple, dict[tuple[int, int], tuple[int, float]]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        key = (line["method"], line["rounds"], line["latent_length"])
        place = (line["rollout"], line["start"])
        found.setdefault(key, {})[place] = (line["n"], line["seconds"])
    totals = {}
    for key, batch in found.items():
        timed = sum(questions for questions, _ in batch.values())
        totals[key] = sum(seconds for _, seconds in batch.values()) * n / timed
    return totals
