"""Stage one: an agent's inner link learns to turn hidden states into its own embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas import models
from rmas.parallel import batch_share
from rmas.shapes import Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text
from rmas.training.features import Features, Reader, draws
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.objectives import TrainingContext, inner_distance, inner_loss


def train_inner(
    agent: str,
    *,
    folder: Path,
    context: TrainingContext,
    params: Params,
    links: Params,
    examples: Examples,
    source: Sequence[Row],
    schedule: Schedule,
    seed: int,
    validation: Sequence[Row] = (),
    facts: Mapping[str, Any] | None = None,
    stored: Reader | None = None,
) -> Params:
    """Trains one inner link (`links["inner"][agent]` is where it starts); resumable in `folder`.

    Returns the link's parameters. For `validation` and `facts` see `loop.TrainingTask`. With
    `stored` states (`features.extract`) the agent itself is not run, and the link is the same.
    """

    mesh = examples.renderer.system.mesh
    share = batch_share(mesh)
    own = share.of(schedule.batch_size)

    def distance(frozen: Params, tree: Params, batch: Text | Features):
        if isinstance(batch, Text):
            return inner_loss(context, agent, frozen, tree, batch)
        y_BND = models.embed(context.spec.model(agent), frozen, batch.ids_BN)
        return inner_distance(context, agent, tree, batch.h_BND, y_BND, batch.valid_BN)

    def loss(inner: Params, frozen: Params, batch: Text | Features, key):
        found = distance(frozen, {"inner": {agent: inner}, "outer": {}}, batch)
        return found, {f"cosine/{agent}": 1.0 - found}

    def prepare(rows: list, step: int) -> Text | Features:
        rounds = draws(schedule, examples, seed, step)[own]
        if stored is None or not isinstance(rows[0], int):
            return examples.inner(agent, rows, rounds)
        return stored.features(list(zip(rows, rounds, strict=True)))

    task = TrainingTask(
        label=f"inner {agent}",
        loss=loss,
        links=lambda: links["inner"][agent],
        template=links["inner"][agent],
        frozen=params,
        source=source if stored is None else range(len(source)),
        prepare=prepare,
        seed=seed,
        mesh=mesh,
        validation=validation,
        facts=facts or {},
    )
    return fit(task, schedule, folder)
