"""Grading in isolated processes or in the sandbox, in limited time: no answer can stop a run.

    with GraderPool() as graders:
        grades = graders.grade("math", texts, rows)

A process that hangs is killed and replaced, and its answer is wrong with the note `timeout`; the
answer of a process that dies is wrong with the note `crashed`.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rmas.errors import InputError
from rmas.tasks.grader import Grade, Grader
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row
from rmas.tools.sandbox import Sandbox

MEMORY = 2 << 30
"""Bytes of address space of a process that grades."""
_START = 120.0  # seconds that a process may need to start
_PR_SET_PDEATHSIG = 1


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
        self._workers: list[_Worker] = []
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
            worker = self._local.worker = _Worker()
            self._workers.append(worker)
        job = {"grader": grader.name, "text": text, "gold": row.answer, "meta": dict(row.meta)}
        grade = worker.ask(job, self._seconds)
        if grade.note in ("timeout", "crashed"):
            worker.stop()
            self._workers.remove(worker)
            self._local.worker = None
        return grader.ungraded(text, row, grade.note) if grade.note else grade


class _Worker:
    """A process that grades one answer after another; jobs and grades are lines of JSON."""

    def __init__(self) -> None:
        # Not forked, since this process runs JAX's threads, and not a child of multiprocessing,
        # which would import this process's main module again.
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from rmas.tasks.grader_pool import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self._process.stdin and self._process.stdout
        self._jobs, self._grades = self._process.stdin, self._process.stdout
        if self._line(_START) != b'"ready"\n':
            self.stop()
            raise InputError("a process that grades does not start; is math-verify installed?")

    def ask(self, job: dict[str, Any], seconds: float) -> Grade:
        """The grade; one with a note where the process needs too long, or dies."""
        line: bytes | None = b""
        with contextlib.suppress(OSError):
            self._jobs.write(json.dumps(job).encode() + b"\n")
            self._jobs.flush()
            line = self._line(seconds)
        if line is None:
            return Grade(None, note="timeout")
        return Grade(*json.loads(line)) if line else Grade(None, note="crashed")

    def stop(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._jobs.close()
        self._grades.close()

    def _line(self, seconds: float) -> bytes | None:
        """Its next line; None where that needs longer than `seconds`, empty where it has ended."""
        pipe, found, until = self._grades.fileno(), b"", time.monotonic() + seconds
        while not found.endswith(b"\n"):
            if not select.select([pipe], [], [], max(until - time.monotonic(), 0))[0]:
                return None
            new = os.read(pipe, 1 << 16)
            if not new:
                return b""
            found += new
        return found


def serve() -> None:
    """The main function of a process that grades: it reads jobs until its input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _die_with_parent()
    lines, out = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    import math_verify  # noqa: F401 - slow to import, so not within an answer's time limit

    print('"ready"', file=out, flush=True)
    for line in lines:
        job = json.loads(line)
        try:
            row = Row("", "", job["gold"], meta=job["meta"])
            grade = GRADERS[job["grader"]].grade(job["text"], row)
        except Exception as error:  # parsers raise many kinds; the answer is wrong
            grade = Grade(None, note=f"{type(error).__name__}: {str(error)[:100]}")
        print(json.dumps([grade.answer, dict(grade.scores), grade.note]), file=out, flush=True)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies, also during an answer."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
