"""Reads the output of a running program and stops it at limits that the kernel does not enforce."""

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from rmas.tools.metering import Meter

Stopped = Literal["", "time", "output", "memory", "files"]
"""The limit at which a program was stopped; empty if it was not."""

START = 30.0
"""The time limit for starting a sandbox in seconds; long enough for a busy machine."""

_GRACE = 2.0


@dataclass(frozen=True)
class Bounds:
    """The limits of a sandbox as a whole.

    Attributes:
      wall: seconds.
      output: bytes of stdout and stderr together.
    """

    wall: float
    output: int


@dataclass
class Outcome:
    """The result of `watch`.

    Attributes:
      outputs: what the process wrote into each pipe, up to the limit.
      stopped: the limit at which it was stopped, or empty.
      started: whether the program began; if not, the sandbox could not be started.
      seconds: from the program's beginning to the end.
      status: as the sandbox tells it; None where it does not.
    """

    outputs: list[bytes] = field(default_factory=list)
    stopped: Stopped = ""
    started: bool = False
    seconds: float = 0.0
    status: int | None = None


def watch(
    process: subprocess.Popen,
    pipes: Sequence[IO[bytes]],
    started: int,
    bounds: Bounds,
    meter: Meter,
    kill: Callable[[], None],
    cancelled: Callable[[], bool] = bool,
) -> Outcome:
    """Waits until the process has ended and its pipes are closed.

    Args:
      process: has just been started.
      pipes: its outputs that are read here.
      started: the read end of the pipe of `inside.py`.
      bounds: the limits; time is measured from the dot in that pipe on.
      meter: measures memory and files.
      kill: ends the process with all its children; also called if the process has ended but
        children of it keep the pipes open.
      cancelled: whether it may end, since nobody needs it any more.
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
                    process.wait(meter.interval)
            for key, _ in selector.select(meter.interval) if selector.get_map() else ():
                chunk = os.read(key.fd, 1 << 16)
                if key.fd == started:
                    if chunk[:1] == b".":
                        outcome.started = True
                        meter.begin()
                        begin = time.monotonic()
                        end = begin + bounds.wall
                    if chunk.strip(b"."):
                        outcome.status = int(chunk.strip(b"."))
                    if not chunk:
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
                outcome.stopped = meter.overused()
                due = time.monotonic() + meter.interval
            if outcome.stopped or cancelled() or (ended and selector.get_map()):
                kill()
                killed, end = True, now + _GRACE
    outcome.seconds = time.monotonic() - begin
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    if outcome.started and not outcome.stopped:
        outcome.stopped = meter.overused()  # the kernel may have ended it in the last moment
    outcome.outputs = [bytes(output) for output in outputs.values()]
    return outcome
