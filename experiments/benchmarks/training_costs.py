"""What the commands of training cost share: ways to train, their steps, the paper's figures."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.benchmarks.ratios import markdown, ratio_cells
from experiments.benchmarks.words import check_words
from rmas.parallel import put_batch, put_whole, use
from rmas.plans.programs import MemoryNeeds, lower
from rmas.shapes import Params
from rmas.system.load import System
from rmas.training import optim as optimizers
from rmas.training.loop import Schedule
from rmas.training.objectives import TrainingContext, WeightedObjectives, batch_axes
from rmas.training.outer import trainable_loss, trainable_probes
from rmas.training.step import TrainState, init_train_state, make_step, shardings_of
from rmas.training.trainable import (
    Trainable,
    full_trainable,
    init_adapters,
    init_full,
    links_trainable,
    lora_trainable,
)

WAYS = ("links", "lora", "full", "full_bfloat16")
"""What is trained; in the last one all weights and their moments are bfloat16."""


@dataclasses.dataclass(frozen=True)
class Published:
    """What the paper reports of training its light system (arXiv 2604.25917)."""

    gigabytes: float
    dollars: float


PAPER = {
    "links": Published(15.29, 4.27),
    "lora": Published(21.67, 6.64),
    "full": Published(41.40, 9.67),
}
"""By way of training; the paper's full fine-tuning does not say which dtypes it holds."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """The form of LoRA adapters."""

    rank: int
    alpha: float


def check_ways(ways: Sequence[str]) -> None:
    """Raises `InputError` for a way that there is not."""
    check_words("ways", ways, WAYS)


def make_trainable(
    way: str,
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    mesh: jax.sharding.Mesh,
    *,
    parts: Sequence[str],
    lora: Lora,
) -> Trainable:
    """What a way trains.

    Args:
      params, links: of the system, arrays or their shapes.
      parts: the links that `links` trains.
    """
    models = dict(context.spec.models)
    if way == "links":
        fixed = {part: tree for part, tree in links.items() if part not in parts}
        return links_trainable(context.spec.links, params, fixed)
    if way == "lora":
        return lora_trainable(models, params, links, mesh, rank=lora.rank, alpha=lora.alpha)
    return full_trainable(models, params, links, mesh, _dtype(way))


def initial(
    way: str, params: dict[str, Params], links: Params, parts: Sequence[str], rank: int, seed: int
) -> Params:
    """What a way starts from."""
    if way == "links":
        return {part: links[part] for part in parts}
    if way == "lora":
        return init_adapters(params, rank, jax.random.key(seed))
    return init_full(params, _dtype(way))


def _dtype(way: str) -> str:
    return "bfloat16" if way == "full_bfloat16" else "float32"


class Stepper:
    """A compiled step of one way with its state, as `loop.fit` makes it.

    Attributes:
      needs: what the compiler says of the step's memory.
      optimizer_bytes: of the optimizer's state.
    """

    def __init__(
        self,
        what: Trainable,
        context: TrainingContext,
        objective: WeightedObjectives,
        *,
        system: System,
        schedule: Schedule,
        rounds: int,
        seed: int,
        start: Callable[[], Params],
        batch: Any,
    ) -> None:
        self._mesh, self._frozen = system.mesh, what.frozen
        self._axes = batch_axes(objective)
        optimizer = optimizers.make(schedule.optim)
        state = init_train_state(jax.tree.map(jax.numpy.array, start()), optimizer)
        shapes = jax.eval_shape(lambda: state)
        shardings = shardings_of(self._mesh, shapes, optimizer, what.shardings)
        self._state: TrainState = put_whole(state, shardings)
        self._step = make_step(
            trainable_loss(what, context, objective),
            optimizer,
            seed=seed,
            shardings=shardings,
            mesh=self._mesh,
            axes=self._axes,
            accumulate=schedule.accumulate,
            probes=trainable_probes(what, context, rounds),
            gather=what.shardings is None,
        )
        self.optimizer_bytes = size_of(state.opt_state)
        arrays = put_batch(self._mesh, batch, self._axes)
        program = lower("step", self._mesh, self._step.lower, self._state, self._frozen, arrays)
        self.needs: MemoryNeeds = program.memory

    def step(self, batch: Any) -> float:
        """An update from numpy arrays; returns the loss when it is done."""
        with use(self._mesh):
            arrays = put_batch(self._mesh, batch, self._axes)
            self._state, metrics = self._step(self._state, self._frozen, arrays)
        return float(metrics["loss"])


