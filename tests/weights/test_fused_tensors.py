"""Tensors of which several parameters are parts: read in any slice, checked, written whole."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rmas.errors import InputError
from rmas.models import abstract_params, parse_spec
from rmas.weights import load_params, save_params

CONFIG = {
    "model_type": "qwen3_5_text", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 5, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
    "tie_word_embeddings": True, "full_attention_interval": 2,
    "rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5},
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 3,
    "linear_value_head_dim": 5, "linear_conv_kernel_dim": 4,
}  # fmt: skip
SPEC = parse_spec(CONFIG, where="")
KEY, VALUE = 6, 20  # channels of queries, of keys, and of values
FUSED = 2 * KEY + VALUE
BOUNDS = {"q": (0, KEY), "k": (KEY, 2 * KEY), "v": (2 * KEY, FUSED)}
QKV, CONV = "linear_attn.in_proj_qkv.weight", "linear_attn.conv1d.weight"


@pytest.fixture
def stored(tmp_path):
    """A checkpoint of random numbers, and its tensors."""
    r = np.random.default_rng(0)
    shapes = abstract_params(SPEC)
    params = jax.tree.map(lambda a: r.standard_normal(a.shape).astype(np.float32), shapes)
    save_params(SPEC, params, tmp_path)
    return load_file(tmp_path / "model.safetensors")


def rewrite(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    return folder


def delta_layers(params):
    """Parameters of the delta-net layers by their numbers."""
    period = params["layers"]["period"]["0"]["delta"]
    yield 0, jax.tree.map(lambda a: a[0], period)
    yield 2, jax.tree.map(lambda a: a[1], period)
    yield 4, params["layers"]["rest"]["0"]["delta"]


def test_parts_go_to_their_parameters(tmp_path, stored):
    params = load_params(SPEC, tmp_path)
    for i, delta in delta_layers(params):
        qkv, conv = (stored[f"model.layers.{i}.{name}"] for name in (QKV, CONV))
        assert (qkv.shape, conv.shape) == ((FUSED, 8), (FUSED, 1, 4))
        for part, (start, stop) in BOUNDS.items():
            np.testing.assert_array_equal(delta[f"{part}_proj"]["kernel"], qkv[start:stop].T)
            np.testing.assert_array_equal(delta[f"{part}_conv"]["kernel"], conv[start:stop, 0].T)
        for name, leaf in {
            "in_proj_z.weight": delta["z_proj"]["kernel"].T,
            "in_proj_a.weight": delta["a_proj"]["kernel"].T,
            "in_proj_b.weight": delta["b_proj"]["kernel"].T,
            "out_proj.weight": delta["o_proj"]["kernel"].T,
            "norm.weight": delta["norm"]["weight"],
            "A_log": delta["a_log"],
            "dt_bias": delta["dt_bias"],
        }.items():
            np.testing.assert_array_equal(leaf, stored[f"model.layers.{i}.linear_attn.{name}"])


def test_any_slice_of_a_part_is_read(tmp_path, stored):
    """As the devices of a mesh ask: pieces that begin and end inside of a part."""
    whole = dict(jax.tree_util.tree_leaves_with_path(load_params(SPEC, tmp_path)))
    whole = {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in whole.items()}
    seen = []

    def pieces(path, shape, dtype, read):
        cuts = [sorted({0, n // 3, n // 2 + 1, n}) for n in shape]
        for index in itertools.product(
            *([slice(a, b) for a, b in itertools.pairwise(c)] for c in cuts)
        ):
            got = read(index)
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, whole[path][index])
        seen.append(path)
        return jnp.array(read((slice(None),) * len(shape)))

    load_params(SPEC, tmp_path, place=pieces)
    assert set(seen) == set(whole)
    assert whole["layers/period/0/delta/v_conv/kernel"].shape == (2, 4, VALUE)


def test_parts_are_written_whole(tmp_path, stored):
    """What was written from parts reads back, also in types that numpy does not know."""
    again = tmp_path / "again"
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), load_params(SPEC, tmp_path))
    save_params(SPEC, low, again)
    written = load_file(again / "model.safetensors")
    assert written.keys() == stored.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, stored[name].astype(ml_dtypes.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, low, load_params(SPEC, again))


def test_types_differ_by_tensor(tmp_path, stored):
    """As in the released models: the decay and the gated norm stay float32 in a bfloat16 file."""
    wide = ("A_log", "linear_attn.norm.weight")
    mixed = {n: a if n.endswith(wide) else a.astype(ml_dtypes.bfloat16) for n, a in stored.items()}
    params = load_params(SPEC, rewrite(tmp_path, mixed))
    for _, delta in delta_layers(params):
        assert delta["a_log"].dtype == delta["norm"]["weight"].dtype == jnp.float32
        low = (delta["dt_bias"], *jax.tree.leaves([delta[f"{p}_proj"] for p in "qkvabzo"]))
        assert {a.dtype for a in low} == {jnp.dtype(jnp.bfloat16)}
    cast = load_params(SPEC, tmp_path, jnp.float32)
    assert {a.dtype for a in jax.tree.leaves(cast)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", [QKV, CONV])
def test_a_fused_tensor_of_another_size_is_told_once(tmp_path, stored, name):
    name = f"model.layers.2.{name}"
    right = stored[name].shape
    rewrite(tmp_path, stored | {name: stored[name][:-1]})
    with pytest.raises(InputError, match="wrong shape") as error:
        load_params(SPEC, tmp_path)
    assert str(error.value).count(f"{name} is {(right[0] - 1, *right[1:])}, not {right}") == 1


def test_a_missing_fused_tensor_is_one_tensor(tmp_path, stored):
    name = f"model.layers.4.{QKV}"
    rewrite(tmp_path, {n: a for n, a in stored.items() if n != name})
    with pytest.raises(InputError, match=f"missing 1 tensors: {name}$"):
        load_params(SPEC, tmp_path)
