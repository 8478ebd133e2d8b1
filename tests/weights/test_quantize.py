"""Int8 weights: how near they are, what stays as it is, and that loading gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.models import abstract_params, read_spec
from rmas.parallel import param_shardings, placer
from rmas.weights import load_params, save_params
from rmas.weights.placement import heads_of
from rmas.weights.quantize import is_quantized, quantize, quantize_kernel
from support.fake_devices import mesh_of
from support.tiny_families import FAMILIES, family_params, family_spec


def flat(tree) -> dict:
    return {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(24, 10), (3, 24, 10)], ids=["one", "stacked"])
def test_every_weight_is_within_half_a_step(shape, dtype):
    """Channels of very different sizes: a scale for each, not one for all."""
    kernel = np.random.default_rng(0).standard_normal(shape) * np.logspace(-6, 6, shape[-1])
    kernel = jnp.asarray(kernel, dtype)
    made = quantize_kernel(kernel)
    q, scale = np.asarray(made["kernel"]), np.asarray(made["scale"], np.float64)
    assert q.dtype == np.int8
    assert made["scale"].dtype == jnp.float32
    assert (q.shape, scale.shape) == (shape, (*shape[:-2], shape[-1]))
    error = np.abs(q * scale[..., None, :] - np.asarray(kernel, np.float64))
    assert (error <= scale[..., None, :] * (0.5 + 1e-4)).all()
    # Symmetric, and the whole range used in every channel.
    assert (np.abs(q).max(axis=-2) == 127).all()
    np.testing.assert_array_equal(quantize_kernel(-kernel)["kernel"], -q)


def test_a_channel_of_zeros_stays_zero():
    kernel = jnp.zeros((8, 3)).at[:, 1].set(jnp.arange(8.0))
    made = quantize_kernel(kernel)
    np.testing.assert_array_equal(made["scale"], np.float32([1, 7 / 127, 1]))
    assert not made["kernel"][:, [0, 2]].any()


def test_the_argument_is_left_alone():
    kernel = jnp.ones((4, 4))
    quantize({"up_proj": {"kernel": kernel}})
    assert not kernel.is_deleted()


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_alone_are_quantised(family):
    """Embeddings, norms, biases, convolutions and decays are the same arrays."""
    spec = family_spec(family)
    params = family_params(spec)
    before, after = flat(params), flat(quantize(params))
    matrices = {path for path in before if is_quantized(path)}
    assert matrices == {
        path for path in before if path.endswith("_proj/kernel") or path == "head/kernel"
    }
    assert ("head/kernel" in matrices) == (not spec.tied)
    assert after.keys() == before.keys() | {p.replace("kernel", "scale") for p in matrices}
    for path in before.keys() - matrices:
        assert after[path] is before[path], path
    for path in matrices:
        made = quantize_kernel(before[path])
        np.testing.assert_array_equal(after[path], made["kernel"])
        np.testing.assert_array_equal(after[path.replace("kernel", "scale")], made["scale"])
    kept = {path.split("/")[-2] for path in before.keys() - matrices}
    if family == "qwen3_5":
        assert {"embed", "input_norm", "q_conv", "delta"} <= kept


@pytest.mark.parametrize("family", ["qwen2", "qwen3_5"])
def test_shapes_without_memory(family):
    spec = family_spec(family)
    shapes = jax.eval_shape(quantize, abstract_params(spec))
    made = quantize(family_params(spec))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), made
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with biases and a head of its own."""
    path = tmp_path_factory.mktemp("qwen2")
    spec = family_spec("qwen2", tie_word_embeddings=False, num_hidden_layers=3)
    save_params(spec, family_params(spec), path)
    return path


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (1, 2, 4)], ids=str)
def test_loading_gives_the_same_bits(folder, sizes, dtype):
    """Also on a mesh, where kernels and scales lie by the rules; KV heads do not divide by 4."""
    spec = read_spec(folder)
    mesh = mesh_of(*sizes)
    place = placer(mesh, heads_of(spec))
    loaded = load_params(spec, folder, dtype, place, quantize=True)
    expected = quantize(load_params(spec, folder, dtype))
    found, wanted = flat(loaded), flat(expected)
    assert found.keys() == wanted.keys()
    for path, x in found.items():
        assert x.dtype == wanted[path].dtype, path
        np.testing.assert_array_equal(x, wanted[path], err_msg=path)
    for path, sharding in flat(param_shardings(mesh, loaded, heads_of(spec))).items():
        assert found[path].sharding.is_equivalent_to(sharding, found[path].ndim), path
    layer, kv = "layers/period/0/", "tensor" if sizes[2] == 2 else None
    named = {
        "attention/q_proj/kernel": (None, "fsdp", "tensor"),
        "attention/q_proj/scale": (None, "tensor"),
        "attention/k_proj/scale": (None, kv),
        "attention/o_proj/scale": (None, "fsdp"),
        "mlp/down_proj/kernel": (None, "tensor", "fsdp"),
    }
    for path, entries in named.items():
        x = found[layer + path]
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, P(*entries)), x.ndim), path
