"""How the time of an answer divides into phases."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rmas.parallel.meters import seconds_compiling


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
        self._queued: collections.deque[tuple[str, Any, Callable[[float], None] | None]]
        self._queued = collections.deque()
        self._mark = _now()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[Any]]:
        """Times a block of the host; arrays that it puts into the list are waited for."""
        made: list[Any] = []
        began, idle = _now(), not self._queued
        yield made
        jax.block_until_ready(made)
        self._add(name, _now() - began)
        if idle:
            self._mark = _now()

    def queue(self, name: str, arrays: Any, took: Callable[[float], None] | None = None) -> None:
        """Work given to devices: its phase goes from the end of the one before until it is ready.

        Arrays that will be donated are no sign of that; name others of the same program. `took` is
        called with the seconds.
        """
        self._queued.append((name, arrays, took))

    def charge(self, name: str, seconds: float) -> None:
        """Adds what an earlier run spent on work that this one uses, too."""
        self.charged += seconds
        self._add(name, seconds)

    def settle(self, most: int | None = None) -> None:
        """Waits for what is in the queue, in order; for the first `most` alone if given."""
        for _ in range(len(self._queued) if most is None else most):
            name, arrays, took = self._queued.popleft()
            jax.block_until_ready(arrays)
            seconds = self._lap(name)
            if took:
                took(seconds)

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
