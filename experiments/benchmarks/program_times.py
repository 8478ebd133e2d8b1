"""Times of compiled programs, beside the least that a device's memory and peak allow."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmas.models.ops import PRECISION
from rmas.parallel.chips import CHIPS
from rmas.parallel.gpus import GPUS
from rmas.plans.programs import Program, TooLargeError

_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a device can do at most.

    Attributes:
      bandwidth: bytes a second between its memory and its cores.
      flops: operations a second of products (two for each).
    """

    bandwidth: float
    flops: float


def public_figures(device: jax.Device) -> Figures | None:
    """Those of bfloat16 that its maker publishes; None for a device that is in no table."""
    known = CHIPS.get(device.device_kind) or GPUS.get(device.device_kind)
    return Figures(known.bandwidth, known.flops) if known else None


def measured_figures(dtype: Any, size: int) -> Figures:
    """Those of the first device, measured: the best of several passes and products.

    Args:
      dtype: of the product's matrices, which are multiplied as those of the models.
      size: of the matrices, `[size, size]`; a pass reads and writes 16 times as many float32
        numbers in place.
    """

    def best(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
        program, seconds = jax.jit(function, donate_argnums=0), []
        for _ in range(8):
            start = time.perf_counter()
            x = jax.block_until_ready(program(x))
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    numbers = jnp.ones((16, size, size), jnp.float32)
    moved = 2 * numbers.nbytes
    bandwidth = moved / best(lambda x: x + 1, numbers)
    matrix = jnp.full((size, size), 1 / size, dtype)  # the square of which is itself
    seconds = best(lambda x: jnp.matmul(x, x, precision=PRECISION), matrix)
    return Figures(bandwidth, 2 * size**3 / seconds)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Timed:
    """A compiled program and its runs.

    Attributes:
      compiling: seconds.
      needs: bytes of a device's memory, by the compiler.
      seconds: of each repetition, without the first run.
    """

    compiling: float
    needs: int
    seconds: tuple[float, ...]


def timed(
    runs: Sequence[tuple[str, Program, tuple]], repeats: int, keeps_state: bool = False
) -> list[Timed] | None:
    """Compiles programs and runs them in turn; None, and a line of progress, if one does not fit.

    Args:
      runs: what a program is for, the program, and its arrays.
      keeps_state: a program's first result is its first argument of the next run, as in training.
    """
    found: list[Timed] = []
    compiled: list[jax.stages.Compiled] = []
    seconds: list[list[float]] = [[] for _ in runs]
    arguments = [args for *_, args in runs]
    what = ""
    try:
        for what, program, _ in runs:
            say(f"compiling {what}")
            start = time.perf_counter()
            compiled.append(program.compiled)
            found.append(Timed(time.perf_counter() - start, program.memory.peak, ()))
        for _ in range(1 + repeats):
            for n, run in enumerate(runs):
                what, program, _ = run
                start = time.perf_counter()
                out = jax.block_until_ready(compiled[n](*arguments[n]))
                seconds[n].append(time.perf_counter() - start)
                if keeps_state:
                    arguments[n] = (out[0], *arguments[n][1:])
                del out
    except TooLargeError as error:
        say(str(error))
        return None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"{what} does not fit the memory of the device")
        return None
    return [
        dataclasses.replace(one, seconds=tuple(own[1:]))
        for one, own in zip(found, seconds, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says of one thing that was measured.

    Attributes:
      weights, what: which weights, and what was done with them.
      seconds: of each repetition; none if it did not fit.
      floor: the least seconds that the device's figures allow.
      compiling, needs: as in `Timed`; None if it did not fit.
    """

    weights: str
    what: str
    seconds: tuple[float, ...] = ()
    floor: float | None = None
    compiling: float | None = None
    needs: int | None = None

    @property
    def median(self) -> float | None:
        """Of the repetitions."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def facts(self) -> dict[str, Any]:
        """The row for JSON."""
        ratio = self.median / self.floor if self.median is not None and self.floor else None
        return {**dataclasses.asdict(self), "median": self.median, "ratio": ratio}

    @property
    def cells(self) -> list[str]:
        """The row of a table under `HEADER`."""
        if not self.seconds:
            return [self.weights, self.what, "does not fit", *[""] * (len(HEADER) - 3)]
        ratio = self.facts["ratio"]
        return [
            self.weights,
            self.what,
            _milliseconds(self.median),
            f"{1e3 * min(self.seconds):.3f} - {1e3 * max(self.seconds):.3f}",
            _milliseconds(self.floor),
            "" if ratio is None else f"{ratio:.2f}",
            f"{self.compiling:.1f} s",
            "" if self.needs is None else f"{self.needs / _GIB:.3f} GiB",
        ]


HEADER = ["weights", "what", "median", "from - to", "floor", "x floor", "compiling", "needs"]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3f} ms"
