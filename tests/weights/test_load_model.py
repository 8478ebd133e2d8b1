"""`rmas.load_model`: one frozen model with its three functions, from a folder."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import rmas
from rmas import models
from rmas.errors import InputError
from support.fake_devices import mesh_of
from support.released_tiny import TINY

IDS = np.random.default_rng(0).integers(0, 40, (2, 9))
VALID = np.array([[1] * 9, [0] * 4 + [1] * 5], bool)


@pytest.fixture(scope="module")
def loaded():
    return rmas.load_model(TINY / "planner")


def test_its_functions_are_those_of_the_library(loaded):
    model, params = loaded
    x = model.embed(params, IDS)
    h = model.run(params, x, VALID)
    logits = model.unembed(params, h)
    spec = model.spec
    assert (x.shape, h.shape) == ((2, 9, spec.d_model),) * 2
    assert logits.shape == (2, 9, spec.vocab_size)
    assert logits.dtype == jnp.float32
    expected, _ = models.run(spec, params, x, VALID, models.positions(VALID))
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(x, models.embed(spec, params, IDS))


def test_padding_changes_nothing(loaded):
    model, params = loaded
    x = model.embed(params, IDS)
    h = model.run(params, x, VALID)
    alone = model.run(params, x[1:, 4:], np.ones((1, 5), int))
    np.testing.assert_allclose(h[1:, 4:], alone, rtol=0, atol=2e-5)


def test_each_function_compiles_once_per_shape(loaded):
    model, params = loaded
    traces = []

    def count(event: str, duration: float, **_) -> None:
        if event.endswith("jaxpr_trace_duration"):
            traces.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        model.run(params, model.embed(params, IDS), VALID)
        traces.clear()
        again, other = rmas.load_model(TINY / "planner")
        before = len(traces)
        assert again == model
        again.run(other, again.embed(other, IDS), VALID)
        assert len(traces) == before
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_types_and_meshes(loaded):
    model, params = loaded
    h = model.run(params, model.embed(params, IDS), VALID)
    mesh = mesh_of(1, 2, 2)
    same, split = rmas.load_model(TINY / "planner", mesh=mesh)
    _, by_text = rmas.load_model(TINY / "planner", mesh="data=2,fsdp=2,tensor=2")
    assert by_text["norm"]["weight"].sharding.mesh.shape == {"data": 2, "fsdp": 2, "tensor": 2}
    kernel = split["layers"]["period"]["0"]["mlp"]["up_proj"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")
    assert same.spec == model.spec
    np.testing.assert_allclose(same.run(split, same.embed(split, IDS), VALID), h, rtol=0, atol=2e-4)
    _, low = rmas.load_model(TINY / "planner", dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype(jnp.bfloat16)}
    _, small = rmas.load_model(TINY / "planner", quantize=True)
    assert small["layers"]["period"]["0"]["mlp"]["up_proj"]["kernel"].dtype == jnp.int8


def test_a_mesh_as_jax_makes_it_will_do(loaded):
    model, params = loaded
    ids, valid = np.tile(IDS, (2, 1)), np.tile(VALID, (2, 1))
    h = model.run(params, model.embed(params, ids), valid)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    same, split = rmas.load_model(TINY / "planner", mesh=mesh)
    split_h = same.run(split, same.embed(split, ids), valid)
    np.testing.assert_allclose(split_h, h, rtol=0, atol=2e-4)
    assert split_h.sharding.spec[0] == ("data", "fsdp")


@pytest.mark.parametrize("dtype", ["int8", "bf16", "float64", "int32"])
def test_types_that_weights_cannot_have_are_told(dtype):
    with pytest.raises(InputError, match=f"dtype '?{dtype}"):
        rmas.load_model(TINY / "planner", dtype=dtype)


def test_a_mesh_with_other_axes_is_told():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    with pytest.raises(InputError, match=r"axes \(x\); it needs data, fsdp, tensor"):
        rmas.load_model(TINY / "planner", mesh=mesh)


def test_a_name_that_is_nothing_is_told():
    with pytest.raises(InputError, match="is not a folder; expected a folder or a Hub id"):
        rmas.load_model("no such thing")


def test_importing_the_package_is_light():
    code = "import sys, rmas; assert 'jax' not in sys.modules, 'jax'; rmas.load_model"
    subprocess.run([sys.executable, "-c", code], check=True)
