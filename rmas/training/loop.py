"""The training loop: one file, top to bottom; inner and outer training both run it."""

import dataclasses
import functools
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rmas.console import Progress
from rmas.errors import DivergedError, InputError, Stopped
from rmas.options import Options, option
from rmas.parallel import (
    batch_multiple,
    batch_share,
    broadcast_from_first,
    is_first,
    put_batch,
    put_whole,
    single_device_mesh,
    use,
)
from rmas.parallel.profile import Profile
from rmas.shapes import Params
from rmas.tasks.pipeline import batches
from rmas.training import optim as optimizers
from rmas.training.metrics import MetricsWriter, check_metrics
from rmas.training.optim import Optim
from rmas.training.recorder import Recorder
from rmas.training.step import (
    Loss,
    TrainState,
    Weigh,
    init_train_state,
    make_step,
    shardings_of,
)
from rmas.training.stopping import stop_on_signals
from rmas.training.validation import Validation, ValidationData

if TYPE_CHECKING:
    from rmas.training.checkpoints import Checkpoints

_log = logging.getLogger(__name__)
_CLOCK_STEPS = 10
"""Steps between looks at the first process's clock, each of which costs a message to all."""


@dataclasses.dataclass(frozen=True)
class Schedule(Options):
    """Length and pace of a training stage.

    A checkpoint is saved every `save_every` steps, and once `save_minutes` have passed since the
    last one. The loss of `validation_rows` rows of the split `validation` is measured at every
    regular checkpoint; rows without that split give up so many rows of `train` for it.
    """

    optim: Optim = option(factory=Optim, help="the optimizer")
    batch_size: int = option(16, "rows of an update", unit="rows", least=1)
    save_every: int = option(200, "between regular checkpoints", unit="steps", least=1)
    save_minutes: float = option(
        10.0, "after which a checkpoint is saved in any case; 0: never", unit="min", least=0
    )
    accumulate: int = option(1, "gradient accumulation: parts that a batch is cut into", least=1)
    validation_rows: int = option(
        0,
        "rows whose loss is measured; 0: none. Without a split validation, as in a file, these are "
        "held back from the training rows of both stages",
        unit="rows",
        least=0,
    )
    select: Literal["last", "best"] = option(
        "last",
        "whose links count: the last step's, or those of the checkpoint with the lowest "
        "validation loss (without validation rows: training loss)",
    )
    profile_steps: tuple[int, ...] = option(
        (),
        "first step to trace and first not to, for TensorBoard and Perfetto; empty: none",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.profile_steps
        if steps and (len(steps) != 2 or not steps[0] < steps[1] <= self.optim.steps):
            raise self.wrong(
                "profile_steps",
                f"name the first step and the one after the last, of {self.optim.steps} steps",
            )
        if self.batch_size % self.accumulate:
            raise self.wrong(
                "batch_size", f"it must be a multiple of accumulate, {self.accumulate}"
            )
        part = self.batch_size // self.accumulate
        if 0 < self.validation_rows < part:
            raise self.wrong(
                "validation_rows", f"it must be at least {part}, as many as are computed at once"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What is learnt, and from what.

    Attributes:
      label: names it in messages and on the progress bar.
      links: makes the initial links; not called on resume.
      template: their shapes and dtypes.
      frozen: what `loss` reads besides links (weights of agents).
      source: what batches are drawn from: rows, or whatever `prepare` understands.
      prepare: `prepare(items, step)` -> a batch: numpy arrays of this process's share of the
        step's items of `source`; must depend on its arguments alone.
      count_tokens: `count_tokens(batch)` -> tokens in what `prepare` gave, padding left out.
      seed: decides the order of the rows and the random numbers of the steps.
      axes: the axis of the rows in the batch's arrays, as `jax.vmap` reads `in_axes`.
      mesh: where `frozen` is placed; rows are split over it, links over its axis `fsdp`.
      probes: see `step.make_step`.
      weigh: the weight of a part of a batch, or of a batch of validation rows, in means over
        several; without it all weigh alike.
      shardings: of what is trained, between steps and in them; None: links are split over `fsdp`
        between steps, and gathered once a step.
      validation: what is measured at checkpoints, if `Schedule.validation_rows` asks for it.
      facts: what checkpoints record about the run that made them, for JSON.
    """

    label: str
    loss: Loss
    links: Callable[[], Params]
    template: Params
    frozen: Any
    source: Sequence[Any]
    prepare: Callable[[list[Any], int], Any]
    count_tokens: Callable[[Any], int]
    seed: int
    axes: Any = 0
    mesh: Mesh = dataclasses.field(default_factory=single_device_mesh)
    probes: Params | None = None
    weigh: Weigh | None = None
    shardings: Any = None
    validation: ValidationData | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def fit(task: TrainingTask, schedule: Schedule, folder: Path) -> Params:
    """Trains links to the end of the schedule, from the newest checkpoint in `folder` if any.

    A schedule of no steps gives the initial links, and writes nothing.

    A run that was killed and is started again computes the same batches, keys and updates: its
    links are bit-identical to those of an uninterrupted run on the same kind of machine. All
    processes of a run call it together; each reads the rows of its own devices. The folder
    receives `checkpoints/`, `metrics.jsonl`, `timings.jsonl` and TensorBoard's files.

    Raises:
      InputError: the batch does not divide over the mesh, a checkpoint cannot be written, or the
        loss is no longer finite.
      Stopped: the process was asked to end; the steps that were done are saved.
    """
    # Late, as settings and evaluations import this file, too: Orbax is a tenth of all imports.
    from rmas.training.checkpoints import Checkpoints

    check_batch(task.label, schedule, task.mesh)
    if not schedule.optim.steps:
        return task.links()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return _fit(task, schedule, folder, checkpoints)


def check_batch(label: str, schedule: Schedule, mesh: Mesh) -> None:
    """Raises `InputError` where the rows of a batch do not divide over the mesh."""
    multiple = batch_multiple(mesh) * schedule.accumulate
    if schedule.batch_size % multiple:
        times = f" times accumulate {schedule.accumulate}" if schedule.accumulate > 1 else ""
        raise InputError(
            f"{label}: a batch of {schedule.batch_size} rows does not divide over the mesh; "
            f"batch_size must be a multiple of {multiple} (data times fsdp{times}), or choose "
            "another mesh"
        )


def _fit(
    task: TrainingTask, schedule: Schedule, folder: Path, checkpoints: "Checkpoints"
) -> Params:
    # 1. State: initial, or as the newest checkpoint has it.
    label, mesh, total = task.label, task.mesh, schedule.optim.steps
    optimizer = optimizers.make(schedule.optim)
    shapes = jax.eval_shape(lambda links: init_train_state(links, optimizer), task.template)
    shardings = shardings_of(mesh, shapes, optimizer, task.shardings)
    templates = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings
    )
    resumed = checkpoints.latest_step() is not None
    if resumed:
        start, state, data_state, meta = checkpoints.restore(templates)
    else:
        # Committed like a restored state, so that both enter one executable; of copies, since a
        # step deletes the state that it is given.
        links = jax.tree.map(jnp.array, task.links())
        state = put_whole(init_train_state(links, optimizer), shardings)
        start, meta = 0, {}

    def result(state: TrainState) -> Params:
        """The links of the last step, or of the best checkpoint."""
        best = checkpoints.best_step() if schedule.select == "best" else total
        links = state.links
        if best != total:
            try:
                links = checkpoints.restore(templates, best)[1].links
            except InputError:
                _log.warning(
                    "the best checkpoint, of step %d, cannot be read; the last step's links are "
                    "used",
                    best,
                )
        if not _is_finite(links):
            raise DivergedError(f"{label}: the links are not finite; lower the learning rate")
        return links

    if start >= total:
        if is_first():
            check_metrics(folder, meta.get("metrics"))
        return result(state)

    # 2. Data, from the checkpoint's position on; each process reads its share of every batch.
    share = batch_share(mesh)
    stream = iter(
        batches(
            task.source,
            seed=task.seed,
            batch_size=schedule.batch_size,
            process_index=share.index,
            process_count=share.count,
        )
    )
    if resumed:
        stream.set_state(data_state)

    def on_devices(batch: Any, axes: Any) -> Any:
        return put_batch(mesh, batch, axes, share)

    validation = Validation(
        task.loss,
        task.validation,
        count=schedule.validation_rows,
        batch_size=schedule.batch_size // schedule.accumulate,
        share=share,
        on_devices=on_devices,
        probes=task.probes,
        weigh=task.weigh,
    )

    # 3. Steps. Metrics of one step are read while the next one runs.
    step_fn = make_step(
        task.loss,
        optimizer,
        seed=task.seed,
        shardings=shardings,
        mesh=mesh,
        axes=task.axes,
        accumulate=schedule.accumulate,
        probes=task.probes,
        weigh=task.weigh,
        gather=task.shardings is None,
    )
    saved_at = time.monotonic()
    with (
        use(mesh),
        stop_on_signals() as stop,
        MetricsWriter(folder, start, meta.get("metrics")) as writer,
        Profile(folder / "profile", schedule.profile_steps, "profile_steps") as profile,
        Progress(total, start=start, label=label) as progress,
    ):
        rate = optimizers.learning_rate(schedule.optim)
        recorder = Recorder(writer, rate, meta.get("losses", ()))
        progress.compiling()
        for n in range(start, total):
            profile.before(n)
            with recorder.time_input():
                arrays = task.prepare(next(stream), n)
                batch = on_devices(arrays, task.axes)
            tokens = task.count_tokens(arrays) * share.count
            state, metrics = step_fn(state, task.frozen, batch)
            recorder.step_done(n + 1, metrics, tokens)
            progress.update(n + 1, loss=functools.partial(metrics.__getitem__, "loss"))
            stopping = stop.reached()
            regular = (n + 1) % schedule.save_every == 0 or n + 1 == total
            if regular or stopping or _late(schedule, n + 1, saved_at):
                # Only regular checkpoints are measured: the steps of others depend on the clock.
                measured = validation(state.links, task.frozen) if regular else {}
                score = recorder.flush(regular, **measured)
                score = measured.get("validation", score)
                if not regular or not math.isfinite(score):
                    score = sys.float_info.max  # never the best
                facts = {**task.facts, "label": label, "step": n + 1}
                facts |= {"losses": [*recorder.losses], "metrics": writer.written()}
                checkpoints.save(n + 1, state, stream.get_state(), facts, score)
                saved_at = time.monotonic()
            if stopping:
                checkpoints.wait()
                told = f"{label}: stopped after step {n + 1} of {total}, which is saved"
                raise Stopped(told, stop.status)
    return result(state)


@jax.jit
def _is_finite(links: Params) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(links)]))


def _late(schedule: Schedule, step: int, saved_at: float) -> bool:
    """Whether a checkpoint is due by time; all processes decide alike."""
    if not schedule.save_minutes or step % _CLOCK_STEPS:
        return False
    return broadcast_from_first(time.monotonic() - saved_at > 60 * schedule.save_minutes)
