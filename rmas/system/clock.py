"""How the time of an answer divides into phases."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from rmas.parallel.meters import seconds_compiling


class Clock:
    """Adds up seconds by phase; a phase ends when what it started on devices is done.

    The phases of a run are `render` (prompts to arrays), `think` (all latent turns and the prefill
    of the last prompt), `read` (prefill of text exchange) and `write` (decoding, tools included).
    Seconds spent compiling are in none of them.

    Attributes:
      seconds: the sums since the last `pop`, by phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[Any]]:
        """Times a block; arrays that it puts into the list are waited for."""
        made: list[Any] = []
        began, compiled = time.perf_counter(), seconds_compiling()
        yield made
        jax.block_until_ready(made)
        seconds = time.perf_counter() - began - (seconds_compiling() - compiled)
        self.seconds[name] = self.seconds.get(name, 0.0) + max(seconds, 0.0)

    def pop(self) -> dict[str, float]:
        """The seconds by phase since the last call; sets them to zero."""
        seconds, self.seconds = self.seconds, {}
        return seconds
