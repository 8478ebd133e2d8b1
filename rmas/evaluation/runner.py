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

from rmas.files import append_lines, atomic_write_text
from rmas.system.answers import Answer, Question
from rmas.tasks.grading import Task
from rmas.tasks.rows import Row
from rmas.training.metrics import Progress

SCHEMA = 1
RECORDS, TIMINGS = "records.jsonl", "timings.jsonl"


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to answer: `answer(questions, batch)` gives answers for at most `batch` questions.

    With `warm` its first batch is run once more beforehand, so that its time holds no compilation.
    """

    name: str
    rounds: int
    answer: Callable[[Sequence[Question], int], list[Answer]]
    warm: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: methods in order, each over all rows in batches of fixed size."""

    benchmark: str
    methods: tuple[Method, ...]
    rows: Sequence[Row]
    batch: int
    seed: int

    def batches(self) -> Iterator[tuple[Method, int, list[Row]]]:
        """Every batch of every method, in the order in which records are written."""
        for method in self.methods:
            for start in range(0, len(self.rows), self.batch):
                yield method, start, list(self.rows[start : start + self.batch])

    def record(self, method: Method, row: Row, answer: Answer, task: Task) -> dict[str, Any]:
        """The record of one question."""
        found, scores = task.grade(answer.text, row.answer)
        return {
            "schema": SCHEMA,
            "id": row.id,
            "benchmark": self.benchmark,
            "method": method.name,
            "rounds": method.rounds,
            "rollout": 0,
            "seed": self.seed,
            "agents": answer.counts,
            "texts": answer.texts,
            "tools": answer.tools,
            "answer": found,
            "gold": row.answer,
            "scores": scores,
        }


def run(plan: Plan, task: Task, folder: Path) -> tuple[list[dict], dict[tuple[str, int], float]]:
    """Runs what is missing; returns all records, and seconds by (method, rounds)."""
    batches = list(plan.batches())
    records = _complete(folder / RECORDS, batches)
    _drop_half_line(folder / TIMINGS)
    done, total = len(records), sum(len(rows) for *_, rows in batches)
    warm: Method | None = None
    right: dict[Method, list[float]] = {}
    with (
        (folder / RECORDS).open("a") as record_file,
        (folder / TIMINGS).open("a") as timing_file,
        Progress(total, start=done, label="evaluate") as progress,
    ):
        seen = 0
        for method, start, rows in batches:
            seen += len(rows)
            if seen <= done:
                continue
            questions = [Question(row.id, row.question) for row in rows]
            if method.warm and warm is not method:
                method.answer(questions, plan.batch)
                warm = method
            began = time.perf_counter()
            answers = method.answer(questions, plan.batch)
            seconds = time.perf_counter() - began
            new = [plan.record(method, r, a, task) for r, a in zip(rows, answers, strict=True)]
            append_lines(record_file, [json.dumps(record) for record in new])
            timing = {
                "method": method.name,
                "rounds": method.rounds,
                "start": start,
                "n": len(rows),
                "seconds": seconds,
            }
            append_lines(timing_file, [json.dumps(timing)])
            records += new
            scores = right.setdefault(method, [])
            scores += [record["scores"]["exact"] for record in new]
            progress.update(seen, **{f"{method.name} r={method.rounds}": sum(scores) / len(scores)})
    return records, _seconds(folder / TIMINGS, plan)


def _complete(path: Path, batches) -> list[dict]:
    """Records of whole batches, from the start of the plan; the file is cut to just these."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    kept: list[dict] = []
    at = 0
    for method, _, rows in batches:
        wanted = [(method.name, method.rounds, row.id) for row in rows]
        try:
            found = [json.loads(line) for line in lines[at : at + len(rows)]]
            same = [(r["method"], r["rounds"], r["id"]) for r in found] == wanted
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            break
        kept += found
        at += len(rows)
    if path.is_file():
        atomic_write_text(path, "".join(line + "\n" for line in lines[:at]))
    return kept


def _drop_half_line(path: Path) -> None:
    """What a kill left at the end would swallow the line that is appended to it."""
    text = path.read_text() if path.is_file() else "\n"
    if not text.endswith("\n"):
        atomic_write_text(path, text[: text.rfind("\n") + 1])


def _seconds(path: Path, plan: Plan) -> dict[tuple[str, int], float]:
    """Seconds by (method, rounds): the newest timing of each batch, scaled to all rows."""
    found: dict[tuple[str, int], dict[int, tuple[int, float]]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        batch = found.setdefault((line["method"], line["rounds"]), {})
        batch[line["start"]] = (line["n"], line["seconds"])
    totals = {}
    for key, batch in found.items():
        timed = sum(n for n, _ in batch.values())
        totals[key] = sum(s for _, s in batch.values()) * len(plan.rows) / timed
    return totals
