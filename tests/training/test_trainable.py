"""What is trained in place of links: gradients by definition, copies, meshes, checkpoints."""

import dataclasses
import functools
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rmas.errors import InputError
from rmas.parallel import put_batch, put_whole, use
from rmas.tasks.rows import Row
from rmas.training import optim
from rmas.training.loop import Schedule
from rmas.training.objectives import OBJECTIVES, batch_axes
from rmas.training.optim import Optim
from rmas.training.outer import train_system, trainable_loss
from rmas.training.step import init_train_state, make_step, shardings_of
from rmas.training.trainable import (
    full_trainable,
    init_adapters,
    init_full,
    links_trainable,
    lora_trainable,
)
from rmas.weights.agents import AgentParams
from rmas.weights.lora import merge_lora, with_lora
from rmas.weights.quantize import quantize
from support.fake_devices import mesh_of
from support.tiny_training import PAIR, SELF, Case, make_examples, make_rows, on_mesh

ALPHA, RANK = 4.0, 2
ROWS = make_rows(4)
KEY = jax.random.key(3)
extended = functools.partial(pytest.param, marks=pytest.mark.extended)


def make_case(topology=SELF, dtype=np.float64, **changes) -> Case:
    """Two rounds and latent steps; prompts have preambles."""
    changes = {"rounds": 2, "latent_steps": 2} | changes
    return Case(make_examples(topology, dtype, question_first=True, **changes), on_policy=0.5)


def random_adapters(params, dtype=np.float64):
    random = np.random.default_rng(5)
    made = jax.eval_shape(lambda p: init_adapters(p, RANK, jax.random.key(0)), dict(params))
    return jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape) * 0.3, dtype), made)


def trainable(kind, case, mesh=None, dtype=None):
    mesh = mesh or mesh_of()
    dtype = dtype or jax.tree.leaves(case.params)[0].dtype
    args = dict(case.context.spec.models), case.params, case.links, mesh
    if kind == "lora":
        return lora_trainable(*args, rank=RANK, alpha=ALPHA)
    return full_trainable(*args, dtype)


def prepare(name, case, rows=ROWS):
    return {name: OBJECTIVES[name].prepare(case.examples, rows)}


def gradient(what, case, name, trained, rows=ROWS):
    """Of the loss in what is trained."""
    loss = trainable_loss(what, case.context, ((name, 1.0),))
    batch = prepare(name, case, rows)
    return jax.jit(jax.grad(lambda t, f, b: loss(t, f, b, KEY)[0]))(trained, what.frozen, batch)


def chain_rule(adapter, whole):
    """The factors' gradient from that of the merged kernels."""
    if "lora_a" not in adapter:
        return {name: chain_rule(own, whole[name]) for name, own in adapter.items()}
    g_DF, scale = whole["kernel"], ALPHA / RANK
    flip = functools.partial(np.swapaxes, axis1=-1, axis2=-2)
    return {
        "lora_a": scale * g_DF @ flip(adapter["lora_b"]),
        "lora_b": scale * flip(adapter["lora_a"]) @ g_DF,
    }


def close(found, wanted, tolerance=1e-9):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for x, y in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert x.dtype == y.dtype == np.float64
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, np.abs(y).max()))


@pytest.mark.parametrize(
    ("name", "topology", "remat"),
    [
        ("rollout", SELF, True),
        extended("rollout", PAIR, False),
        extended("align", PAIR, True),
        extended("teacher_forced", PAIR, True),
    ],
)
def test_gradients_of_adapters_follow_the_chain_rule(name, topology, remat):
    """Against the gradient of all weights of the merged model, which has its own test below."""
    with jax.enable_x64(True):
        case = make_case(topology)
        case.context = with_remat(case.context, remat)
        adapters = random_adapters(case.params)
        found = gradient(trainable("lora", case), case, name, adapters)
        merged = {a: merge_lora(p, adapters[a], ALPHA) for a, p in case.params.items()}
        whole = gradient(trainable("full", case), case, name, merged)
        close(found, {a: chain_rule(adapters[a], whole[a]) for a in adapters})


