"""The loss of rows that are not trained on."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmas.errors import InputError
from rmas.parallel import Share
from rmas.shapes import Array, Params
from rmas.training.step import Loss, Weigh


@dataclasses.dataclass(frozen=True)
class ValidationData:
    """What is measured, and how it becomes batches.

    Attributes:
      items: one for each row, with all that its arrays depend on, so that they are the same
        whatever the size of a batch; the first `Schedule.validation_rows` are measured.
      prepare: `prepare(items)` -> a batch that the loss reads; must depend on its argument alone.
      loss: what is measured; the task's own where it is None.
      axes: the axis of the rows in the batch's arrays, as `jax.vmap` reads `in_axes`.
    """

    items: Sequence[Any]
    prepare: Callable[[Sequence[Any]], Any]
    loss: Loss | None = None
    axes: Any = 0


def check_count(available: int, batch_size: int) -> None:
    """Raises `InputError` where a batch needs more rows than there are."""
    if available < batch_size:
        raise InputError(
            f"there are {available} validation rows, but a batch needs {batch_size}; raise "
            "validation_rows, or set it to 0"
        )


class Validation:
    """The mean loss of the first `count` rows, always with the same random numbers.

    Rows that do not fill a last batch are left out.

    Args:
      batch_size: rows that are measured at once: as many as a step computes at once.
      share: which rows of a batch this process prepares.
      weigh: the weight of a batch in the mean; without it all weigh alike.
      on_devices: `on_devices(batch, axes)` puts this process's share of a prepared batch on the
        mesh.

    Raises `InputError` where a batch needs more rows than there are.
    """

    def __init__(
        self,
        loss: Loss,
        data: ValidationData | None,
        *,
        count: int,
        batch_size: int,
        share: Share,
        on_devices: Callable[[Any, Any], Any],
        probes: Params | None,
        weigh: Weigh | None = None,
    ) -> None:
        items = data.items if data else ()
        available = min(count, len(items))
        if count:
            check_count(available, batch_size)
        starts = range(0, available // batch_size * batch_size, batch_size)
        own = share.of(batch_size)
        self._groups = [items[at : at + batch_size][own] for at in starts]
        self._data, self._on_devices = data, on_devices
        more = [] if probes is None else [probes]
        measured = data.loss if data and data.loss else loss

        @jax.jit
        def measure(links: Params, frozen: Any, batch: Any) -> tuple[dict[str, Array], Array]:
            value, metrics = measured(links, frozen, batch, jax.random.key(0), *more)
            numbers = {f"validation/{name}": x for name, x in metrics.items() if x.ndim == 0}
            weight = jnp.ones(()) if weigh is None else weigh(batch)
            return {"validation": value, **numbers}, weight

        self._measure = measure

    def __call__(self, links: Params, frozen: Any) -> dict[str, float]:
        """The loss as the metric `validation`, and its own metrics as `validation/<name>`.

        Empty without rows. All processes call it.
        """
        if self._data is None or not self._groups:
            return {}
        totals: dict[str, float] = {}
        whole = 0.0
        for group in self._groups:
            batch = self._on_devices(self._data.prepare(group), self._data.axes)
            numbers, weight = jax.device_get(self._measure(links, frozen, batch))
            whole += float(weight)
            for name, value in numbers.items():
                totals[name] = totals.get(name, 0.0) + float(weight) * float(value)
        return {name: total / max(whole, 1) for name, total in totals.items()}
