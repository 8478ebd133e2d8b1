"""The loss of rows that are not trained on."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rmas.errors import InputError
from rmas.parallel import Share
from rmas.shapes import Array, Params
from rmas.tasks.rows import Row
from rmas.training.step import Loss


class Validation:
    """The mean loss of the first `count` of `rows`, always with the same random numbers.

    Args:
      batch_size: rows that are measured at once: what a step computes at once.
      on_devices: `on_devices(rows, n)` puts this process's share of batch `n` on the mesh.

    Raises `InputError` where a batch needs more rows than there are.
    """

    def __init__(
        self,
        loss: Loss,
        rows: Sequence[Row],
        count: int,
        batch_size: int,
        share: Share,
        on_devices: Callable[[list[Row], int], Any],
        taps: Params | None,
    ) -> None:
        count = min(count, len(rows)) if count and rows else count
        if count and (count < batch_size or not rows):
            raise InputError(
                f"there are {min(count, len(rows))} validation rows, but a batch takes "
                f"{batch_size}; raise validation_rows, or set it to 0"
            )
        starts = range(0, count // batch_size * batch_size, batch_size)
        self._groups = [rows[at : at + batch_size][share.of(batch_size)] for at in starts]
        self._on_devices = on_devices
        more = [] if taps is None else [taps]

        @jax.jit
        def measure(links: Params, frozen: Any, batch: Any) -> Array:
            return loss(links, frozen, batch, jax.random.key(0), *more)[0]

        self._measure = measure

    def __call__(self, links: Params, frozen: Any) -> dict[str, float]:
        """The loss as the metric `validation`; nothing without rows."""
        losses = [
            float(self._measure(links, frozen, self._on_devices(group, n)))
            for n, group in enumerate(self._groups)
        ]
        return {"validation": float(np.mean(losses))} if losses else {}
