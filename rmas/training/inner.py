"""Stage one: an agent's inner link learns to turn hidden states into its own embeddings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas import models
from rmas.parallel import batch_share
from rmas.shapes import Array, Params
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text
from rmas.training.hidden_state_cache import HiddenStateCache, HiddenStates, draw_rounds
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.objectives import TrainingContext, inner_distance, inner_loss, inner_weight
from rmas.training.validation import ValidationData


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
    cached: HiddenStateCache | None = None,
) -> Params:
    """Trains one inner link (`links["inner"][agent]` is where it starts); resumable in `folder`.

    Args:
      params: the agent's weights.
      links: the whole tree of links; it is not changed.
      validation: rows whose loss is measured; the agent reads them itself.
      facts: see `loop.TrainingTask`.
      cached: the agent's hidden states for this schedule and seed, from `cache_hidden_states`; with
        them the agent itself does not run on training rows, and the link is the same.

    Returns the link's parameters. Raises what `loop.fit` raises.
    """

    mesh = examples.renderer.system.mesh
    own = batch_share(mesh).of(schedule.batch_size)

    def loss(
        inner: Params, frozen: Params, batch: Text | HiddenStates, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        tree = {"inner": {agent: inner}, "outer": {}}
        if isinstance(batch, HiddenStates):
            y_BND = models.embed(context.spec.model(agent), frozen, batch.ids_BN)
            found = inner_distance(context, agent, tree, batch.h_BND, y_BND, batch.valid_BN)
        else:
            found = inner_loss(context, agent, frozen, tree, batch)
        return found, {f"cosine/{agent}": 1.0 - found}

    def weigh(batch: Text | HiddenStates) -> Array:
        own_BT = batch.valid_BN if isinstance(batch, HiddenStates) else batch.predicted()
        return inner_weight(context, own_BT)

    def own_rounds(step: int) -> list[int]:
        return draw_rounds(examples, schedule, seed, step)[own]

    def prepare_rows(rows: list[Row], step: int) -> Text:
        return examples.inner(agent, rows, own_rounds(step))

    def prepare_validation(items: Sequence[tuple[Row, int]]) -> Text:
        return examples.inner(agent, [row for row, _ in items], [k for _, k in items])

    items: Sequence[Any] = source
    prepare: Callable[[list[Any], int], Text | HiddenStates] = prepare_rows
    if cached is not None:
        states = cached

        def prepare_states(indices: list[int], step: int) -> HiddenStates:
            return states.read(list(zip(indices, own_rounds(step), strict=True)))

        items, prepare = range(len(source)), prepare_states
    task = TrainingTask(
        label=f"inner {agent}",
        loss=loss,
        links=lambda: links["inner"][agent],
        template=links["inner"][agent],
        frozen=params,
        source=items,
        prepare=prepare,
        count_tokens=_count_tokens,
        seed=seed,
        mesh=mesh,
        weigh=weigh,
        validation=ValidationData(
            _at_rounds(examples, schedule, seed, validation), prepare_validation
        ),
        facts=facts or {},
    )
    return fit(task, schedule, folder)


def _at_rounds(
    examples: Examples, schedule: Schedule, seed: int, rows: Sequence[Row]
) -> list[tuple[Row, int]]:
    """Validation rows with their rounds: drawn as those of whole batches in training.

    So they are the same with and without gradient accumulation, and for any number of processes.
    """
    rows = rows[: schedule.validation_rows]
    batches = -(-len(rows) // schedule.batch_size)
    rounds = [k for n in range(batches) for k in draw_rounds(examples, schedule, seed, n)]
    return list(zip(rows, rounds, strict=False))


def _count_tokens(batch: Text | HiddenStates) -> int:
    return batch.count_tokens()
