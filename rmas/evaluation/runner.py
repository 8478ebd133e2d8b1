"""Runs methods over questions and writes one record per question; a killed run resumes exactly.

The plan fixes the order of everything. Records are appended a batch at a time and fsynced. A batch
whose records are incomplete is run again as a whole, so that the file of a resumed run equals that
of an uninterrupted one. Timings, which differ from run to run, are in a separate file.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from rmas.checksums import CHECKSUM
from rmas.console import Progress
from rmas.errors import InputError
from rmas.evaluation.ceilings import write_ceilings
from rmas.evaluation.json_lines import keep_damaged, line_of, parse_line, scan, whole_lines
from rmas.evaluation.layout import CEILINGS, QUESTIONS, RECORDS, TIMINGS
from rmas.evaluation.records import check_record, check_timing
from rmas.files import append_lines, atomic_write_text, replacing, report_full_disk
from rmas.parallel import barrier, is_first
from rmas.parallel.meters import peak_bytes, seconds_compiling
from rmas.places import has_file
from rmas.system.answers import Answer, Question
from rmas.system.batch import bucket
from rmas.tasks.grader import RELEASE, Grade
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row

SCHEMA = 3
"""Version of the format of records and timings."""
_log = logging.getLogger(__name__)
_MAX_WAIT = 7 * 24 * 3600  # seconds that processes wait for the slowest one's answers

RecordKey = tuple[str, int, int | None, int, str]
"""Method, rounds, latent length, rollout and question id."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to answer questions, at a number of rounds.

    Attributes:
      name: `latent`, `text`, `single:<agent>`, ...
      rounds: number of rounds.
      answer: `answer(questions, batch, rollout)` returns answers to at most `batch` questions.
      warm: whether a batch may be run more than once, so that its time has no compilation: the
        first batch of each length beforehand, and others during which something was compiled.
      latent_length: states of a latent turn; None for methods without latents.
      phases: returns phase -> seconds since its last call.
    """

    name: str
    rounds: int
    answer: Callable[[Sequence[Question], int, int], list[Answer]]
    warm: bool = True
    latent_length: int | None = None
    phases: Callable[[], dict[str, float]] = dict


@dataclasses.dataclass(frozen=True)
class Asked:
    """The questions of a run: rows in the order in which they are asked.

    A row is read only when its batch is run: one of LiveCodeBench has megabytes of tests.

    Attributes:
      source: all rows.
      places: their indices in `source`, in the order in which they are asked.
      ids: their ids, in this order.
      lengths: their lengths in tokens, in this order.
    """

    source: Sequence[Row]
    places: Sequence[int]
    ids: Sequence[str]
    lengths: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, start: int, end: int) -> list[Row]:
        """The rows `start` to `end` (exclusive) of the order."""
        return [self.source[place] for place in self.places[start:end]]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Questions that one method answers together.

    Attributes:
      method: how they are answered.
      rollout: from 0.
      start: index of the first one in `Plan.asked`.
      ids: their ids.
      bucket: the bucket of the longest question's length in tokens.
    """

    method: Method
    rollout: int
    start: int
    ids: Sequence[str]
    bucket: int

    @property
    def end(self) -> int:
        """The index after the last question."""
        return self.start + len(self.ids)

    def key(self, question: str) -> RecordKey:
        """What identifies the record of one of its questions."""
        method = self.method
        return method.name, method.rounds, method.latent_length, self.rollout, question


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: methods in order, each over all questions in batches of fixed size.

    Attributes:
      benchmark: name of the benchmark or generated task, for records.
      grader: name of the grader (`grading.GRADERS`).
      methods: in the order in which they are run.
      asked: the questions (`by_length`).
      batch: questions of a batch.
      seed: for records.
      rollouts: how often each question is answered.
      machine: what runs it, for timings; times of different machines are not compared.
      by_release: whether the public release has its own score for these questions.
    """

    benchmark: str
    grader: str
    methods: tuple[Method, ...]
    asked: Asked
    batch: int
    seed: int
    rollouts: int = 1
    machine: str = ""
    by_release: bool = False

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
        scores = {
            name: value
            for name, value in grade.scores.items()
            if self.by_release or name != RELEASE
        }
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
            "scores": scores,
            "retried": answer.retried,
            "note": grade.note,
        }


def by_length(rows: Sequence[Row], length: Callable[[Row], int]) -> Asked:
    """Rows ordered by the bucket of their length in tokens; ties keep the order of `rows`."""
    ids, lengths = zip(*((row.id, length(row)) for row in rows), strict=True)
    order = sorted(range(len(ids)), key=lambda i: (bucket(lengths[i]), i))
    return Asked(rows, order, [ids[i] for i in order], [lengths[i] for i in order])


def run(plan: Plan, graders: GraderPool, folder: Path) -> list[dict]:
    """Runs the batches that are missing in `folder`; returns all records, in the order of the plan.

    With several processes each one answers its share of these batches and writes its own files;
    the first process merges them, before and after. So a run may be resumed with another number of
    processes. Damaged lines count as missing, with a warning.

    Raises InputError where a row cannot be graded, the disk is full, or a file cannot be read.
    """
    batches = list(plan.batches())
    if is_first():
        merge(folder, batches)
    barrier("earlier records are merged")
    if is_first():
        rounds = {method.rounds for method in plan.methods}
        with report_full_disk(f"{folder / CEILINGS}"):
            write_ceilings(folder / CEILINGS, plan.grader, plan.asked.source, rounds)
    done = whole_batches(whole_lines(folder / RECORDS), batches)
    if is_first():
        _warn_of_lost_times(folder / TIMINGS, [batches[n] for n in done])
    index, count = jax.process_index(), jax.process_count()
    mine = [batch for n, batch in enumerate(batches) if n not in done][index::count]
    seen = sum(map(len, done.values())) if count == 1 else 0
    total = seen + sum(len(batch.ids) for batch in mine)
    label = "evaluate" if count == 1 else f"evaluate (process 1 of {count})"
    begun: set[tuple[Method, int]] = set()
    scored: dict[Method, list[float]] = {}
    for n, lines in done.items() if count == 1 else ():
        scores = scored.setdefault(batches[n].method, [])
        scores += [parse_line(line)["scores"]["exact"] for line in lines]
    own_files = _own_file(folder / RECORDS), _own_file(folder / TIMINGS)
    for path in own_files:
        has_file(path)  # what is there instead of a file is told, and not waited for
    with (
        own_files[0].open("a") as record_file,
        own_files[1].open("a") as timing_file,
        Progress(total, start=seen, label=label, unit="answer") as progress,
    ):
        for batch in mine:
            seen += len(batch.ids)
            rows = plan.asked.rows(batch.start, batch.end)
            method = batch.method
            first = (method, batch.bucket) not in begun
            if first:
                begun.add((method, batch.bucket))
                what = f"{method.name} r={method.rounds}, questions of up to {batch.bucket} tokens"
                progress.compiling(what)
            answers, timing = _answer(plan, batch, [question_of(row) for row in rows], first)
            grades = graders.grade(plan.grader, [a.text for a in answers], rows)
            new = [plan.record(batch, *three) for three in zip(rows, answers, grades, strict=True)]
            with report_full_disk(f"{folder / RECORDS}"):
                append_lines(record_file, map(line_of, new))
                append_lines(timing_file, [line_of(timing)])
                if is_first() and not has_file(folder / QUESTIONS):
                    _write_questions(plan.asked, folder / QUESTIONS)
            scores = scored.setdefault(method, [])
            scores += [record["scores"]["exact"] for record in new]
            name = f"{method.name} r={method.rounds} accuracy"
            progress.update(seen, **{name: sum(scores) / len(scores)})
    barrier("all questions are answered", _MAX_WAIT)
    if is_first():
        merge(folder, batches)
        with report_full_disk(f"{folder / QUESTIONS}"):
            _repair_questions(plan.asked, folder / QUESTIONS)
    barrier("all records are merged")
    found = whole_batches(whole_lines(folder / RECORDS), batches)
    return [parse_line(line) for n in range(len(batches)) for line in found[n]]


def _answer(
    plan: Plan, batch: Batch, questions: Sequence[Question], first: bool
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of a batch, the `first` one of its length or not, and its timing."""
    method, compiled = batch.method, seconds_compiling()
    if method.warm and first:
        method.answer(questions, plan.batch, batch.rollout)
    # Run and timed again if something was compiled, as for the shape of a longer message.
    for _ in range(2 if method.warm else 1):
        method.phases()  # drops what ran before
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


