"""Constraints inside jitted functions, and batches on the mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.parallel import batch_multiple, constrain, put_batch, replicated, single_device_mesh, use
from support.fake_devices import mesh_of


def lies(x, mesh, *spec) -> bool:
    return x.sharding.is_equivalent_to(NamedSharding(mesh, P(*spec)), x.ndim)


def rolled(x_BHD, constrained=True):
    """A scan whose carry and outputs get their sharding from one constraint in its body."""

    def body(x_BHD, _):
        x_BHD = jnp.sin(x_BHD)
        if constrained:
            x_BHD = constrain(x_BHD, "batch", "kv_heads", None)
        return x_BHD, x_BHD

    return lax.scan(body, x_BHD, None, length=3)


def test_constraint_in_a_scan_decides_where_arrays_lie():
    mesh, x_BHD = mesh_of(2, 2, 2), np.ones((8, 6, 5), np.float32)
    with use(mesh):
        last, each = jax.jit(rolled)(x_BHD)
        free, _ = jax.jit(functools.partial(rolled, constrained=False))(x_BHD)
    assert lies(free, mesh)
    assert lies(last, mesh, ("data", "fsdp"), "tensor")
    assert lies(each, mesh, None, ("data", "fsdp"), "tensor")
    assert {shard.data.shape for shard in last.addressable_shards} == {(2, 3, 5)}
    np.testing.assert_allclose(last, jax.jit(rolled)(x_BHD)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "meanings", "spec"),
    [
        ((8, 4), ("batch", "heads"), (("data", "fsdp"), "tensor")),
        ((6, 4), ("batch", "heads"), (None, "tensor")),  # 6 rows over 4
        ((8, 3), ("batch", "kv_heads"), (("data", "fsdp"), None)),
        ((8, 533), ("batch", "vocab"), (("data", "fsdp"), None)),
        ((8, 4), (None, None), ()),
        ((8, 4), (None, "delta_heads"), (None, "tensor")),
    ],
)
def test_axes_that_do_not_divide_are_whole_everywhere(shape, meanings, spec):
    mesh = mesh_of(2, 2, 2)
    # Split otherwise on the way in, so that None has something to undo.
    x = jax.device_put(np.ones(shape), NamedSharding(mesh, P("fsdp")))
    with use(mesh):
        y = jax.jit(lambda x: constrain(x * 2, *meanings))(x)
    assert lies(y, mesh, *spec)


def test_constraints_transform():
    mesh, x_BHD = mesh_of(2, 2, 2), np.linspace(-1, 1, 96, dtype=np.float32).reshape(3, 8, 4)

    def loss(x_HD):
        step = jax.checkpoint(lambda x: jnp.sin(constrain(x, "batch", "heads")) * x)
        return jnp.sum(lax.scan(lambda x, _: (step(x), None), x_HD, None, length=4)[0])

    def run():
        return jax.jit(jax.vmap(jax.value_and_grad(loss)))(x_BHD)

    with use(mesh):
        value, grad = run()
    assert lies(grad, mesh, None, ("data", "fsdp"), "tensor")
    for ours, plain in zip((value, grad), run(), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_without_our_mesh_nothing_is_added():
    x = jnp.ones((8, 4))

    def f(x):
        return constrain(x, "batch", "heads")

    def count():
        return len(jax.make_jaxpr(f)(x).eqns)

    assert count() == 0
    assert f(x) is x
    assert jax.eval_shape(f, x).shape == (8, 4)
    with jax.set_mesh(jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert count() == 0
    with use(single_device_mesh()):
        assert count() == 0
    with use(mesh_of(2, 2, 2)):
        assert count() == 1
        assert jax.eval_shape(f, x).shape == (8, 4)


def test_wrong_meanings_are_refused_with_or_without_a_mesh():
    with pytest.raises(ValueError, match=r"1 meanings for an array of shape \(8, 4\)"):
        constrain(jnp.ones((8, 4)), "batch")
    with pytest.raises(ValueError, match="unknown meanings of axes: rows"):
        constrain(jnp.ones((8, 4)), "rows", None)


def test_batches_are_split_by_rows():
    mesh = mesh_of(2, 2, 2)
    tree = {
        "ids": np.arange(3 * 8 * 5, dtype=np.int32).reshape(3, 8, 5),
        "valid": np.arange(24).reshape(3, 8) % 3 == 0,
    }
    assert batch_multiple(mesh) == 4
    placed = put_batch(mesh, tree, axis=1)
    for name, x in placed.items():
        assert lies(x, mesh, None, ("data", "fsdp"))
        assert x.addressable_shards[0].data.shape == (3, 2, *tree[name].shape[2:])
        assert x.dtype == tree[name].dtype
        np.testing.assert_array_equal(x, tree[name])
    rows = put_batch(mesh, np.arange(8.0, dtype=np.float32))
    assert lies(rows, mesh, ("data", "fsdp"))


@pytest.mark.parametrize(("shape", "axis"), [((6, 8), 0), ((8, 6), 1), ((8,), 1)])
def test_batches_that_do_not_divide_are_refused(shape, axis):
    with pytest.raises(ValueError, match=f"a multiple of 4 rows along axis {axis}"):
        put_batch(mesh_of(2, 2, 2), [np.zeros(shape)], axis)


def test_a_mesh_of_one_device():
    mesh = single_device_mesh()
    assert batch_multiple(mesh) == 1
    x = put_batch(mesh, {"x": np.ones((3, 2), np.float32)})["x"]
    assert x.sharding == NamedSharding(mesh, P(("data", "fsdp")))
    assert x.devices() == {jax.devices()[0]}
    assert replicated(mesh).device_set == x.devices()
    y = jax.device_put(np.ones(3), replicated(mesh_of(2, 2, 2)))
    assert len(y.addressable_shards) == 8
    assert y.is_fully_replicated
