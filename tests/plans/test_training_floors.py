"""Floors of training steps against the products that their programs have, counted one by one."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from rmas import parallel
from rmas.links import LinkSpec, init_links
from rmas.models import abstract_params
from rmas.plans import training_floors
from rmas.plans.floors import Share, Work
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec
from rmas.training.objectives import OBJECTIVES, Lengths, TrainingContext, inner_loss, system_loss
from rmas.training.objectives.base import abstract, zero_text
from support.tiny_families import family_spec

PAIR = Topology(
    name="pair",
    agents=("first", "out"),
    edges=(Edge("first", "out", "round"), Edge("out", "first", "feedback")),
    output="out",
)
# What `late` says is read in the next round alone, and what `after` says, by `late`.
ODD = Topology(
    name="odd",
    agents=("late", "first", "out", "after"),
    edges=(
        *PAIR.edges,
        Edge("late", "first", "feedback"),
        Edge("out", "after", "round"),
        Edge("after", "late", "feedback"),
    ),
    output="out",
)
# Nearly all products are those of layers' matrices.
MODEL = family_spec("qwen3", hidden_size=64, intermediate_size=2048, num_hidden_layers=3)
ROWS, LENGTHS = 4, Lengths(prompt=12, text=4)
SHARE = Share(MODEL, parallel.abstract_mesh(parallel.parse_mesh("single"), 1), ROWS, jnp.float32)
BOTH = ("inner", "outer")


def context_of(steps: int, topology: Topology = PAIR, remat: bool = False) -> TrainingContext:
    specs = tuple((agent, MODEL) for agent in topology.agents)
    widths = tuple((agent, MODEL.d_model) for agent in topology.agents)
    links = LinkSpec("linear", widths, topology.link_edges)
    return TrainingContext(topology, SystemSpec(specs, links, remat), steps, 0.5, 0.0)


def products(jaxpr) -> int:
    """Products of all `dot_general`s, as often as scans run them."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inside = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            total += inside * math.prod(eqn.outvars[0].aval.shape)
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for value in eqn.params.values():
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                total += times * products(inside)
    return total


def counted(loss, *args) -> int:
    """Operations of a loss with its gradient, without those whose results nothing reads."""
    found = jax.make_jaxpr(jax.value_and_grad(loss))(*args).jaxpr
    found, _ = partial_eval.dce_jaxpr(found, [True] * len(found.outvars), instantiate=True)
    return 2 * products(found)


def links_of(context: TrainingContext):
    return jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))


def outer(name, context, rounds, trained, share=SHARE, accumulate=1) -> Work:
    return training_floors.outer_step(
        context,
        ((name, 1.0),),
        dict.fromkeys(context.topology.agents, share),
        trained=trained,
        rounds=rounds,
        lengths=LENGTHS,
        accumulate=accumulate,
    )


@pytest.mark.parametrize(
    ("topology", "rounds", "steps", "trained"),
    [(PAIR, 2, 8, BOTH), (PAIR, 2, 8, ("outer",)), (ODD, 1, 3, BOTH)],
    ids=["pair", "outer alone", "odd"],
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_outer_step_counts_what_its_program_multiplies(name, topology, rounds, steps, trained):
    context = context_of(steps, topology)
    params = dict.fromkeys(topology.agents, abstract_params(MODEL))
    batch = OBJECTIVES[name].abstract_batch(context, rounds, ROWS, LENGTHS)
    links = links_of(context)

    def loss(own, fixed, params, batch):
        key = jax.random.key(0)
        return system_loss(context, ((name, 1.0),), params, fixed | own, {name: batch}, key)[0]

    own = {part: links[part] for part in trained}
    found = counted(loss, own, links, params, batch)
    assert 1 <= found / outer(name, context, rounds, trained).flops < 1.02


def test_layers_that_are_computed_again_come_on_top():
    again, once = (context_of(8, remat=remat) for remat in (True, False))
    assert outer("rollout", again, 2, BOTH) == outer("rollout", once, 2, BOTH)


def test_an_inner_step_is_one_pass():
    context, positions = context_of(3), 48
    links = links_of(context)["inner"]["out"]
    batch = abstract(lambda: zero_text(ROWS, positions=positions))

    def loss(inner, params, batch):
        return inner_loss(context, "out", params, {"inner": {"out": inner}, "outer": {}}, batch)

    found = counted(loss, links, abstract_params(MODEL), batch)
    assert 1 <= found / training_floors.inner_step(SHARE, positions).flops < 1.02


@pytest.mark.parametrize("name", ["inner", *OBJECTIVES])
def test_accumulation_reads_weights_for_every_part(name):
    """The same products in parts of a quarter of the rows; weights are read for each."""

    def floor(share: Share, accumulate: int) -> Work:
        if name == "inner":
            return training_floors.inner_step(share, 48, accumulate)
        return outer(name, context_of(8), 2, BOTH, share, accumulate)

    whole, parts = floor(SHARE, 1), floor(dataclasses.replace(SHARE, rows=ROWS // 4), 4)
    assert parts.flops == pytest.approx(whole.flops, rel=1e-12)
    assert 3.5 < parts.bytes / whole.bytes <= 4
