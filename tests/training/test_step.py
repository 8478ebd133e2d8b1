"""A step on eight fake devices: where its arrays lie, one program, and the same numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rmas.parallel import Share, batch_share, put_batch, put_whole, state_shardings, use
from rmas.training import optim
from rmas.training.optim import Optim
from rmas.training.step import init_train_state, make_step
from support.fake_devices import mesh_of

AXES = {"one": 0, "two": 1}


def links(dtype):
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(8, 6)), random.normal(size=6)
    return {"outer": {"a->b": {"kernel": kernel.astype(dtype), "bias": bias.astype(dtype)}}}


def batch(dtype):
    random = np.random.default_rng(1)
    return {
        "one": random.normal(size=(16, 8)).astype(dtype),
        "two": random.normal(size=(3, 16, 6)).astype(dtype),
    }


def steps(mesh, accumulate, dtype=np.float64, traced=None):
    """Three steps; the last state and the metrics of each."""

    def loss(links, frozen, batch, key):
        if traced is not None:
            traced.append(batch["one"].shape)
        own = links["outer"]["a->b"]
        y = jnp.tanh(batch["one"] @ own["kernel"]) + own["bias"]
        error_RB = jnp.mean((y - frozen * batch["two"]) ** 2, axis=-1)
        return jnp.mean(error_RB), {"error/round": jnp.mean(error_RB, axis=1)}

    optimizer = optim.make(Optim(steps=5, lr=0.1, warmup_steps=0))
    state = init_train_state(links(dtype), optimizer)
    shardings = state_shardings(mesh, jax.eval_shape(lambda: state))
    state = put_whole(state, shardings)
    step = make_step(loss, optimizer, 0, shardings, mesh, AXES, accumulate)
    found = []
    with use(mesh):
        for _ in range(3):
            state, metrics = step(state, dtype(0.5), put_batch(mesh, batch(dtype), AXES))
            found.append(metrics)
    return state, found


@pytest.mark.parametrize(("sizes", "accumulate"), [((2, 2, 2), 1), ((4, 2, 1), 2)])
def test_mesh_and_parts_change_nothing(sizes, accumulate):
    traced = []
    with jax.enable_x64(True):
        state, metrics = steps(mesh_of(), 1)
        found, found_metrics = steps(mesh_of(*sizes), accumulate, traced=traced)
        for x, y in zip(*map(jax.tree.leaves, (found, state)), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)
        for x, y in zip(*map(jax.tree.leaves, (found_metrics, metrics)), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)
    # One program: traced once, and once more for the shapes of a part.
    assert traced == [(16 // accumulate, 8)] * accumulate
    assert metrics[0]["error/round"].shape == (3,)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_the_state_is_written_over(sizes):
    """The program needs no second state, and the one that it was given is gone."""
    mesh = mesh_of(*sizes)
    optimizer = optim.make(Optim(steps=5))
    state = init_train_state(jax.tree.map(jnp.asarray, links(np.float32)), optimizer)
    shardings = state_shardings(mesh, jax.eval_shape(lambda: state))
    state = put_whole(state, shardings)

    def loss(links, frozen, batch, key):
        return jnp.mean(batch["one"] @ links["outer"]["a->b"]["kernel"]), {}

    step = make_step(loss, optimizer, 0, shardings, mesh, AXES)
    with use(mesh):
        rows = put_batch(mesh, batch(np.float32), AXES)
        needs = step.lower(state, None, rows).compile().memory_analysis()
        found, _ = step(state, None, rows)
    parts = [x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(state)]
    assert needs.alias_size_in_bytes == sum(4 * math.prod(shape) for shape in parts)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves((found, rows)))


def test_where_the_state_and_a_batch_lie():
    """Links and both moments of a matrix lie split over fsdp, vectors whole, rows split."""
    mesh = mesh_of(2, 2, 2)
    state, metrics = steps(mesh, 1, np.float32)
    matrices = [x for x in jax.tree.leaves(state) if x.shape == (8, 6)]
    assert len(matrices) == 3
    for x in matrices:
        assert x.sharding.spec == P("fsdp")
        assert {piece.data.shape for piece in x.addressable_shards} == {(4, 6)}
    assert all(x.is_fully_replicated for x in jax.tree.leaves(state) if x.ndim < 2)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(metrics))
    rows = put_batch(mesh, batch(np.float32), AXES)
    assert {piece.data.shape for piece in rows["one"].addressable_shards} == {(4, 8)}
    assert {piece.data.shape for piece in rows["two"].addressable_shards} == {(3, 4, 6)}


def test_an_axis_that_divides_is_taken():
    shapes = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in {"odd": (7, 5), "late": (7, 4), "first": (4, 8), "one": (8,)}.items()
    }
    found = state_shardings(mesh_of(2, 2, 2), shapes)
    specs = {name: at.spec for name, at in found.items()}
    assert specs == {"odd": P(), "late": P(None, "fsdp"), "first": P("fsdp"), "one": P()}


def test_a_share_is_a_block_of_rows():
    assert batch_share(mesh_of(4, 2, 1)) == Share(0, 1)  # one process has all
    assert Share(1, 4).of(12) == slice(3, 6)
    whole = np.arange(8.0)
    mesh = mesh_of(2, 1, 1)
    np.testing.assert_array_equal(put_batch(mesh, whole), whole)
    with pytest.raises(ValueError, match="needs a multiple of 2 rows along axis 0"):
        put_batch(mesh, whole[:3])
