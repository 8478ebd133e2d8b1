"""Reads the output of a running program and stops it at limits that the kernel does not enforce."""

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Literal

Stopped = Literal["", "time", "output", "memory", "files"]
"""The limit at which a program was stopped; empty if it was not."""

START = 30.0
"""The time limit for starting a sandbox in seconds; long enough for a busy machine."""

_TICK = 0.05
_GRACE = 2.0
_TMPFS = ("tmp", "dev/shm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Bounds:
    """The limits of a sandbox as a whole.

    Attributes:
      wall: seconds.
      output: bytes of stdout and stderr together.
      memory: bytes of all processes together.
      files: number of files in each tmpfs.
    """

    wall: float
    output: int
    memory: int
    files: int


@dataclass
class Outcome:
    """The result of `watch`.

    Attributes:
      stdout, stderr: what the process wrote, up to the limit.
      stopped: the limit at which it was stopped, or empty.
      started: whether the program began; if not, the sandbox could not be started.
      seconds: from the program's beginning to the end.
    """

    stdout: bytes = b""
    stderr: bytes = b""
    stopped: Stopped = ""
    started: bool = False
    seconds: float = 0.0


def watch(
    process: subprocess.Popen,
    pipes: tuple[IO[bytes], IO[bytes]],
    started: int,
    bounds: Bounds,
    kill: Callable[[], None],
) -> Outcome:
    """Waits until the process has ended and its pipes are closed.

    Args:
      process: has just been started.
      pipes: its stdout and stderr.
      started: the read end of a pipe into which a byte is written when the program begins.
      bounds: the limits; time is measured from that byte on.
      kill: ends the process with all its children; also called if the process has ended but
        children of it keep the pipes open.
    """
    outputs = {pipe.fileno(): bytearray() for pipe in pipes}
    outcome = Outcome()
    left, killed = bounds.output, False
    begin = time.monotonic()
    end, due = begin + START, begin
    with selectors.DefaultSelector() as selector:
        for descriptor in (started, *outputs):
            selector.register(descriptor, selectors.EVENT_READ)
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
                    outputs[key.fd] += chunk[: max(left, 0)]
                    left -= len(chunk)
            now = time.monotonic()
            if killed:
                if now > end:
                    break
                continue
            ended = process.poll() is not None
            if left < 0:
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
    """Which limit the processes of a sandbox exceed together, or empty."""
    pids = list(tree(pid))
    if sum(map(_resident, pids)) > bounds.memory and sum(map(_share, pids)) > bounds.memory:
        return "memory"
    if len(pids) > 1 and any(_files(pids[-1], place) > bounds.files for place in _TMPFS):
        return "files"
    return ""


def tree(pid: int) -> Iterator[int]:
    """The ids of a process and its descendants; in a PID namespace these include orphans."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                children = file.read().split()
            for child in children:
                yield from tree(int(child))


def _resident(pid: int) -> int:
    """Bytes of resident memory, including memory shared with other processes."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _share(pid: int) -> int:
    """Bytes of resident memory, where shared memory is divided among its processes; slow."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    except OSError:
        return _resident(pid)


def _files(pid: int, place: str) -> int:
    """The number of files on a tmpfs of the sandbox that a process is in."""
    try:
        facts = os.statvfs(f"/proc/{pid}/root/{place}")
    except OSError:
        return 0
    return facts.f_files - facts.f_ffree - 1  # the folder itself
