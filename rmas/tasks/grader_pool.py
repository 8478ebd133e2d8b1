"""Grading in isolated processes or in the sandbox, in limited time: no answer can stop a run.

    with GraderPool() as graders:
        grades = graders.grade("math", texts, rows)

A process that hangs is killed and replaced, and its answer is wrong with the note `timeout`; the
answer of a process that dies is wrong with the note `crashed`.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rmas.errors import InputError
from rmas.tasks.grader import Grade, Grader
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row
from rmas.tools.sandbox import Sandbox
from rmas.workers import NoReplyError, Worker
from rmas.workers import serve as serve_jobs

MEMORY = 2 << 30
"""Bytes of address space of a process that grades."""


class GraderPool:
    """Processes that grade; they start when they are first needed.

    Args:
      processes: how many answers are graded at a time.
      seconds: the time limit of one answer (of code: of one test).
      unsafe: run code also where no sandbox works (`Sandbox.detect`).
    """

    def __init__(self, processes: int = 2, seconds: float = 10.0, unsafe: bool = False):
        self._processes, self._seconds, self._unsafe = processes, seconds, unsafe
        self._local = threading.local()
        self._workers: list[Worker] = []
        self._threads: ThreadPoolExecutor | None = None
        self._sandbox: Sandbox | None = None

    def __enter__(self) -> "GraderPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops all processes; a later `grade` starts new ones."""
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        self._threads, self._workers, self._local = None, [], threading.local()

    def check(self, grader: str) -> None:
        """Raises InputError if this machine cannot run a grader; call it before a long run."""
        if GRADERS[grader].isolation == "sandbox" and self._sandbox is None:
            self._sandbox = Sandbox.detect(unsafe=self._unsafe)

    def grade(self, grader: str, texts: Sequence[str], rows: Sequence[Row]) -> list[Grade]:
        """The grade of each text for its row, in order.

        Raises InputError for a row that cannot be graded with any answer, and where the sandbox
        fails.
        """
        found, pairs = GRADERS[grader], list(zip(texts, rows, strict=True))
        if found.isolation == "none":
            return [found.grade(text, row) for text, row in pairs]
        self.check(grader)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._processes, thread_name_prefix="graders")
        one = self._in_sandbox if found.isolation == "sandbox" else self._in_process
        return list(self._threads.map(lambda pair: one(found, *pair), pairs))

    def _in_sandbox(self, grader: Grader, text: str, row: Row) -> Grade:
        try:
            return grader.grade(text, row, self._sandbox, self._seconds)
        except InputError:
            raise  # the fault of the row or the sandbox, not of the answer
        except Exception as error:
            note = f"{type(error).__name__}: {str(error)[:100]}"
            return grader.ungraded(text, row, note)

    def _in_process(self, grader: Grader, text: str, row: Row) -> Grade:
        """Each thread has a process, and starts another one where that fails."""
        worker = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = _start()
            self._workers.append(worker)
        job = {"grader": grader.name, "text": text, "gold": row.answer, "meta": dict(row.meta)}
        try:
            grade = Grade(*worker.ask(job, self._seconds))
        except NoReplyError as error:
            self._workers.remove(worker)
            self._local.worker = None
            grade = Grade(None, note=str(error))
        return grader.ungraded(text, row, grade.note) if grade.note else grade


def _start() -> Worker:
    try:
        return Worker("from rmas.tasks.grader_pool import serve; serve()")
    except NoReplyError as error:
        raise InputError(
            "a process that grades does not start; is math-verify installed?"
        ) from error


def serve() -> None:
    """The main function of a process that grades: it reads jobs until its input ends."""
    import math_verify  # noqa: F401 - slow to import, so not within an answer's time limit

    serve_jobs(_graded, MEMORY)


def _graded(job: dict[str, Any]) -> list[Any]:
    try:
        row = Row("", "", job["gold"], meta=job["meta"])
        grade = GRADERS[job["grader"]].grade(job["text"], row)
    except Exception as error:  # parsers raise many kinds; the answer is wrong
        grade = Grade(None, note=f"{type(error).__name__}: {str(error)[:100]}")
    return [grade.answer, dict(grade.scores), grade.note]