def size_of(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def count_of(tree: Any) -> int:
    """Numbers in all arrays, or shapes of arrays."""
    return sum(x.size for x in jax.tree.leaves(tree))


def times(value: float, other: Any) -> str:
    """A ratio for a table; a dash where there is nothing to compare with."""
    return f"{value / other:.2f}" if other else "-"


def measured_tables(facts: Mapping[str, Any]) -> str:
    """Costs, and accuracies by rounds, in Markdown."""
    ways = facts["ways"]
    first = next(iter(ways))
    against = f"of {first}'"
    head = ["trained", "parameters", "% of weights", "optimizer MB", "step MB", against]
    head += ["paper GB", "of links'", "s a step", against, "95 % interval"]
    rows = []
    for way, own in ways.items():
        paper = PAPER.get(way)
        cells = [way, f"{own['trained']:,}", f"{100 * own['trained'] / facts['weights']:.1f}"]
        cells += [_megabytes(own["optimizer_bytes"]), _megabytes(_memory(own))]
        cells += [times(_memory(own), _memory(ways[first]))]
        if paper:
            cells += [f"{paper.gigabytes:.2f}", times(paper.gigabytes, PAPER["links"].gigabytes)]
        else:
            cells += ["-", "-"]
        cells += [f"{statistics.median(own['seconds']):.3f}"]
        cells += ["1", ""] if way == first else ratio_cells(own["ratio"])
        rows.append(cells)
    blocks = [
        f"{facts['objective']}, batch {facts['batch']}, {facts['steps']} steps; {facts['machine']}",
        markdown(head, rows),
    ]
    scores = [
        [
            way,
            f"{facts['rates'][way]:g}" if way in facts["rates"] else "-",
            str(row["rounds"]),
            f"{row['accuracy']:.3f}",
            f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
            "-" if row["ceiling"] is None else f"{row['ceiling']:.3f}",
        ]
        for way, own in facts["accuracy"].items()
        for row in own
    ]
    head = ["trained", "learning rate", "rounds", "accuracy", "95 % interval", "ceiling"]
    return "\n\n".join([*blocks, markdown(head, scores)])


def _memory(own: Mapping[str, Any]) -> int:
    """Bytes of a step: arguments, what it computes with, and results beside arguments."""
    return own["arguments"] + own["temporaries"] + own["outputs"] - own["alias"]


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f}"


def planned_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each way in Markdown, with ratios to the links' and the paper's.

    Peaks and times are dashes where nothing was compiled.
    """
    first: Mapping[str, Any] = found.get("links", {})
    head = ["trained", "parameters", "% of weights", "frozen GB", "trained GB", "optimizer GB"]
    head += ["sum GB", "of links'", "peak GB", "of links'", "paper GB", "of links'"]
    head += ["step, s", "of links'"]
    rows = []
    for way, own in found.items():
        share = 100 * own["trained"] / own["weights"]
        cells = [way, f"{own['trained'] / 1e6:,.1f} M", f"{share:.2f}"]
        cells += [_gigabytes(own[f"{name}_bytes"]) for name in _HELD]
        cells += [_gigabytes(_held(own)), times(_held(own), first and _held(first))]
        peak = own.get("peak")
        cells += [_gigabytes(peak), times(peak, first.get("peak"))] if peak else ["-", "-"]
        if paper := PAPER.get(way):
            cells += [f"{paper.gigabytes:.2f}", times(paper.gigabytes, PAPER["links"].gigabytes)]
        else:
            cells += ["-", "-"]
        if step := own.get("step"):
            cells += [f"{step:.3f}", times(step, first.get("step"))]
        else:
            cells += ["-" if own.get("fits", True) else "does not fit", "-"]
        rows.append(cells)
    return markdown(head, rows)


_HELD = ("frozen", "trained", "optimizer")


def _held(own: Mapping[str, Any]) -> int:
    """Bytes that are held between steps."""
    return sum(own[f"{name}_bytes"] for name in _HELD)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}"
