"""What a run writes down step by step: what was learnt, and what it took."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rmas.errors import InputError
from rmas.parallel.meters import peak_bytes
from rmas.shapes import Array
from rmas.training.metrics import MetricsWriter


class Recorder:
    """Metrics of one step are read while the next one runs.

    `rate` gives the learning rate of a step, from 0. Times go into a file of their own
    (`MetricsWriter.took`): per step its seconds, those that it waited for its input, tokens of
    prompts and texts per second, and the peak of memory. `losses` are those since the last regular
    flush.
    """

    def __init__(
        self, writer: MetricsWriter, rate: Callable[[int], float], losses: Sequence[float] = ()
    ) -> None:
        self._writer, self._rate, self.losses = writer, rate, list(losses)
        self._pending: tuple[int, dict[str, Array], float, int] | None = None
        self._input, self._tokens, self._ended = 0.0, 0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Times what a step's input takes."""
        began = time.perf_counter()
        yield
        self._input = time.perf_counter() - began

    def counts(self, arrays: Any, processes: int) -> None:
        """Counts the tokens of a process's share of a batch, for all `processes` that have one."""
        leaves = jax.tree_util.tree_leaves_with_path(arrays)
        valid = [x for path, x in leaves if path and getattr(path[-1], "name", "") == "valid_BT"]
        self._tokens = processes * int(sum(np.count_nonzero(x) for x in valid))

    def ran(self, step: int, metrics: dict[str, Array]) -> None:
        """Takes over the metrics of `step` steps, which need not be there yet."""
        before = self._pending
        self._pending = (step, metrics, self._input, self._tokens)
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

    def _record(self, pending: tuple[int, dict[str, Array], float, int], more: dict) -> None:
        step, metrics, waited, tokens = pending
        values = dict(_numbers(metrics))
        now = time.perf_counter()
        seconds, self._ended = now - self._ended, now
        self._writer.write(step, values | {"learning_rate": self._rate(step - 1)} | more)
        self._writer.took(
            step,
            {
                "seconds": seconds,
                "input_seconds": waited,
                "tokens_per_second": tokens / seconds,
                "peak_bytes": peak_bytes(),
            },
        )
        self.losses.append(values["loss"])
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"the loss of step {step} is {values['loss']}; lower the learning rate, or look "
                "for the row that causes it"
            )


def _numbers(metrics: dict[str, Array]) -> Iterator[tuple[str, float]]:
    """Names and numbers; those of rounds, `a/round`, become `a/round_1`, `a/round_2`, ..."""
    for name, value in jax.device_get(metrics).items():
        if np.ndim(value) == 0:
            yield name, float(value)
        else:
            yield from ((f"{name}_{r + 1}", float(x)) for r, x in enumerate(value))
