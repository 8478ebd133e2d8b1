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

import jax

from rmas.console import Progress
from rmas.files import append_lines, atomic_write_text, replacing, report_full_disk
from rmas.parallel import barrier, is_first
from rmas.parallel.meters import peak_bytes, seconds_compiling
from rmas.system.answers import Answer, Question
from rmas.system.batch import bucket
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.grading import Grade
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row

SCHEMA = 2
_LONG = 7 * 24 * 3600  # seconds that processes wait for the slowest one's answers
RECORDS, TIMINGS, QUESTIONS = "records.jsonl", "timings.jsonl", "questions.jsonl"


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
class Asked:
    """Rows in the order in which they are asked, each read only when its batch comes.

    (One row of LiveCodeBench has megabytes of tests.)
    """

    source: Sequence[Row]
    places: Sequence[int]
    ids: Sequence[str]
    lengths: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, start: int, end: int) -> list[Row]:
        """Those from `start` to before `end`."""
        return [self.source[place] for place in self.places[start:end]]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Questions that are answered together; `start` is the place of the first in the plan."""

    method: Method
    rollout: int
    start: int
    ids: Sequence[str]
    bucket: int

    @property
    def end(self) -> int:
        """The place behind the last one."""
        return self.start + len(self.ids)

    def key(self, question: str) -> tuple[str, int, int | None, int, str]:
        """What makes a record the one of this batch."""
        method = self.method
        return method.name, method.rounds, method.latent_length, self.rollout, question


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: methods in order, each over all rows in batches of fixed size.

    Attributes:
      grader: the name of what grades.
      asked: the questions (`by_length`).
      machine: what runs it; times of different machines are not compared.
      rollouts: how often each question is answered.
    """

    benchmark: str
    grader: str
    methods: tuple[Method, ...]
    asked: Asked
    batch: int
    seed: int
    rollouts: int = 1
    machine: str = ""

    def batches(self) -> Iterator[Batch]:
        """Every batch of every method, in the order in which records are written."""
        for method in self.methods:
            for rollout in range(self.rollouts):
                for start in range(0, len(self.asked), self.batch):
                    end = start + self.batch
                    longest = bucket(max(self.asked.lengths[start:end]))
                    yield Batch(method, rollout, start, self.asked.ids[start:end], longest)

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


def by_length(rows: Sequence[Row], length: Callable[[Row], int]) -> Asked:
    """Rows by the bucket of their length; those of one bucket keep their order."""
    ids, lengths = zip(*((row.id, length(row)) for row in rows), strict=True)
    order = sorted(range(len(ids)), key=lambda i: (bucket(lengths[i]), i))
    return Asked(rows, order, [ids[i] for i in order], [lengths[i] for i in order])


def run(plan: Plan, graders: GraderPool, folder: Path) -> list[dict]:
    """Runs what is missing; returns all records, in the order of the plan.

    Of a run of many processes, each answers its share of the missing batches and writes files of
    its own, which the first one puts together before and behind. So a run may be resumed by
    another number of processes.
    """
    batches = list(plan.batches())
    if is_first():
        merge(folder, batches)
    barrier("records are put together")
    done = whole_batches(_lines(folder / RECORDS), batches)
    index, count = jax.process_index(), jax.process_count()
    mine = [batch for n, batch in enumerate(batches) if n not in done][index::count]
    seen = sum(map(len, done.values())) if count == 1 else 0
    total = seen + sum(len(batch.ids) for batch in mine)
    label = "evaluate" if count == 1 else f"evaluate (process 1 of {count})"
    warm: set[tuple[Method, int]] = set()
    right: dict[Method, list[float]] = {}  # this process's, and of those before it
    for n, lines in done.items() if count == 1 else ():
        scores = right.setdefault(batches[n].method, [])
        scores += [json.loads(line)["scores"]["exact"] for line in lines]
    with (
        own_file(folder / RECORDS).open("a") as record_file,
        own_file(folder / TIMINGS).open("a") as timing_file,
        Progress(total, start=seen, label=label, unit="answer") as progress,
    ):
        for batch in mine:
            seen += len(batch.ids)
            rows = plan.asked.rows(batch.start, batch.end)
            answers, timing = _answer(plan, batch, [question_of(row) for row in rows], warm)
            grades = graders.grade(plan.grader, [a.text for a in answers], rows)
            new = [plan.record(batch, *three) for three in zip(rows, answers, grades, strict=True)]
            with report_full_disk(f"{folder / RECORDS}"):
                append_lines(record_file, [json.dumps(record) for record in new])
                append_lines(timing_file, [json.dumps(timing)])
                if is_first():
                    _leave_questions(plan.asked, folder / QUESTIONS)
            scores = right.setdefault(batch.method, [])
            scores += [record["scores"]["exact"] for record in new]
            name = f"{batch.method.name} r={batch.method.rounds} accuracy"
            progress.update(seen, **{name: sum(scores) / len(scores)})
    barrier("all questions are answered", _LONG)
    if is_first():
        merge(folder, batches)
    barrier("all records are put together")
    found = whole_batches(_lines(folder / RECORDS), batches)
    return [json.loads(line) for n in range(len(batches)) for line in found[n]]


