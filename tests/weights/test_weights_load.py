"""Loading: strict both ways, each fault told by name, memory near one tensor."""

import dataclasses
import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rmas.errors import InputError
from rmas.models import ModelSpec, abstract_params
from rmas.models.spec import AttentionLayer, RopeSpec
from rmas.parallel import place
from rmas.weights import load_params, save_params
from rmas.weights.keys import TABLES, source_of

KINDS = (AttentionLayer(None, RopeSpec(100.0, 6)), AttentionLayer(3, RopeSpec(100.0, 6)))
SPEC = ModelSpec(
    family="qwen2", vocab_size=11, d_model=8, d_ff=12, n_heads=4, n_kv_heads=2, head_dim=6,
    query_scale=6**-0.5, activation="silu", norm_eps=1e-5, norm_offset=False, post_norms=False,
    qkv_bias=True, out_bias=False, mlp_bias=False, qk_norm=False, gated_attention=False,
    embed_scale=None, logit_softcap=None, tied=False, max_positions=64,
    layers=(*KINDS, *KINDS, KINDS[0]),
)  # fmt: skip
TIED = dataclasses.replace(SPEC, tied=True)
Q1 = "model.layers.1.self_attn.q_proj.weight"
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def tensors(spec=SPEC) -> dict[str, np.ndarray]:
    """A checkpoint written out by hand, every tensor different."""
    d, f, q, kv = 8, 12, 24, 12
    shapes = {EMBED: (11, d), "model.norm.weight": (d,)}
    if not spec.tied:
        shapes[HEAD] = (11, d)
    for i in range(5):
        for name, shape in {
            "input_layernorm.weight": (d,),
            "post_attention_layernorm.weight": (d,),
            "self_attn.q_proj.weight": (q, d),
            "self_attn.k_proj.weight": (kv, d),
            "self_attn.v_proj.weight": (kv, d),
            "self_attn.o_proj.weight": (d, q),
            "self_attn.q_proj.bias": (q,),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.bias": (kv,),
            "mlp.gate_proj.weight": (f, d),
            "mlp.up_proj.weight": (f, d),
            "mlp.down_proj.weight": (d, f),
        }.items():
            shapes[f"model.layers.{i}.{name}"] = shape
    random = np.random.default_rng(0)
    return {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def write(folder, stored: dict):
    save_file(stored, folder / "model.safetensors")
    return folder


def write_shards(folder, stored: dict, **changes) -> dict:
    """Three files and an index; returns the weight map."""
    files = {n: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, n in enumerate(stored)}
    for file in set(files.values()):
        save_file({n: a for n, a in stored.items() if files[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files | changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def fails(folder, match: str, spec=SPEC):
    with pytest.raises(InputError, match=match) as error:
        load_params(spec, folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_tensor_goes_to_its_place(tmp_path):
    t = tensors()
    params = load_params(SPEC, write(tmp_path, t))
    np.testing.assert_array_equal(params["embed"]["weight"], t[EMBED])
    np.testing.assert_array_equal(params["norm"]["weight"], t["model.norm.weight"])
    np.testing.assert_array_equal(params["head"]["kernel"], t[HEAD].T)
    used = 3
    for i in range(5):
        if i < 4:
            block = jax.tree.map(lambda a, r=i // 2: a[r], params["layers"]["period"][str(i % 2)])
        else:
            block = params["layers"]["rest"]["0"]
        at = f"model.layers.{i}."
        leaves = {
            "input_layernorm.weight": block["input_norm"]["weight"],
            "post_attention_layernorm.weight": block["mlp_norm"]["weight"],
        }
        for p in "qkv":
            leaves[f"self_attn.{p}_proj.bias"] = block["attention"][f"{p}_proj"]["bias"]
        for p in "qkvo":
            leaves[f"self_attn.{p}_proj.weight"] = block["attention"][f"{p}_proj"]["kernel"].T
        for p in ("gate", "up", "down"):
            leaves[f"mlp.{p}_proj.weight"] = block["mlp"][f"{p}_proj"]["kernel"].T
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, t[at + name], err_msg=at + name)
        used += len(leaves)
    assert used == len(t)


def test_shards_give_the_same(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    write_shards(tmp_path / "many", tensors())
    one = load_params(SPEC, write(tmp_path / "one", tensors()))
    jax.tree.map(np.testing.assert_array_equal, one, load_params(SPEC, tmp_path / "many"))


def test_missing_and_unexpected_tensors_are_listed(tmp_path):
    t = tensors()
    del t[Q1], t["model.norm.weight"]
    told = fails(write(tmp_path, t), "missing 2 tensors")
    assert Q1 in told
    assert "model.norm.weight" in told
    t = tensors() | {"model.layers.5.mlp.up_proj.weight": np.zeros((2, 2)), "scale": np.zeros(1)}
    told = fails(write(tmp_path, t), "unexpected 2 tensors")
    assert "model.layers.5.mlp.up_proj.weight, scale" in told
    t = {n: a for n, a in tensors().items() if ".layers." not in n}
    assert "and 52 more" in fails(write(tmp_path, t), "missing 60 tensors")


def test_biases_that_the_config_denies_are_unexpected(tmp_path):
    without = dataclasses.replace(SPEC, qkv_bias=False)
    fails(write(tmp_path, tensors()), "unexpected 15 tensors: .*k_proj.bias", without)


@pytest.mark.parametrize("shape", [(8, 24), (24, 9), (24, 8, 1), (192,)])
def test_wrong_shapes_are_told_in_the_layout_of_the_file(tmp_path, shape):
    t = tensors() | {Q1: np.zeros(shape, np.float32)}
    told = fails(write(tmp_path, t), "wrong shape")
    assert f"{Q1} is {shape}, not (24, 8)" in told


def test_a_square_matrix_is_transposed_too(tmp_path):
    square = dataclasses.replace(SPEC, vocab_size=8)
    t = tensors()
    t |= {HEAD: t[HEAD][:8], EMBED: t[EMBED][:8]}
    params = load_params(square, write(tmp_path, t))
    np.testing.assert_array_equal(params["head"]["kernel"], t[HEAD].T)


def test_ignored_tensors_are_ignored(tmp_path):
    assert TABLES["llama"].ignored == ("rotary_emb.inv_freq",)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    load_params(SPEC, write(tmp_path, tensors() | extra))


def test_a_stored_head_of_a_tied_model_must_repeat_the_embedding(tmp_path):
    t = tensors(TIED)
    assert HEAD not in t
    params = load_params(TIED, write(tmp_path, t))
    assert "head" not in params
    same = load_params(TIED, write(tmp_path, t | {HEAD: t[EMBED]}))
    jax.tree.map(np.testing.assert_array_equal, params, same)
    other = t[EMBED].copy()
    other[-1, -1] += 1
    for head in (other, t[EMBED][:-1]):
        fails(write(tmp_path, t | {HEAD: head}), "lm_head.weight differs from .*embed_tokens", TIED)


def test_dtype_is_per_tensor(tmp_path):
    t = tensors()
    low = {n for n in t if "norm" in n or n == EMBED}
    t |= {n: t[n].astype(ml_dtypes.bfloat16) for n in low}
    half = "model.layers.4.mlp.up_proj.weight"
    t[half] = t[half].astype(np.float16)
    params = load_params(SPEC, write(tmp_path, t))
    assert params["embed"]["weight"].dtype == params["norm"]["weight"].dtype == jnp.bfloat16
    assert params["head"]["kernel"].dtype == jnp.float32
    assert params["layers"]["rest"]["0"]["mlp"]["up_proj"]["kernel"].dtype == jnp.float16
    np.testing.assert_array_equal(params["embed"]["weight"], t[EMBED])
    np.testing.assert_array_equal(
        params["layers"]["rest"]["0"]["mlp"]["up_proj"]["kernel"], t[half].T
    )
    for dtype in (np.float32, jnp.bfloat16):
        cast = load_params(SPEC, tmp_path, dtype)
        assert {a.dtype for a in jax.tree.leaves(cast)} == {np.dtype(dtype)}
    np.testing.assert_array_equal(cast["head"]["kernel"], t[HEAD].T.astype(ml_dtypes.bfloat16))


def test_layers_of_mixed_types_take_the_widest(tmp_path):
    t = tensors()
    up = "model.layers.{}.mlp.up_proj.weight"
    t[up.format(0)] = t[up.format(0)].astype(ml_dtypes.bfloat16)
    kernel = load_params(SPEC, write(tmp_path, t))["layers"]["period"]["0"]["mlp"]["up_proj"][
        "kernel"
    ]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel[0], t[up.format(0)].astype(np.float32).T)
    np.testing.assert_array_equal(kernel[1], t[up.format(2)].T)


def test_integer_tensors_are_refused(tmp_path):
    t = tensors() | {Q1: np.zeros((24, 8), np.int8)}
    fails(write(tmp_path, t), f"{Q1} is stored as I8; supported: F64, F32, F16, BF16")


def test_no_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    fails(tmp_path, "holds no weights; expected model.safetensors or model.safetensors.index.json")


def test_shards_without_their_index(tmp_path):
    write_shards(tmp_path, tensors())
    (tmp_path / "model.safetensors.index.json").unlink()
    fails(tmp_path, "holds model-00001-of.* but neither model.safetensors nor model.*index.json, w")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_files(tmp_path, keep):
    path = write(tmp_path, tensors()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    fails(tmp_path, "model.safetensors is damaged or not a safetensors file")


def test_corrupt_header(tmp_path):
    path = write(tmp_path, tensors()) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:40] = b"\xff" * 32
    path.write_bytes(data)
    fails(tmp_path, "model.safetensors is damaged")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", "."]
)
def test_index_names_stay_in_the_folder(tmp_path, name):
    write_shards(tmp_path, tensors(), **{EMBED: name})
    fails(tmp_path, "file names must not leave the folder")


def test_faults_of_an_index(tmp_path):
    files = write_shards(tmp_path, tensors(), **{EMBED: "model-00009-of-00003.safetensors"})
    fails(tmp_path, "cannot read .*model-00009-of-00003.safetensors: no such file")
    other = next(f for f in files.values() if f != files[EMBED])
    write_shards(tmp_path, tensors(), **{EMBED: other})
    fails(tmp_path, f"{EMBED} is not in {other}")
    write_shards(tmp_path, tensors(), ghost=other)
    fails(tmp_path, f"ghost is not in {other}")
    shard = tmp_path / other
    write_shards(tmp_path, tensors())
    save_file(load_file(shard) | {EMBED: tensors()[EMBED]}, shard)
    fails(tmp_path, f"stored more than once: {EMBED}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{")
    fails(tmp_path, "model.safetensors.index.json is not valid JSON")
    for text in ("[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        fails(tmp_path, "model.safetensors.index.json.* weight_map")


def test_a_placing_function_reads_any_slice(tmp_path):
    t = tensors()
    whole = load_params(SPEC, write(tmp_path, t))
    seen = {}

    def halves(path, shape, dtype, read):
        """Like a mesh: two reads, split along the last axis."""
        seen[path] = (shape, dtype)
        cut = shape[-1] // 2
        lead = (slice(None),) * (len(shape) - 1)
        parts = [read((*lead, slice(None, cut))), read((*lead, slice(cut, None)))]
        assert all(p.dtype == dtype for p in parts)
        return jnp.concatenate(parts, -1)

    jax.tree.map(np.testing.assert_array_equal, whole, load_params(SPEC, tmp_path, place=halves))
    assert seen["layers/period/1/attention/q_proj/kernel"] == ((2, 8, 24), np.dtype(np.float32))
    assert len(seen) == len(jax.tree.leaves(whole))

    def sharded(path, shape, dtype, read):
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.make_array_from_callback(shape, device, read)

    jax.tree.map(np.testing.assert_array_equal, whole, load_params(SPEC, tmp_path, place=sharded))


def test_host_memory_stays_near_one_tensor(tmp_path, monkeypatch):
    """Eight layers of 256x256: the stack of one matrix is 8 tensors, the model is 56.

    Stacks above `PIECE` are read layer by layer, so it is set below these.
    """
    wide = {"d_model": 256, "d_ff": 256, "n_kv_heads": 4, "head_dim": 64, "query_scale": 1 / 8}
    layers = (AttentionLayer(None, RopeSpec(100.0, 64)),) * 8
    spec = dataclasses.replace(SPEC, **wide, layers=layers)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), abstract_params(spec))
    save_params(spec, zeros, tmp_path)
    del zeros
    one = 256 * 256 * 4
    monkeypatch.setattr(place, "PIECE", one)
    load_params(spec, tmp_path)  # compile outside of the measurement
    tracemalloc.start()
    try:
        load_params(spec, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one < peak < 4 * one, peak / one


@pytest.mark.parametrize("family", TABLES)
def test_tables_map_names_one_to_one(family):
    """A tensor has one parameter, or three that are its parts; the path tells the layout."""
    rows = TABLES[family].layer
    assert len({r.path for r in rows}) == len({(r.tensor, r.part) for r in rows}) == len(rows)
    for row in rows:
        parts = [r.part for r in rows if r.tensor == row.tensor]
        assert parts in ([None], [0, 1, 2])
        kernel = "conv" if row.path.endswith("_conv/kernel") else "transpose"
        assert row.layout == (kernel if row.path.endswith("kernel") else "copy")


def test_sources_of_stacked_and_single_parameters():
    s = source_of(SPEC, "layers/period/1/mlp/down_proj/kernel", (2, 12, 8))
    assert s.tensors == tuple(f"model.layers.{i}.mlp.down_proj.weight" for i in (1, 3))
    assert s.tensor_shape == (8, 12)
    s = source_of(SPEC, "layers/rest/0/attention/q_proj/bias", (24,))
    assert (s.tensors, s.tensor_shape) == (("model.layers.4.self_attn.q_proj.bias",), (24,))
    with pytest.raises(KeyError):
        source_of(SPEC, "layers/rest/0/attention/z_proj/bias", (24,))


def test_unknown_family(tmp_path):
    other = dataclasses.replace(SPEC, family="gpt2")
    fails(write(tmp_path, tensors()), "weights of 'gpt2' cannot be read; known: llama, ", other)
