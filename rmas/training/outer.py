"""Stage two: the links of a whole system learn together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from rmas.links import init_links
from rmas.parallel import put_whole, replicated
from rmas.shapes import Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.objectives import OBJECTIVES, TrainingContext, system_loss, taps_of


def train_outer(
    objective: tuple[tuple[str, float], ...],
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
    facts: Mapping[str, Any] | None = None,
) -> Params:
    """Trains the parts of the links tree that `links()` gives; resumable in `folder`.

    Args:
      objective: names and weights, see `parse_objective`.
      fixed: the other parts of the tree (inner links, in the release's recipe), which are
        differentiated through but not trained.
      validation, facts: see `loop.TrainingTask`.

    Returns:
      The whole links tree.
    """

    mesh = examples.renderer.system.mesh

    def loss(trained, frozen, batches, key, taps):
        agents, fixed = frozen
        return system_loss(context, objective, agents, fixed | trained, batches, key, taps)

    def prepare(rows: list[Row], _: int):
        return {name: OBJECTIVES[name].prepare(examples, rows) for name, _ in objective}

    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    fixed = put_whole(fixed, replicated(mesh))
    task = TrainingTask(
        label="outer",
        loss=loss,
        links=links,
        template={part: tree for part, tree in every.items() if part not in fixed},
        frozen=(params, fixed),
        source=source,
        prepare=prepare,
        seed=seed,
        axes={name: OBJECTIVES[name].axes for name, _ in objective},
        mesh=mesh,
        taps=taps_of(context, examples.rounds),
        validation=validation,
        facts=facts or {},
    )
    trained = fit(task, schedule, folder)
    return {key: {**fixed, **trained}[key] for key in ("inner", "outer")}
