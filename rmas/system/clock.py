"""Where the time of an answer goes."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from rmas.parallel.meters import seconds_compiling


class Clock:
    """Adds up seconds by phase; a phase ends when what it started on devices is done.

    The phases of a run are `render` (prompts to arrays), `think` (all latent turns, and the reading
    of the last prompt), `read` (prompts of text exchange) and `write` (decoding, tools included).
    Seconds in the compiler are in none of them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[Any]]:
        """Times a block; arrays that it puts into the list are waited for."""
        began, compiled, made = time.perf_counter(), seconds_compiling(), []
        yield made
        jax.block_until_ready(made)
        took = time.perf_counter() - began - (seconds_compiling() - compiled)
        self.seconds[name] = self.seconds.get(name, 0.0) + max(took, 0.0)

    def take(self) -> dict[str, float]:
        """The seconds since the last time, by phase."""
        taken, self.seconds = self.seconds, {}
        return taken
