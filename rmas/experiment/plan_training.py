"""The plan of a training step on one mesh."""

from rmas.experiment.plan_stage import Stage, StagePlan
from rmas.plans import hlo, training_floors
from rmas.plans.arguments import device_bytes
from rmas.plans.floors import Work
from rmas.plans.memory import turn_caches
from rmas.plans.plan import Time
from rmas.plans.training_steps import heaviest, inner_positions, inner_step, outer_step
from rmas.training.objectives import parse_objective


def training(on: Stage) -> StagePlan:
    """Compiles the step: memory by part, its time, and what devices exchange.

    Raises `TooLargeError` where it does not fit.
    """
    inner, outer = on.stage == "inner", on.given.outer
    if inner:
        program = inner_step(on.context, on.params, on.schedule, on.lengths, on.mesh)
        state, own, batch = program.arguments
        links = device_bytes(state.links)
        # All agents are in memory, and the step reads one.
        beside, caches = on.weights - device_bytes(own), 0
    else:
        program = outer_step(
            on.context,
            parse_objective(on.given.objective),
            params=on.params,
            trained=outer.train,
            schedule=on.schedule,
            rounds=outer.rounds,
            lengths=on.lengths,
            mesh=on.mesh,
        )
        state, (_, fixed), batch = program.arguments
        links = device_bytes(state.links) + device_bytes(fixed)
        dtype = on.dtype if on.chip else "float32"
        beside, caches = 0, turn_caches(on.context, on.rows, on.lengths, on.mesh, dtype)
    memory = on.compiled(program)
    parts = {
        "weights": on.weights,
        "links": links,
        "optimizer": device_bytes(state.opt_state),
        "update": memory.outputs - memory.alias,
        "batch": device_bytes(batch),
    }
    need = on.need(program, parts, beside=beside, caches=caches)
    if not on.chip:
        return StagePlan((need,))
    seconds = on.seconds(hlo.total_cycles(program.text))
    time = Time(on.measured, seconds, on.floor_of(step_floor(on)))
    return StagePlan((need,), (time,), (on.exchange(program),))


def step_floor(on: Stage) -> Work:
    """The least work of a training step."""
    accumulate = on.schedule.accumulate
    if on.stage == "inner":
        agent = heaviest(on.params)
        positions = inner_positions(on.context, agent, on.lengths)
        return training_floors.inner_step(on.share(agent), positions, accumulate)
    return training_floors.outer_step(
        on.context,
        parse_objective(on.given.objective),
        {agent: on.share(agent) for agent in on.outline.topology.agents},
        trained=on.given.outer.train,
        rounds=on.rounds,
        lengths=on.lengths,
        accumulate=accumulate,
    )