@pytest.mark.parametrize(
    ("name", "topology"),
    [extended("rollout", SELF), extended("rollout", PAIR), extended("teacher_forced", PAIR)],
)
def test_gradients_of_all_weights_are_those_of_the_definition(name, topology):
    """Prompts, preambles, latent steps, messages and texts; row by row, without caches."""
    with jax.enable_x64(True):
        case = make_case(topology)
        rows = ROWS[: len(topology.agents)]
        found = gradient(trainable("full", case), case, name, dict(case.params), rows)

        def defined(params, row):
            other = dataclasses.replace(case)
            other.params = params
            return getattr(other, name)(case.links, row)

        each = [jax.grad(defined)(dict(case.params), row) for row in rows]
        close(found, jax.tree.map(lambda *x: sum(x) / len(x), *each))


def with_remat(context, remat):
    return dataclasses.replace(context, spec=dataclasses.replace(context.spec, remat=remat))


def test_targets_of_align_are_constants():
    """The loss falls by what agents do, not by moving the embeddings that it wants."""
    with jax.enable_x64(True):
        case = make_case(PAIR, rounds=1, latent_steps=1)
        row = Row("row", "ab", "c", {"critic": ("hi",), "solver": ("l",)})
        found = gradient(trainable("full", case), case, "align", dict(case.params), [row])
        table_VD = np.asarray(found["critic"]["embed"]["weight"])
        wanted, read = (case.ids("critic", each, 0)[0] for each in (row, as_text(row)))
    assert np.any(table_VD[read])
    assert not np.any(table_VD[wanted])


def as_text(row):
    """A row whose critic says the question."""
    return dataclasses.replace(row, texts={"critic": (row.question,)})


# Steps of training.


def run_steps(kind, case, mesh, accumulate=1, steps=2, dtype=jnp.float64):
    """The state after some steps on a mesh, and their losses."""
    what = trainable(kind, case, mesh, dtype)
    optimizer = optim.make(Optim(steps=5, lr=0.01, warmup_steps=0, weight_decay=0.1))
    start = random_adapters(case.params) if kind == "lora" else init_full(case.params, dtype)
    state = init_train_state(jax.tree.map(jnp.array, start), optimizer)
    shardings = shardings_of(mesh, jax.eval_shape(lambda: state), optimizer, what.shardings)
    state = put_whole(state, shardings)
    name = "teacher_forced"
    axes = batch_axes(((name, 1.0),))
    loss = trainable_loss(what, case.context, ((name, 1.0),))
    step = make_step(loss, optimizer, 0, shardings, mesh, axes, accumulate, gather=False)
    losses = []
    with use(mesh):
        batch = put_batch(mesh, prepare(name, case, make_rows(8)), axes)
        for _ in range(steps):
            state, metrics = step(state, what.frozen, batch)
            losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize(("kind", "topology"), [extended("lora", PAIR), extended("full", SELF)])
def test_a_mesh_and_accumulation_change_nothing(kind, topology):
    mesh = mesh_of(2, 2, 2)
    with jax.enable_x64(True):
        case = make_case(topology, max_latent_tokens=2)
        wanted, losses = run_steps(kind, case, mesh_of())
        placed = Case(on_mesh(case.examples, mesh), on_policy=0.5)
        placed.context = with_remat(placed.context, topology is PAIR)
        found, found_losses = run_steps(kind, placed, mesh, accumulate=2)
    close(found.links, wanted.links)
    np.testing.assert_allclose(found_losses, losses, rtol=0, atol=1e-9)
    assert losses[1] < losses[0]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_weights_and_moments_lie_as_those_of_agents(kind):
    mesh, case = mesh_of(2, 2, 2), make_case(dtype=np.float32)
    what, optimizer = trainable(kind, case, mesh), optim.make(Optim(steps=5))
    shapes = jax.eval_shape(lambda links: init_train_state(links, optimizer), what.template)
    found = shardings_of(mesh, shapes, optimizer, what.shardings)
    assert jax.tree.structure(found) == jax.tree.structure(shapes)
    own = found.opt_state[1][0]
    assert own.mu == own.nu == found.links == what.shardings
    layer = found.links["solver"]["layers"]["period"]["0"]["mlp"]["down_proj"]
    wanted = {
        "lora": {"lora_a": P(None, "tensor", None), "lora_b": P(None, None, "fsdp")},
        "full": {"kernel": P(None, "tensor", "fsdp")},
    }
    assert {name: at.spec for name, at in layer.items()} == wanted[kind]
    assert own.count.spec == found.step.spec == P()


