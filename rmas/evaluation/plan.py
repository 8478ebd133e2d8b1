"""What an evaluation runs: methods, questions in groups, and the order of everything.

Methods take turns: every method answers a group of questions before the next group begins. So a
change of the machine's load falls on all of them, and times are compared within a group.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rmas.system.answers import Answer, Question
from rmas.system.batch import bucket
from rmas.system.clock import Clock
from rmas.tasks.grader import RELEASE, Grade
from rmas.tasks.rows import Row

SCHEMA = 4
"""Version of the format of records."""

RecordKey = tuple[str, int, int | None, int, str]
"""Method, rounds, latent length, rollout and question id."""

_GROUPS, MOST_BATCHES = 8, 8  # a group is one of so many, of at most so many batches


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to answer questions, at a number of rounds.

    Attributes:
      name: `latent`, `text`, `single:<agent>`, ...
      rounds: number of rounds.
      answer: `answer(questions, batch, rollout)` returns the answers to a group's questions, in
        their order, with programs of `batch` rows.
      warm: whether questions may be answered more than once, so that times have no compilation:
        some of the first group of each length beforehand, and a group during which something was
        compiled.
      latent_length: states of a latent turn; None for methods without latents.
      clock: adds up the seconds of the phases in which it answers.
    """

    name: str
    rounds: int
    answer: Callable[[Sequence[Question], int, int], list[Answer]]
    warm: bool = True
    latent_length: int | None = None
    clock: Clock = dataclasses.field(default_factory=Clock)


@dataclasses.dataclass(frozen=True)
class Asked:
    """The questions of a run: rows in the order in which they are asked.

    A row is read only when its group is run: one of LiveCodeBench has megabytes of tests.

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
class Group:
    """Questions that one method answers together, in one or more batches: what is timed.

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
    """What is run: for each group of questions and each rollout, every method.

    Attributes:
      benchmark: name of the benchmark or generated task, for records.
      grader: name of the grader (`grading.GRADERS`).
      methods: in the order in which they take turns.
      asked: the questions (`by_length`).
      batch: questions of a batch.
      seed: for records.
      rollouts: how often each question is answered.
      group_batches: batches of a group at most; 0: as `questions_of_group` says.
      machine: what runs it, for timings; times of different machines are not compared.
      accelerator: whether devices other than CPUs compute; then grading overlaps with answering.
      profile_groups: the first group that is traced and the first that is not, counted from 0
        among those that this session answers; empty: none.
      by_release: whether the public release has its own score for these questions.
    """

    benchmark: str
    grader: str
    methods: tuple[Method, ...]
    asked: Asked
    batch: int
    seed: int
    rollouts: int = 1
    group_batches: int = 0
    profile_groups: tuple[int, ...] = ()
    machine: str = ""
    accelerator: bool = False
    by_release: bool = False

    def groups(self) -> Iterator[Group]:
        """Every group of every method, in the order in which records are written."""
        bounds = group_bounds(self.asked.lengths, self.batch, self.group_batches)
        for start, end, longest in bounds:
            for rollout in range(self.rollouts):
                for method in self.methods:
                    yield Group(method, rollout, start, self.asked.ids[start:end], longest)

    def record(self, group: Group, row: Row, answer: Answer, grade: Grade) -> dict[str, Any]:
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
            "method": group.method.name,
            "rounds": group.method.rounds,
            "latent_length": group.method.latent_length,
            "rollout": group.rollout,
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


def questions_of_group(questions: int, batch: int, batches: int = 0) -> int:
    """How many questions a group has at most: those of `batches` batches.

    0 stands for an eighth of all batches, but from 1 to 8: some groups are needed to see how times
    vary, and long ones keep a batch full.
    """
    return batch * (batches or min(max(-(-questions // batch) // _GROUPS, 1), MOST_BATCHES))


def group_bounds(
    lengths: Sequence[int], batch: int, batches: int = 0
) -> list[tuple[int, int, int]]:
    """The questions of each group, as (start, end, bucket of the longest).

    A group has up to `questions_of_group` consecutive questions. It ends early where the bucket of
    the next batch is another, so that its batches are of one shape.

    Args:
      lengths: of all questions in tokens, in the order in which they are asked.
      batch: questions of a batch.
      batches: of a group at most; 0: as `questions_of_group` says.
    """
    most = questions_of_group(len(lengths), batch, batches)
    found: list[tuple[int, int, int]] = []
    for at in range(0, len(lengths), batch):
        end = min(at + batch, len(lengths))
        longest = bucket(max(lengths[at:end]))
        if found and found[-1][2] == longest and at - found[-1][0] < most:
            found[-1] = (found[-1][0], end, longest)
        else:
            found.append((at, end, longest))
    return found