def _answer(
    plan: Plan, batch: Batch, questions: Sequence[Question], warm: set[tuple[Method, int]]
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of a batch, and what they took."""
    method, compiled = batch.method, seconds_compiling()
    if method.warm and (method, batch.bucket) not in warm:
        method.answer(questions, plan.batch, batch.rollout)
        warm.add((method, batch.bucket))
    # A batch that meets a shape for the first time, as of a longer message, is timed again.
    for _ in range(2 if method.warm else 1):
        method.phases()  # of what ran before: forgotten
        before, began = seconds_compiling(), time.perf_counter()
        answers = method.answer(questions, plan.batch, batch.rollout)
        seconds, after = time.perf_counter() - began, seconds_compiling()
        if after == before:
            break
    return answers, {
        "method": method.name,
        "rounds": method.rounds,
        "latent_length": method.latent_length,
        "rollout": batch.rollout,
        "start": batch.start,
        "n": len(batch.ids),
        "ids": list(batch.ids),
        "seconds": seconds - (after - before),
        "compile": after - compiled,
        "phases": method.phases(),
        "peak_bytes": peak_bytes(),
        "machine": plan.machine,
    }


def _leave_questions(asked: Asked, path: Path) -> None:
    """The text of every question, once, beside the records that tell their ids."""
    if not path.is_file():
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in asked.source:
                file.write(json.dumps({"id": row.id, "question": row.question}) + "\n")


def own_file(path: Path) -> Path:
    """Where this process appends: the file itself, or `records.3.jsonl` of process 3 of many."""
    if jax.process_count() == 1:
        return path
    return path.with_name(f"{path.stem}.{jax.process_index()}{path.suffix}")


def merge(folder: Path, batches: Sequence[Batch]) -> None:
    """Puts the files of all processes together: whole batches once, in the order of the plan."""
    for name, whole in ((RECORDS, True), (TIMINGS, False)):
        path = folder / name
        parts = sorted(folder.glob(f"{path.stem}.*{path.suffix}"))
        parts = [part for part in parts if part.suffixes[0][1:].isdecimal()]
        lines = [line for file in (path, *parts) for line in _lines(file)]
        if whole:
            found = whole_batches(lines, batches)
            lines = [line for n in sorted(found) for line in found[n]]
        if lines or path.is_file():
            atomic_write_text(path, "".join(f"{line}\n" for line in lines))
        for part in parts:
            part.unlink()


def whole_batches(lines: Sequence[str], batches: Sequence[Batch]) -> dict[int, list[str]]:
    """The records of each batch, by its place in the plan, that were written in one go."""
    place = {}
    for n, batch in enumerate(batches):
        place[batch.key(batch.ids[0])] = n
    found: dict[int, list[str]] = {}
    at = 0
    while at < len(lines):
        n = place.get(_key(lines[at]))
        ids = batches[n].ids if n is not None else ()
        group = lines[at : at + len(ids)]
        if ids and [_key(line) for line in group] == [batches[n].key(own) for own in ids]:
            found.setdefault(n, list(group))
            at += len(ids)
        else:
            at += 1
    return found


def _key(line: str) -> tuple[str, int, int | None, int, str] | None:
    names = ("method", "rounds", "latent_length", "rollout", "id")
    try:
        record = json.loads(line)
        return tuple(record[name] for name in names)
    except (ValueError, KeyError, TypeError):
        return None


def _lines(path: Path) -> list[str]:
    """Whole lines of a file; what a kill left at its end is no line."""
    return path.read_text().split("\n")[:-1] if path.is_file() else []


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
