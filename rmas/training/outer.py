"""Stage two: the links of a whole system learn together."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from rmas.links import init_links
from rmas.shapes import Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.loop import Schedule, fit
from rmas.training.objectives import OBJECTIVES, Game, system_loss


def train_outer(
    objective: tuple[tuple[str, float], ...],
    *,
    folder: Path,
    game: Game,
    params: dict[str, Params],
    fixed: Params,
    links: Callable[[], Params],
    examples: Examples,
    source: Sequence[Row],
    schedule: Schedule,
) -> Params:
    """Trains the parts of the links tree that `links()` gives; resumable in `folder`.

    Args:
      objective: names and weights, see `parse_objective`.
      fixed: the other parts of the tree (inner links, in the release's recipe), which are
        differentiated through but not trained.

    Returns:
      The whole links tree.
    """

    def loss(trained, frozen, batches, key):
        agents, fixed = frozen
        return system_loss(game, objective, agents, fixed | trained, batches, key)

    def prepare(rows: list[Row], _: int):
        return {name: OBJECTIVES[name].prepare(examples, rows) for name, _ in objective}

    every = jax.eval_shape(lambda: init_links(game.spec.links, jax.random.key(0)))
    trained = fit(
        folder=folder,
        label="outer",
        schedule=schedule,
        links=links,
        template={part: tree for part, tree in every.items() if part not in fixed},
        frozen=(params, fixed),
        loss=loss,
        source=source,
        prepare=prepare,
        mesh=examples.renderer.system.mesh,
    )
    return {key: {**fixed, **trained}[key] for key in ("inner", "outer")}
