"""What links are trained on: the table of objectives, their weighted sum, and their names.

`inner_loss` trains one agent's inner link. The objectives train a whole system and can be weighted
together: `teacher_forced` (the release's), `rollout` (cross-entropy through true rollouts), `align`
(each rollout against its teacher text, turn by turn), `hop` and `distill` (what a message does to
its reader's text, one hop at a time).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rmas.errors import InputError
from rmas.shapes import Array, Params
from rmas.training.objectives import align, hops, rollout, teacher_forced
from rmas.training.objectives.base import (
    Lengths,
    LossAndMetrics,
    Objective,
    Probes,
    TrainingContext,
    make_probes,
)
from rmas.training.objectives.inner import inner_distance, inner_loss, inner_weight

__all__ = [
    "OBJECTIVES",
    "Lengths",
    "LossAndMetrics",
    "Objective",
    "Probes",
    "TrainingContext",
    "WeightedObjectives",
    "batch_axes",
    "inner_distance",
    "inner_loss",
    "inner_weight",
    "make_probes",
    "parse_objective",
    "system_loss",
]

OBJECTIVES: dict[str, Objective] = {
    "teacher_forced": teacher_forced.OBJECTIVE,
    "rollout": rollout.OBJECTIVE,
    "align": align.OBJECTIVE,
    "hop": hops.HOP,
    "distill": hops.DISTILL,
}
"""Objectives of outer training by name. A new one touches two files: its own in
`rmas/training/objectives/`, which ends in an `Objective`, and its row here. Training, the memory
plan and the settings find it by this table."""

WeightedObjectives = tuple[tuple[str, float], ...]
"""Names of objectives with their weights."""


def parse_objective(text: str) -> WeightedObjectives:
    """`"align:1.0,rollout:0.1"` as names and weights; the weight of a name alone is 1.

    Raises `InputError` for an unknown name, a repeated one or a weight that is not positive.
    """
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, weight = (part.strip() for part in item.partition(":"))
        if name not in OBJECTIVES or name in found:
            known = ", ".join(OBJECTIVES)
            raise InputError(f"objective {text!r}: {name!r} is unknown or repeated; known: {known}")
        try:
            found[name] = float(weight) if weight else 1.0
        except ValueError:
            found[name] = 0.0
        if not (found[name] > 0 and math.isfinite(found[name])):
            raise InputError(f"objective {text!r}: weight {weight!r} of {name!r} is not positive")
    return tuple(found.items())


def batch_axes(objective: WeightedObjectives) -> dict[str, Any]:
    """The axes of the rows in the batches of several objectives, by name."""
    return {name: OBJECTIVES[name].axes for name, _ in objective}


def system_loss(
    context: TrainingContext,
    objective: WeightedObjectives,
    params: dict[str, Params],
    links: Params,
    batches: Mapping[str, Any],
    key: Array,
    probes: Probes | None = None,
) -> LossAndMetrics:
    """The weighted sum of objectives, and as metrics each of them with its own metrics."""
    total = jnp.zeros(())
    metrics: dict[str, Array] = {}
    for n, (name, weight) in enumerate(objective):
        own_key = jax.random.fold_in(key, n)
        loss, more = OBJECTIVES[name].loss(context, params, links, batches[name], own_key, probes)
        total = total + weight * loss
        metrics |= {name: loss, **more}
    return total, metrics
