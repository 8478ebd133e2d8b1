"""Stage one: an agent's inner link learns to turn hidden states into its own embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmas.parallel import batch_share
from rmas.shapes import Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.loop import Problem, Schedule, fit
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
    validation: Sequence[Row] = (),
    facts: Mapping[str, Any] | None = None,
) -> Params:
    """Trains one inner link (`links["inner"][agent]` is where it starts); resumable in `folder`.

    Returns the link's parameters. For `validation` and `facts` see `loop.Problem`.
    """

    def loss(inner, frozen, batch, key):
        tree = {"inner": {agent: inner}, "outer": {}}
        distance = inner_loss(game, agent, frozen, tree, batch)
        return distance, {f"cosine/{agent}": 1.0 - distance}

    mesh = examples.renderer.system.mesh
    share = batch_share(mesh)

    def prepare(rows: list[Row], step: int):
        rounds = examples.draw(np.random.default_rng([schedule.seed, step]), schedule.batch_size)
        return examples.inner(agent, rows, rounds[share.of(schedule.batch_size)])

    problem = Problem(
        label=f"inner {agent}",
        loss=loss,
        links=lambda: links["inner"][agent],
        template=links["inner"][agent],
        frozen=params,
        source=source,
        prepare=prepare,
        mesh=mesh,
        validation=validation,
        facts=facts or {},
    )
    return fit(problem, schedule, folder)
