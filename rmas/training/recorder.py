"""What a run records of its steps: metrics, and times."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rmas.errors import DivergedError
from rmas.parallel.meters import peak_bytes
from rmas.shapes import Array
from rmas.training.metrics import MetricsWriter


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step whose metrics may still be computing."""

    number: int
    metrics: Mapping[str, Array]
    input_seconds: float
    tokens: int


class Recorder:
    """Writes the metrics of one step while the next one runs.

    Times go into another file than metrics (`MetricsWriter.write_times`): per step its seconds,
    those that it waited for its input, tokens per second, and the peak of device memory.

    Args:
      rate: the learning rate of a step, counted from 0.
      losses: those since the last regular flush, from the checkpoint that the run resumes from.
    """

    def __init__(
        self, writer: MetricsWriter, rate: Callable[[int], Any], losses: Sequence[float] = ()
    ) -> None:
        self.losses = list(losses)
        self._writer, self._rate = writer, rate
        self._pending: _Step | None = None
        self._input_seconds, self._ended = 0.0, time.perf_counter()

    @contextlib.contextmanager
    def time_input(self) -> Iterator[None]:
        """Measures the time in which a step waits for its input."""
        began = time.perf_counter()
        yield
        self._input_seconds = time.perf_counter() - began

    def step_done(self, step: int, metrics: Mapping[str, Array], tokens: int) -> None:
        """Keeps the metrics of step number `step` (from 1), and writes those of the step before.

        The metrics may still be computing. `tokens` are those of the whole batch.
        """
        before = self._pending
        self._pending = _Step(step, metrics, self._input_seconds, tokens)
        if before is not None:
            self._record(before, {})

    def flush(self, regular: bool, **more: float) -> float:
        """Writes the last step, with `more`; returns the mean loss since the last regular flush."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._record(pending, more)
        mean = float(np.mean(self.losses))
        if regular:
            self.losses = []
        return mean

    def _record(self, step: _Step, more: dict[str, float]) -> None:
        values = dict(_numbers(step.metrics))
        now = time.perf_counter()
        seconds, self._ended = now - self._ended, now
        rate = self._rate(step.number - 1)
        self._writer.write(step.number, values | {"learning_rate": rate} | more)
        self._writer.write_times(
            step.number,
            {
                "seconds": seconds,
                "input_seconds": step.input_seconds,
                "tokens_per_second": step.tokens / seconds,
                "peak_bytes": peak_bytes(),
            },
        )
        self.losses.append(values["loss"])
        if not math.isfinite(values["loss"]):
            raise DivergedError(
                f"the loss of step {step.number} is {values['loss']}; lower the learning rate, or "
                "look for the row that causes it"
            )


def _numbers(metrics: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
    """Names and numbers; those by round, `a/round`, become `a/round_1`, `a/round_2`, ..."""
    for name, value in jax.device_get(metrics).items():
        if np.ndim(value) == 0:
            yield name, float(value)
        else:
            yield from ((f"{name}_{r + 1}", float(x)) for r, x in enumerate(value))
