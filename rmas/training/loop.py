"""The training loop: one file, top to bottom; inner and outer training both run it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, Sharding

from rmas.errors import InputError
from rmas.parallel import batch_multiple, replicated, use
from rmas.shapes import Array, Params
from rmas.tasks.pipeline import batches
from rmas.tasks.rows import Row
from rmas.training import optim as optimizers
from rmas.training.checkpoints import Checkpoints
from rmas.training.metrics import MetricsWriter, Progress
from rmas.training.optim import Optim

Loss = Callable[[Params, Any, Any, Array], tuple[Array, dict[str, Array]]]
"""`loss(links, frozen, batch, key) -> (loss, parts)`: links alone are differentiated."""


@struct.dataclass
class TrainState:
    """All that training changes; the checkpoint adds the place in the data."""

    links: Params
    opt_state: optax.OptState
    step: Array


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Length and pace of a run."""

    optim: Optim
    batch_size: int
    seed: int
    save_every: int


def make_step(loss: Loss, optimizer: optax.GradientTransformation, place: Sharding | None = None):
    """The compiled update `(state, frozen, batch, key) -> (state, metrics)`.

    `frozen` holds whatever is not trained; it is an argument, so that weights are neither
    copied into the program nor donated. State and metrics come out at `place`, where the state
    went in.
    """

    @functools.partial(jax.jit, out_shardings=place)
    def step(state: TrainState, frozen, batch, key: Array):
        key = jax.random.fold_in(key, state.step)
        grad_fn = jax.value_and_grad(loss, has_aux=True)
        (value, parts), grads = grad_fn(state.links, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.links)
        links = optax.apply_updates(state.links, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **parts}
        return TrainState(links, opt_state, state.step + 1), metrics

    return step


def fit(
    *,
    folder: Path,
    label: str,
    schedule: Schedule,
    links: Callable[[], Params],
    template: Params,
    frozen: Any,
    loss: Loss,
    source: Sequence[Row],
    prepare: Callable[[list[Row], int], Any],
    mesh: Mesh | None = None,
) -> Params:
    """Trains links to the end of the schedule, from the newest checkpoint in `folder` if any.

    A run that was killed and is started again goes through the same batches, keys and updates:
    its links are bit-identical to an uninterrupted run's on the same kind of machine.

    Args:
      folder: receives `checkpoints/` and `metrics.jsonl`.
      links: makes the initial links; not called on resume.
      template: their shapes and types.
      frozen: what `loss` reads besides links (weights of agents).
      prepare: `prepare(rows, step)` -> arrays; must depend on its arguments alone.
      mesh: where `frozen` lies; rows are split over it, links are whole on each device.

    Raises:
      InputError: the batch does not divide over the mesh, or the loss is no longer finite.
    """
    if schedule.batch_size % batch_multiple(mesh):
        raise InputError(
            f"{label}: a batch of {schedule.batch_size} rows does not divide over the mesh; "
            f"batch_size must be a multiple of {batch_multiple(mesh)} (data times fsdp), or choose "
            "another mesh"
        )
    # 1. State: fresh, or as the newest checkpoint has it.
    optimizer = optimizers.make(schedule.optim)
    checkpoints = Checkpoints(folder / "checkpoints")
    total, resumed = schedule.optim.steps, checkpoints.latest_step() is not None
    place = replicated(mesh) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if resumed:
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            jax.eval_shape(lambda tree: _fresh(tree, optimizer), template),
        )
        start, state, data_state, _ = checkpoints.restore(shapes)
    else:
        # Committed like a restored state, so that both enter one executable.
        start, state = 0, jax.device_put(_fresh(links(), optimizer), place)
    if start >= total:
        checkpoints.close()
        return state.links

    # 2. Data, from where the checkpoint left it.
    stream = iter(batches(source, seed=schedule.seed, batch_size=schedule.batch_size))
    if resumed:
        stream.set_state(data_state)

    # 3. Steps. Metrics of one step are read while the next one runs.
    step_fn = make_step(loss, optimizer, place)
    key = jax.random.key(schedule.seed)
    pending = None
    with (
        use(mesh),
        MetricsWriter(folder, last_step=start) as writer,
        Progress(total, start=start, label=label) as progress,
    ):
        for n in range(start, total):
            state, metrics = step_fn(state, frozen, prepare(next(stream), n), key)
            _record(writer, pending)
            pending = (n + 1, metrics)
            progress.update(n + 1, loss=lambda m=metrics: m["loss"])
            if (n + 1) % schedule.save_every == 0 or n + 1 == total:
                _record(writer, pending)
                pending = None
                checkpoints.save(n + 1, state, stream.get_state(), {"label": label})
    checkpoints.close()
    return state.links


def _fresh(links: Params, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(links, optimizer.init(links), jnp.zeros((), jnp.int32))


def _record(writer: MetricsWriter, pending: tuple[int, dict[str, Array]] | None) -> None:
    if pending is not None:
        step, metrics = pending
        values = {name: float(value) for name, value in metrics.items()}
        writer.write(step, values)
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"the loss of step {step} is {values['loss']}; lower the learning rate, or look "
                "for the row that causes it"
            )