def size(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("int8", [True, extended(False)])
def test_agents_that_share_weights_share_them_with_adapters(int8):
    """One copy by the bytes that a compiled step reads; each agent has its own adapter."""
    case = make_case(PAIR, np.float32)
    one = case.params["critic"]
    one = quantize(one) if int8 else one
    spec = case.context.spec.model("critic")
    models = {"critic": spec, "solver": spec}
    params = AgentParams(critic=one, solver=one)
    what = lora_trainable(models, params, {}, mesh_of(), rank=RANK, alpha=ALPHA)

    def both(trained, frozen):
        agents, _ = what.assemble(trained, frozen)
        return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(dict(agents)))

    compiled = jax.jit(both).lower(what.template, what.frozen).compile()
    needs = compiled.memory_analysis().argument_size_in_bytes
    assert needs == size(one) + size(what.template)
    adapters = init_adapters(params, RANK, jax.random.key(0))
    a, b = (jax.tree.leaves(adapters[agent])[0] for agent in ("critic", "solver"))
    assert np.any(a != b)
    if not int8:
        full = full_trainable(models, params, {}, mesh_of())
        assert size(full.template) == 2 * size(one)


def test_full_training_of_int8_weights_is_refused():
    case = make_case(dtype=np.float32)
    case.params = {agent: quantize(own) for agent, own in case.params.items()}
    with pytest.raises(InputError, match="full fine-tuning cannot change int8 weights"):
        trainable("full", case, dtype=jnp.float32)


@pytest.mark.parametrize("kind", ["lora", extended("full")])
def test_training_leaves_all_else_as_it_was_and_resumes(kind, tmp_path):
    int8 = kind == "lora"
    case = make_case(SELF if int8 else PAIR, np.float32)
    if int8:
        case.params = AgentParams((a, quantize(own)) for a, own in case.params.items())
    before = jax.tree.map(np.array, (dict(case.params), case.links))
    what = trainable(kind, case, dtype=jnp.float32)
    start = {
        "lora": jax.jit(lambda: init_adapters(case.params, RANK, jax.random.key(0))),
        "full": lambda: init_full(case.params),
    }[kind]

    def run(folder, start):
        return train_system(
            what,
            (("teacher_forced", 1.0),),
            folder=folder,
            context=case.context,
            start=start,
            examples=case.examples,
            source=ROWS,
            schedule=Schedule(Optim(steps=4, lr=1e-2, warmup_steps=0), 2, 2),
            seed=1,
        )

    trained = run(tmp_path / "a", start)
    same_bits((dict(case.params), case.links), before)
    moved = jax.tree.map(lambda x, y: bool(np.any(x != y)), trained["solver"], start()["solver"])
    assert all(jax.tree.leaves(moved)) if kind == "lora" else any(jax.tree.leaves(moved))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "4")
    same_bits(run(tmp_path / "b", lambda: pytest.fail("made again")), trained)
    if kind == "lora":
        agents, _ = what.assemble(trained, what.frozen)
        joined = with_lora(case.params["solver"], trained["solver"], ALPHA)
        same_bits(agents["solver"], joined)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_parts_of_links():
    case = make_case(dtype=np.float32)
    what = links_trainable(case.spec.links, case.params, {"inner": case.links["inner"]})
    assert list(what.template) == ["outer"]
    agents, links = what.assemble({"outer": case.links["outer"]}, what.frozen)
    assert agents is case.params
    assert links == case.links
