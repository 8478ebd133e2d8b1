"""Stage two: the links of a whole system learn together."""

import functools
import heapq
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from rmas.errors import InputError
from rmas.links import init_links
from rmas.parallel import put_whole, replicated
from rmas.shapes import Array, Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.objectives import (
    OBJECTIVES,
    LossAndMetrics,
    Probes,
    TrainingContext,
    WeightedObjectives,
    batch_axes,
    make_probes,
    system_loss,
)
from rmas.training.validation import ValidationData

_TRIED = 8  # rows with the longest questions, which are made into arrays before the first step


def check_longest(
    objective: WeightedObjectives, examples: Examples, rows: Sequence[Row], name: str
) -> None:
    """Raises `InputError` where rows with the longest questions do not fit the agents' contexts.

    `name` is that of the rows, for the message. All processes call it together.
    """
    for row in heapq.nlargest(_TRIED, rows, key=lambda row: len(row.question)):
        for part, _ in objective:
            try:
                OBJECTIVES[part].prepare(examples, [row])
            except InputError as error:
                raise InputError(f"{name}: row {row.id}: {error}") from None


def train_outer(
    objective: WeightedObjectives,
    *,
    folder: Path,
    context: TrainingContext,
    params: dict[str, Params],
    fixed: Params,
    links: Callable[[], Params],
    examples: Examples,
    source: Sequence[Row],
    schedule: Schedule,
    seed: int,
    validation: Sequence[Row] = (),
    measured: WeightedObjectives | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Params:
    """Trains the parts of the links tree that `links()` gives; resumable in `folder`.

    Args:
      objective: names and weights, see `parse_objective`.
      fixed: the other parts of the tree (inner links, in the release's recipe), which are
        differentiated through but not trained.
      links: makes the links that training starts from; not called where it resumes.
      validation: rows whose loss is measured.
      measured: the objective whose loss that is; by default the one that is trained.
      facts: see `loop.TrainingTask`.

    Returns:
      The whole links tree. Raises what `loop.fit` raises.
    """

    mesh = examples.renderer.system.mesh

    measured = measured or objective

    def loss(
        trained: Params,
        frozen: Any,
        batches: Mapping[str, Any],
        key: Array,
        probes: Probes,
        objective: WeightedObjectives = objective,
    ) -> LossAndMetrics:
        agents, fixed = frozen
        return system_loss(context, objective, agents, fixed | trained, batches, key, probes)

    def prepare(rows: Sequence[Row], objective: WeightedObjectives = objective) -> dict[str, Any]:
        return {name: OBJECTIVES[name].prepare(examples, rows) for name, _ in objective}

    def count_tokens(batches: Mapping[str, Any]) -> int:
        return sum(OBJECTIVES[name].count_tokens(batch) for name, batch in batches.items())

    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    fixed = put_whole(fixed, replicated(mesh))
    task = TrainingTask(
        label="outer",
        loss=loss,
        links=links,
        template={part: tree for part, tree in every.items() if part not in fixed},
        frozen=(params, fixed),
        source=source,
        prepare=lambda rows, step: prepare(rows),
        count_tokens=count_tokens,
        seed=seed,
        axes=batch_axes(objective),
        mesh=mesh,
        probes=make_probes(context, examples.rounds),
        validation=ValidationData(
            validation,
            functools.partial(prepare, objective=measured),
            functools.partial(loss, objective=measured),
            batch_axes(measured),
        ),
        facts=facts or {},
    )
    trained = fit(task, schedule, folder)
    return {key: {**fixed, **trained}[key] for key in ("inner", "outer")}
