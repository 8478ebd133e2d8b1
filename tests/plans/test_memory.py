"""What a step of outer training needs grows as `rmas.plans.memory` says."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.links import LinkSpec
from rmas.models import ModelSpec, abstract_params
from rmas.parallel import param_shardings
from rmas.plans.arguments import device_bytes, weight_bytes
from rmas.plans.memory import tail_bytes, turn_caches
from rmas.plans.programs import Program
from rmas.plans.training_steps import outer_step
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec
from rmas.training.loop import Schedule
from rmas.training.objectives import Lengths, TrainingContext
from rmas.training.optim import Optim
from rmas.weights.placement import heads_of
from support.fake_devices import mesh_of
from support.tiny_families import family_spec

PAIR = Topology(
    name="pair",
    agents=("one", "two"),
    edges=(Edge("one", "two", "round"), Edge("two", "one", "feedback")),
    output="two",
)
# All prompts have 48 positions, with 4 latent steps and with 16, and so has the one with the text.
ROWS, LENGTHS = 8, Lengths(prompt=30, text=2)


def context_of(spec: ModelSpec, steps: int, remat: bool = False) -> TrainingContext:
    specs = (("one", spec), ("two", spec))
    widths = tuple((agent, own.d_model) for agent, own in specs)
    links = LinkSpec("ln_res", widths, PAIR.link_edges)
    return TrainingContext(PAIR, SystemSpec(specs, links, remat), steps, 0.0, 0.0)


def growth(context: TrainingContext, rounds: int) -> tuple[int, int]:
    """Bytes of `(n + s) tail(M)` of the largest turn, and of all messages that are stored."""
    m = context.latent_steps
    size = math.isqrt(m - 1) if m > 4 else max(m - 1, 1)
    blocks = -(-(m - 1) // size)
    tails = max(tail_bytes(spec, ROWS, m - 1, jnp.float32) for _, spec in context.spec.models)
    widths = dict(context.spec.links.widths)
    messages = sum(4 * ROWS * m * widths[e.dst] for e in context.topology.edges)
    return (blocks + size) * tails, (rounds - 1) * messages


def turns_held(context: TrainingContext, rounds: int) -> int:
    """How many turns' activations XLA's CPU compiler holds at once (see the module)."""
    before, every = len(context.topology.before), len(context.topology.agents)
    return max(before, 1) if rounds == 1 else before + every if rounds == 2 else every


def step_of(context: TrainingContext, objective, mesh, **asked) -> Program:
    schedule = Schedule(Optim(steps=10), batch_size=ROWS, save_every=10)
    return outer_step(context, objective, schedule=schedule, lengths=LENGTHS, mesh=mesh, **asked)


@functools.cache
def need(family: str, rounds: int, steps: int, remat: bool = False) -> tuple[TrainingContext, int]:
    """The context, and the temporary memory of a step."""
    spec = family_spec(family, num_hidden_layers=4, hidden_size=64)
    context, params = context_of(spec, steps, remat), abstract_params(spec)
    trained, objective = ("inner", "outer"), (("rollout", 1.0),)
    agents = {"one": params, "two": params}
    program = step_of(context, objective, mesh_of(), params=agents, trained=trained, rounds=rounds)
    return context, program.memory.temporaries


@pytest.mark.extended
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("family", ["llama", "qwen3_5"])
def test_a_step_needs_what_the_formula_says(family):
    """Messages, tails and blocks, on top of what one turn with four steps needs.

    The loss of the text, as long as a prompt, needs no more than a turn.
    """
    context, least = need(family, 1, 4)
    tails, _ = growth(context, 1)
    prompt = least / turns_held(context, 1) - tails
    for rounds, steps in ((2, 4), (2, 16), (3, 16)):
        context, found = need(family, rounds, steps)
        tails, messages = growth(context, rounds)
        wanted = turns_held(context, rounds) * (prompt + tails) + messages
        ratio = found / wanted
        assert 1 / 1.3 < ratio < 1.3, (rounds, steps, ratio)


@pytest.mark.extended
def test_checkpointed_layers_need_less():
    assert need("llama", 3, 16, True)[1] < need("llama", 3, 16)[1]


def test_parts_of_one_device():
    """Weights and moments are split as they would be placed, and rows over the mesh."""
    spec = family_spec("qwen3", num_hidden_layers=1)
    context, mesh = context_of(spec, 2), mesh_of(2, 2, 2)
    params = abstract_params(spec)
    at = param_shardings(mesh, params, heads_of(spec))
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, at
    )
    agents = {"one": params, "two": params}
    program = step_of(context, (("align", 1.0),), mesh, params=agents, trained=("outer",), rounds=1)
    state, (own, _), batch = program.arguments
    sizes = jax.tree.map(lambda x: int(np.prod(x.sharding.shard_shape(x.shape))) * 4, params)
    assert weight_bytes(own) == sum(jax.tree.leaves(sizes))
    whole = sum(4 * x.size for x in jax.tree.leaves(params))
    assert weight_bytes(own) < whole / 3
    moments = device_bytes(state.opt_state)
    assert 1.8 < moments / device_bytes(state.links) < 2.2
    caches = turn_caches(context, ROWS, LENGTHS, mesh)
    assert 0 < caches < turn_caches(context, ROWS, LENGTHS, mesh_of())
    assert device_bytes(batch) > 0
    assert program.memory.temporaries > 0
