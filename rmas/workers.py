"""A process of its own that answers jobs, one after another, in limited time and memory.

The process runs a short Python program that ends in `serve(answer, memory)`; the other side is

    worker = Worker("from package.module import main; main()")
    reply = worker.ask(job, seconds=10)

Jobs and replies are JSON values. What hangs is killed, and nothing of it is left behind.
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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START = 120.0
"""Seconds that a process may need to start."""
_ROOT = str(Path(__file__).resolve().parents[1])  # if this package was found in a relative folder
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NoReplyError(Exception):
    """A process gave no reply, and has been stopped.

    Its text says why: `does not start`, `timeout`, `crashed` or `too long`.
    """


class Worker:
    """The caller's side of such a process.

    Args:
      program: Python source that calls `serve`.

    Raises `NoReplyError` if the process does not start.
    """

    def __init__(self, program: str):
        # Not forked, since the caller runs JAX's threads, and not a child of multiprocessing,
        # which would import the caller's main module again.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), _ROOT])},
        )
        assert self._process.stdin and self._process.stdout
        self._jobs, self._replies = self._process.stdin, self._process.stdout
        with self._stopped_on_error():
            if self._line(START) != b'"ready"\n':
                raise NoReplyError("does not start")

    def ask(self, job: Any, seconds: float, longest: int | None = None) -> Any:
        """The reply to a job.

        Raises `NoReplyError` where the process needs longer than `seconds`, dies, or replies with
        more than `longest` bytes; it is stopped then.
        """
        with self._stopped_on_error():
            try:
                self._jobs.write(json.dumps(job).encode() + b"\n")
                self._jobs.flush()
                return json.loads(self._line(seconds, longest))
            except (OSError, ValueError) as error:  # a broken pipe, or no line of JSON
                raise NoReplyError("crashed") from error

    @property
    def stopped(self) -> bool:
        """Whether the process was stopped, by `stop` or after an error."""
        return self._jobs.closed

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        """Also on Ctrl-C: a reply that nobody waited for would be taken for the next one."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._jobs.close()
        self._replies.close()

    def _line(self, seconds: float, longest: int | None = None) -> bytes:
        """Its next line; empty where the process has ended."""
        pipe, found, until = self._replies.fileno(), bytearray(), time.monotonic() + seconds
        while not found.endswith(b"\n"):
            if not select.select([pipe], [], [], max(until - time.monotonic(), 0))[0]:
                raise NoReplyError("timeout")
            new = os.read(pipe, 1 << 16)
            if not new:
                return b""
            found += new
            if longest is not None and len(found) > longest:
                raise NoReplyError("too long")
        return bytes(found)


def serve(answer: Callable[[Any], Any], memory: int) -> None:
    """The process's side: answers jobs until there are no more of them.

    Args:
      answer: gives the reply to a job; it should catch what may go wrong.
      memory: bytes of address space that this process may use.
    """
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _die_with_parent()
    for number in _STOPS:  # sent to the whole group by a terminal or a scheduler
        signal.signal(number, signal.SIG_IGN)
    lines, out = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    print('"ready"', file=out, flush=True)
    for line in lines:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies, also during an answer."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
