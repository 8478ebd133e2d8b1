"""The steps of training, lowered for abstract arrays (see `rmas.plans.programs`)."""

from typing import Any

import jax
from jax.sharding import Mesh

from rmas.links import init_links
from rmas.plans import arguments
from rmas.plans.arguments import device_bytes, placed
from rmas.plans.programs import Program, lower
from rmas.shapes import Array, Params
from rmas.training import optim as optimizers
from rmas.training.examples import Text
from rmas.training.loop import Schedule
from rmas.training.objectives import (
    OBJECTIVES,
    Lengths,
    LossAndMetrics,
    Probes,
    TrainingContext,
    WeightedObjectives,
    batch_axes,
    inner_loss,
)
from rmas.training.objectives.base import abstract, zero_text
from rmas.training.outer import trainable_loss, trainable_probes
from rmas.training.step import Loss, init_train_state, make_step, shardings_of
from rmas.training.trainable import Trainable, links_trainable


def outer_step(
    context: TrainingContext,
    objective: WeightedObjectives,
    *,
    params: dict[str, Params],
    trained: tuple[str, ...],
    schedule: Schedule,
    rounds: int,
    lengths: Lengths,
    mesh: Mesh,
) -> Program:
    """A step of outer training; its arguments are `(state, (weights, fixed links), batches)`.

    Args:
      params: shapes of each agent's weights, with their shardings on the mesh. Compilers for CPUs
        compute bfloat16 in float32, and copy all weights for it: use float32 there.
      trained: the parts of the links that are trained.
    """
    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    fixed = {part: every[part] for part in every if part not in trained}
    what = links_trainable(context.spec.links, params, arguments.whole(mesh, fixed))
    return system_step(
        context,
        objective,
        what,
        schedule=schedule,
        rounds=rounds,
        lengths=lengths,
        mesh=mesh,
    )


def system_step(
    context: TrainingContext,
    objective: WeightedObjectives,
    what: Trainable,
    *,
    schedule: Schedule,
    rounds: int,
    lengths: Lengths,
    mesh: Mesh,
) -> Program:
    """A step of `outer.train_system`; its arguments are `(state, what.frozen, batches)`.

    `what` is made of shapes with their shardings on the mesh.
    """
    rows = schedule.batch_size
    batches = {
        name: OBJECTIVES[name].abstract_batch(context, rounds, rows, lengths)
        for name, _ in objective
    }
    return _step(
        "outer step",
        trainable_loss(what, context, objective),
        template=what.template,
        frozen=what.frozen,
        batch=batches,
        axes=batch_axes(objective),
        schedule=schedule,
        mesh=mesh,
        probes=trainable_probes(what, context, rounds),
        trained=what.shardings,
    )


def inner_step(
    context: TrainingContext,
    params: dict[str, Params],
    schedule: Schedule,
    lengths: Lengths,
    mesh: Mesh,
    agent: str | None = None,
) -> Program:
    """A step of inner training of `agent`, by default of the one with the most weights.

    Its arguments are `(state, the agent's weights, batch)`.
    """
    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    own = agent or heaviest(params)

    def loss(inner: Params, frozen: Params, batch: Text, key: Array) -> LossAndMetrics:
        tree = {"inner": {own: inner}, "outer": {}}
        return inner_loss(context, own, frozen, tree, batch), {}

    positions = inner_positions(context, own, lengths)
    return _step(
        f"inner step of {own}",
        loss,
        template=every["inner"][own],
        frozen=params[own],
        batch=abstract(lambda: zero_text(schedule.batch_size, positions=positions)),
        axes=0,
        schedule=schedule,
        mesh=mesh,
    )


def heaviest(params: dict[str, Params]) -> str:
    """The agent with the most weights on a device, the first of several."""
    return max(params, key=lambda agent: device_bytes(params[agent]))


def inner_positions(context: TrainingContext, agent: str, lengths: Lengths) -> int:
    """Of a row of inner training: the prompt, the texts in its slots, and the agent's own."""
    return lengths.prompt + lengths.text * (1 + len(context.topology.incoming(agent)))


def _step(
    name: str,
    loss: Loss,
    *,
    template: Params,
    frozen: Any,
    batch: Any,
    axes: Any,
    schedule: Schedule,
    mesh: Mesh,
    probes: Probes | None = None,
    trained: Any = None,
) -> Program:
    optimizer = optimizers.make(schedule.optim)
    state = jax.eval_shape(lambda links: init_train_state(links, optimizer), template)
    shardings = shardings_of(mesh, state, optimizer, trained)
    step = make_step(
        loss,
        optimizer,
        seed=0,
        shardings=shardings,
        mesh=mesh,
        axes=axes,
        accumulate=schedule.accumulate,
        probes=probes,
        gather=trained is None,
    )
    state = jax.tree.map(placed, state, shardings)
    return lower(name, mesh, step.lower, state, frozen, arguments.batch(mesh, batch, axes))