def _write_questions(asked: Asked, path: Path) -> None:
    """Writes the texts of all questions; records have only ids."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in asked.source:
            file.write(line_of({"id": row.id, "question": row.question}) + "\n")


def _repair_questions(asked: Asked, path: Path) -> None:
    """Writes the texts of all questions again where their file is gone or damaged."""
    there = has_file(path)
    try:
        if there and scan(path, lambda *_: None).lines == len(asked.source):
            return
    except InputError as error:
        _log.warning("%s: it is written anew", error)
    _write_questions(asked, path)


def _own_file(path: Path) -> Path:
    """The file that this process appends to: `path`, or `records.3.jsonl` in process 3 of many."""
    if jax.process_count() == 1:
        return path
    return path.with_name(f"{path.stem}.{jax.process_index()}{path.suffix}")


def merge(folder: Path, batches: Sequence[Batch]) -> None:
    """Merges the files of all processes: complete batches once, in the order of the plan."""
    for name, whole in ((RECORDS, True), (TIMINGS, False)):
        path = folder / name
        parts = sorted(folder.glob(f"{path.stem}.*{path.suffix}"))
        parts = [part for part in parts if part.suffixes[0][1:].isdecimal()]
        check = check_record if whole else check_timing
        lines = [line for file in (path, *parts) for line in _sound_lines(file, check)]
        if whole:
            found = whole_batches(lines, batches)
            lines = [line for n in sorted(found) for line in found[n]]
        if lines or has_file(path):
            atomic_write_text(path, "".join(f"{line}\n" for line in lines))
        for part in parts:
            part.unlink()


def _warn_of_lost_times(path: Path, answered: Sequence[Batch]) -> None:
    names = ("method", "rounds", "latent_length", "start")
    timings = [parse_line(line) for line in whole_lines(path)]
    timed = {(*map(own.get, names), own.get("rollout", 0)) for own in timings}
    keys = [(*batch.key("")[:3], batch.start, batch.rollout) for batch in answered]
    if lost := sum(key not in timed for key in keys):
        told = "%s: the times of %d of the %d batches that are answered already are lost"
        _log.warning(told, path, lost, len(keys))


def _sound_lines(path: Path, check: Callable[[dict[str, Any], str], None]) -> list[str]:
    """The lines of a file that are what was written; warns, and keeps a copy, if others are not."""
    lines = whole_lines(path)
    damaged = [n for n, line in enumerate(lines) if not _is_sound(line, check)]
    if damaged:
        kept = keep_damaged(path)
        _log.warning(
            "%s: line %d %s damaged: %s; the file as it was is now %s",
            path,
            damaged[0] + 1,
            "is" if len(damaged) == 1 else f"and {len(damaged) - 1} more are",
            "its batches are answered again" if check is check_record else "its times are lost",
            kept.name,
        )
    return [line for n, line in enumerate(lines) if n not in set(damaged)]


def _is_sound(line: str, check: Callable[[dict[str, Any], str], None]) -> bool:
    try:
        value = parse_line(line)
        if f'"{CHECKSUM}"' not in line:  # of an earlier version
            check(value, "")
    except ValueError:
        return False
    return True


def whole_batches(lines: Sequence[str], batches: Sequence[Batch]) -> dict[int, list[str]]:
    """Index of a batch in `batches` -> its records, of batches with all of them in a row."""
    starts: dict[RecordKey | None, int] = {}
    for n, batch in enumerate(batches):
        starts[batch.key(batch.ids[0])] = n
    found: dict[int, list[str]] = {}
    keys, at = [_key(line) for line in lines], 0
    while at < len(lines):
        n = starts.get(keys[at], -1)
        ids = batches[n].ids if n >= 0 else ()
        if ids and keys[at : at + len(ids)] == [batches[n].key(own) for own in ids]:
            found.setdefault(n, list(lines[at : at + len(ids)]))
            at += len(ids)
        else:
            at += 1
    return found


def _key(line: str) -> RecordKey | None:
    """What identifies the record in a line; None where there is no record."""
    names = ("method", "rounds", "latent_length", "rollout", "id")
    try:
        record = parse_line(line)
        key = tuple(record[name] for name in names)
        hash(key)
        return key
    except (ValueError, KeyError, TypeError):
        return None
