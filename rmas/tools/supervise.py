"""Watches a started program: gathers its output, and stops it at the limits that kernels lack."""

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Stopped = Literal["", "time", "output", "memory", "files"]
"""The limit at which a program was stopped; empty where it ended itself."""

START = 30.0
"""Seconds that a sandbox may take to be built, on a busy machine too."""

_TICK = 0.05
_GRACE = 2.0
_TMPFS = ("tmp", "dev/shm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Bounds:
    """Seconds, bytes of output, bytes of memory of all processes, files in each tmpfs."""

    wall: float
    output: int
    memory: int
    files: int


@dataclass
class Outcome:
    """What was seen of a process. `started` is False where the sandbox did not get built."""

    stdout: bytes = b""
    stderr: bytes = b""
    stopped: Stopped = ""
    started: bool = False
    seconds: float = 0.0


def watch(
    process: subprocess.Popen, started: int, bounds: Bounds, kill: Callable[[], None]
) -> Outcome:
    """Returns when the process has ended and its pipes are closed.

    Args:
      process: just started, with pipes for its outputs.
      started: the read end of the pipe in which a byte says that the program begins.
      bounds: the limits; time counts from that byte on.
      kill: ends the process with all its children; also called where an ended process has left
        children that hold the pipes.
    """
    outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    outcome = Outcome()
    room, killed = bounds.output, False
    begin = time.monotonic()
    end, due = begin + START, begin
    with selectors.DefaultSelector() as selector:
        for pipe in (started, *outputs):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() or process.poll() is None:
            if not selector.get_map():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK)
            for key, _ in selector.select(_TICK) if selector.get_map() else ():
                chunk = os.read(key.fd, 1 << 16)
                if key.fd == started:
                    outcome.started = bool(chunk)
                    begin = time.monotonic()
                    end = begin + bounds.wall
                    selector.unregister(started)
                elif not chunk:
                    selector.unregister(key.fd)
                else:
                    outputs[key.fd] += chunk[: max(room, 0)]
                    room -= len(chunk)
            now = time.monotonic()
            if killed:
                if now > end:
                    break
                continue
            ended = process.poll() is not None
            if room < 0:
                outcome.stopped = "output"
            elif not ended and now > end:
                outcome.stopped = "time"
            elif not ended and outcome.started and now >= due:
                outcome.stopped = _overused(process.pid, bounds)
                due = now + _TICK
            if outcome.stopped or (ended and selector.get_map()):
                kill()
                killed, end = True, now + _GRACE
    outcome.seconds = time.monotonic() - begin
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    outcome.stdout, outcome.stderr = map(bytes, outputs.values())
    return outcome


def _overused(pid: int, bounds: Bounds) -> Stopped:
    """Looks at the processes of a sandbox together, which limits of single ones do not see."""
    pids = list(tree(pid))
    if sum(map(_resident, pids)) > bounds.memory and sum(map(_share, pids)) > bounds.memory:
        return "memory"
    if len(pids) > 1 and any(_files(pids[-1], place) > bounds.files for place in _TMPFS):
        return "files"
    return ""


def tree(pid: int) -> Iterator[int]:
    """A process and all below it; where it has a namespace of processes, orphans stay below."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                children = file.read().split()
            for child in children:
                yield from tree(int(child))


def _resident(pid: int) -> int:
    """Bytes in memory, those shared with other processes included."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _share(pid: int) -> int:
    """The same with what is shared divided among those that share it; slow."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    except OSError:
        return _resident(pid)


def _files(pid: int, place: str) -> int:
    """Files on a tmpfs that a process sees; no size limits their number."""
    try:
        facts = os.statvfs(f"/proc/{pid}/root/{place}")
    except OSError:
        return 0
    return facts.f_files - facts.f_ffree - 1  # the folder itself
