"""Stage two: the links of a whole system learn together."""

import functools
import heapq
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.parallel import put_whole, replicated
from rmas.shapes import Array, Params
from rmas.tasks.rows import Row
from rmas.training.alignment import share_alike
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
from rmas.training.step import Loss
from rmas.training.trainable import Trainable, links_trainable
from rmas.training.validation import ValidationData

_log = logging.getLogger(__name__)
# Of tokens. On `digits`, where `align` fails, shares are .77 and .90; on the others, all are 1.
_ALIKE = 0.95
_READ = 64  # rows whose tokens are compared
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


def unlike_tokens(
    objective: WeightedObjectives, examples: Examples, rows: Sequence[Row]
) -> list[str]:
    """A warning for every edge whose agents cut the first rows' texts into different tokens.

    None where `align` is not the only part of the objective: another part makes up for it.
    """
    if [name for name, _ in objective] != ["align"]:
        return []
    system, lines = examples.renderer.system, []
    some = list(itertools.islice(rows, _READ))
    for e in system.topology.edges:
        source, target = (system.agents[agent].chat for agent in (e.src, e.dst))
        rounds = range(examples.rounds)
        texts = {row.text(system.topology.role(e.src), k) for row in some for k in rounds}
        share = share_alike(source, target, sorted(texts), examples.latent_steps)
        if share < _ALIKE:
            lines.append(
                f"{e.src}->{e.dst}: only {share:.0%} of the tokens of {e.src}'s texts are exactly "
                f"one token for {e.dst}, and align compares tokens; objective hop, with "
                "outer.optim.lr 1e-4, does not (docs/recipes.md)"
            )
    return lines


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

    def start() -> Params:
        for line in unlike_tokens(objective, examples, source):
            _log.warning(line)
        return links()

    fixed = put_whole(fixed, replicated(examples.renderer.system.mesh))
    trained = train_system(
        links_trainable(context.spec.links, params, fixed),
        objective,
        folder=folder,
        context=context,
        start=start,
        examples=examples,
        source=source,
        schedule=schedule,
        seed=seed,
        validation=validation,
        measured=measured,
        facts=facts,
    )
    return {key: {**fixed, **trained}[key] for key in ("inner", "outer")}


def train_system(
    what: Trainable,
    objective: WeightedObjectives,
    *,
    folder: Path,
    context: TrainingContext,
    start: Callable[[], Params],
    examples: Examples,
    source: Sequence[Row],
    schedule: Schedule,
    seed: int,
    validation: Sequence[Row] = (),
    measured: WeightedObjectives | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Params:
    """Trains what a `Trainable` says on a system's objective; resumable in `folder`.

    Args:
      what: the trained tree, and how a system is made of it.
      start: makes the tree that training starts from; not called where it resumes.
      objective, validation, measured, facts: as in `train_outer`.

    Returns:
      The trained tree. Raises what `loop.fit` raises.
    """
    measured = measured or objective

    def prepare(rows: Sequence[Row], objective: WeightedObjectives = objective) -> dict[str, Any]:
        return {name: OBJECTIVES[name].prepare(examples, rows) for name, _ in objective}

    def count_tokens(batches: Mapping[str, Any]) -> int:
        return sum(OBJECTIVES[name].count_tokens(batch) for name, batch in batches.items())

    task = TrainingTask(
        label="outer",
        loss=trainable_loss(what, context, objective),
        links=start,
        template=what.template,
        frozen=what.frozen,
        source=source,
        prepare=lambda rows, step: prepare(rows),
        count_tokens=count_tokens,
        seed=seed,
        axes=batch_axes(objective),
        mesh=examples.renderer.system.mesh,
        probes=trainable_probes(what, context, examples.rounds),
        shardings=what.shardings,
        validation=ValidationData(
            validation,
            functools.partial(prepare, objective=measured),
            trainable_loss(what, context, measured),
            batch_axes(measured),
        ),
        facts=facts or {},
    )
    return fit(task, schedule, folder)


def trainable_loss(
    what: Trainable, context: TrainingContext, objective: WeightedObjectives
) -> Loss:
    """The loss of a step, as `step.make_step` calls it; its probes are `trainable_probes`."""

    def loss(
        trained: Params,
        frozen: Any,
        batches: Mapping[str, Any],
        key: Array,
        probes: Probes | None = None,
    ) -> LossAndMetrics:
        agents, links = what.assemble(trained, frozen)
        return system_loss(context, objective, agents, links, batches, key, probes)

    return loss


def trainable_probes(what: Trainable, context: TrainingContext, rounds: int) -> Probes | None:
    """Zeros for the gradient norms of links by round; None where links are not trained."""
    return make_probes(context, rounds) if what.kind == "links" else None
