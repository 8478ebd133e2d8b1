"""Stage one: an agent's inner link learns to turn hidden states into its own embeddings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmas.shapes import Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.loop import Schedule, fit
from rmas.training.objectives import Game, inner_loss


def train_inner(
    agent: str,
    *,
    folder: Path,
    game: Game,
    params: Params,
    links: Params,
    examples: Examples,
    source: Sequence[Row],
    schedule: Schedule,
) -> Params:
    """Trains one inner link (`links["inner"][agent]` is where it starts); resumable in `folder`.

    Returns the link's parameters.
    """

    def loss(inner, frozen, batch, key):
        tree = {"inner": {agent: inner}, "outer": {}}
        return inner_loss(game, agent, frozen, tree, batch), {}

    def prepare(rows: list[Row], step: int):
        return examples.inner(agent, rows, np.random.default_rng([schedule.seed, step]))

    return fit(
        folder=folder,
        label=f"inner {agent}",
        schedule=schedule,
        links=lambda: links["inner"][agent],
        template=links["inner"][agent],
        frozen=params,
        loss=loss,
        source=source,
        prepare=prepare,
        mesh=examples.renderer.system.mesh,
    )
