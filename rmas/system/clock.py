"""How the time of an answer divides into phases."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from rmas.parallel.meters import seconds_compiling

T = TypeVar("T")


class Clock:
    """Adds up seconds by phase.

    The phases of a run are `render` (prompts to arrays), `preamble` (what prompts begin with),
    `think` (all latent turns and the prefill of the last prompt), `read` (prefill of text exchange)
    and `write` (decoding, tools included). Seconds spent compiling are in none of them.

    Programs are given to devices before the ones ahead of them have ended, and devices run them in
    this order. So the time of all phases but `render` is divided at the moments at which their
    results are ready, which `settle` and `lap` wait for; these phases never overlap. `render` is
    time of the host: it overlaps with them where prompts are rendered while devices work.

    Attributes:
      seconds: the sums since the last `pop`, by phase.
      run: stands for what began with the last `begin`.
      charged: of these, what did not pass: work that an earlier run did, and this one used.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.charged = 0.0
        self.begin()

    def begin(self) -> None:
        """A run begins: what was queued before is forgotten, as after an error."""
        self.run = object()
        self._queued: collections.deque[tuple[str, Any]] = collections.deque()
        self._mark = _now()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[Any]]:
        """Times a block of the host; arrays that it puts into the list are waited for.

        In a trace it is an event of this name.
        """
        made: list[Any] = []
        began, idle = _now(), not self._queued
        with jax.profiler.TraceAnnotation(name):
            yield made
            jax.block_until_ready(made)
        self._add(name, _now() - began)
        if idle:
            self._mark = _now()

    def queue(self, name: str, arrays: Any) -> object:
        """Work given to devices: its phase goes from the end of the one before until it is ready.

        Arrays that will be donated are no sign of that; name others of the same program. Returns
        what stands for it in `settle`.
        """
        entry = (name, arrays)
        self._queued.append(entry)
        return entry

    def timed(self, name: str, work: Callable[[], T]) -> tuple[T, float | None]:
        """The result of work for devices, when it is ready, and its seconds on an idle device.

        They are None where something was compiled: then they would have time of the host in them.
        """
        self.settle()
        self._mark, compiled = _now(), seconds_compiling()
        made = work()
        jax.block_until_ready(made)
        seconds = self._lap(name)
        return made, seconds if seconds_compiling() == compiled else None

    def charge(self, name: str, seconds: float) -> None:
        """Adds what an earlier run spent on work that this one uses, too."""
        self.charged += seconds
        self._add(name, seconds)

    def settle(self, last: object = None) -> None:
        """Waits for what is in the queue, in order; if `last` is given, up to that."""
        if last is not None and all(entry is not last for entry in self._queued):
            return
        while self._queued:
            entry = self._queued.popleft()
            jax.block_until_ready(entry[1])
            self._lap(entry[0])
            if entry is last:
                return

    def lap(self, name: str) -> None:
        """What ends now was phase `name`, since the end of what was queued before."""
        self.settle()
        self._lap(name)

    def pop(self) -> dict[str, float]:
        """The seconds by phase since the last call; sets them, and `charged`, to zero."""
        seconds, self.seconds, self.charged = self.seconds, {}, 0.0
        return seconds

    def _lap(self, name: str) -> float:
        now, began = _now(), self._mark
        self._mark = now
        self._add(name, now - began)
        return max(now - began, 0.0)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + max(seconds, 0.0)


def _now() -> float:
    """Seconds that did not pass in compilation."""
    return time.perf_counter() - seconds_compiling()
