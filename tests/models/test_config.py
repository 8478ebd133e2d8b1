"""`ModelSpec` from configurations: every key is read, both layouts, and faults are told."""

import dataclasses
import json
import os

import pytest

from rmas.errors import InputError
from rmas.models import parse_spec, read_spec
from rmas.models.config import CLASS_DEFAULTS
from rmas.models.spec import AttentionLayer, ModelSpec, RopeSpec

LLAMA = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "hidden_act": "silu", "rms_norm_eps": 1e-3, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": False, "max_position_embeddings": 256,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 3.0, "original_max_position_embeddings": 64,
    },
}  # fmt: skip
PLAIN = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
MIXED = PLAIN | {
    "model_type": "qwen2",
    "num_hidden_layers": 5,
    "use_sliding_window": True,
    "sliding_window": 7,
    "max_window_layers": 3,
}


def read(config: dict, **changes) -> ModelSpec:
    return parse_spec(config | changes, where="config.json")


def windows(spec: ModelSpec) -> list[int | None]:
    return [layer.window for layer in spec.layers]


# field of ModelSpec -> (key, other value, value of the field then)
FIELDS = {
    "vocab_size": ("vocab_size", 51, 51),
    "d_model": ("hidden_size", 40, 40),
    "d_ff": ("intermediate_size", 49, 49),
    "n_heads": ("num_attention_heads", 6, 6),
    "n_kv_heads": ("num_key_value_heads", 1, 1),
    "head_dim": ("head_dim", 12, 12),
    "query_scale": ("head_dim", 12, 12**-0.5),
    "norm_eps": ("rms_norm_eps", 1e-5, 1e-5),
    "qkv_bias": ("attention_bias", True, True),
    "out_bias": ("attention_bias", True, True),
    "mlp_bias": ("mlp_bias", True, True),
    "tied": ("tie_word_embeddings", True, True),
    "max_positions": ("max_position_embeddings", 128, 128),
    "family": ("model_type", "qwen3", "qwen3"),
    "qk_norm": ("model_type", "qwen3", True),
    "layers": ("num_hidden_layers", 2, read(LLAMA).layers[:2]),
    "activation": ("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
}
# Those that only gemma3 and qwen3_5 have; see `test_config_families.py`.
CONSTANT = {
    "norm_offset": False,
    "post_norms": False,
    "gated_attention": False,
    "embed_scale": None,
    "logit_softcap": None,
}
ROPE_FIELDS = {
    "theta": ("rope_theta", 100.0),
    "factor": ("factor", 2.0),
    "low_freq_factor": ("low_freq_factor", 2.0),
    "high_freq_factor": ("high_freq_factor", 5.0),
    "original_max_positions": ("original_max_position_embeddings", 32),
}


def test_the_tables_above_name_every_field():
    assert FIELDS.keys() | CONSTANT.keys() == {f.name for f in dataclasses.fields(ModelSpec)}
    assert ROPE_FIELDS.keys() == {f.name for f in dataclasses.fields(RopeSpec)} - {"kind", "dim"}
    assert {f.name for f in dataclasses.fields(AttentionLayer)} == {"window", "rope"}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_constants_of_the_dense_families(family):
    more = {"embed_scale": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 4}
    spec = read(LLAMA | more, model_type=family, use_sliding_window=False)
    assert {name: getattr(spec, name) for name in CONSTANT} == CONSTANT
    assert spec.query_scale == 16**-0.5
    assert {layer.rope.dim for layer in spec.layers} == {16}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_read(field):
    key, other, expected = FIELDS[field]
    assert getattr(read(LLAMA), field) != expected
    assert getattr(read(LLAMA, **{key: other}), field) == expected


@pytest.mark.parametrize("field", ROPE_FIELDS)
@pytest.mark.parametrize("flat", [False, True])
def test_each_rope_field_is_read_in_both_layouts(field, flat):
    key, other = ROPE_FIELDS[field]
    rope = LLAMA["rope_parameters"] | {key: other}
    config = LLAMA | {"rope_parameters": rope}
    if flat:
        scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
        config = LLAMA | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
        del config["rope_parameters"]
    for layer in read(config).layers:
        changed = dataclasses.asdict(layer.rope)
        assert changed.pop(field) == other
        same = dataclasses.asdict(read(LLAMA).layers[0].rope)
        assert same.pop(field) != other
        assert changed == same


@pytest.mark.parametrize(
    "scaling", [{"rope_scaling": None}, {}, {"rope_scaling": {"type": "default"}}]
)
def test_flat_layout_without_scaling(scaling):
    config = {k: v for k, v in PLAIN.items() if k != "rope_parameters"}
    assert read(config | {"rope_theta": 500} | scaling) == read(PLAIN)


@pytest.mark.parametrize(
    "key", sorted(LLAMA.keys() - CLASS_DEFAULTS["llama"].keys() - {"head_dim"})
)
def test_a_missing_key_raises_and_is_named(key):
    config = {k: v for k, v in LLAMA.items() if k != key}
    name = {"rope_parameters": "rope_theta", "model_type": "architecture"}.get(key, key)
    with pytest.raises(InputError, match=rf"^config\.json: .*{name}"):
        read(config)


@pytest.mark.parametrize("key", sorted(LLAMA["rope_parameters"].keys() - {"rope_type"}))
def test_a_missing_rope_key_raises_and_is_named(key):
    rope = {k: v for k, v in LLAMA["rope_parameters"].items() if k != key}
    with pytest.raises(InputError, match=key):
        read(LLAMA, rope_parameters=rope)


@pytest.mark.parametrize("key", sorted(LLAMA))
def test_a_value_of_the_wrong_type_raises(key):
    for wrong in ([1], "many", {"a": 1}):
        with pytest.raises(InputError) as error:
            read(LLAMA, **{key: wrong})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": True}, "'vocab_size' must be int, not True"),
        ({"hidden_size": 32.0}, "'hidden_size' must be int"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"rms_norm_eps": -1.0}, "'rms_norm_eps' is -1.0"),
        ({"rms_norm_eps": float("nan")}, "'rms_norm_eps' is nan"),
        ({"attention_bias": 1}, "'attention_bias' must be bool"),
        ({"num_key_value_heads": 3}, "multiple of key/value heads"),
        ({"head_dim": 7}, "even"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
         "unknown rope type 'yarn'; supported: default, linear, llama3"),
        ({"hidden_act": "gelu"}, "unknown activation 'gelu'; supported: silu, gelu_pytorch_tanh"),
        ({"model_type": "gpt2"},
         "unknown architecture 'gpt2'; supported: gemma3, gemma3_text, llama, .*, qwen3_5_text"),
        ({"model_type": None}, "unknown architecture None"),
    ],
)  # fmt: skip
def test_faults_are_told(changes, message):
    with pytest.raises(InputError, match=message):
        read(LLAMA, **changes)


def test_windows_of_each_family():
    mistral = LLAMA | {"model_type": "mistral"}
    assert windows(read(mistral)) == [4096] * 3
    assert windows(read(mistral, sliding_window=None)) == [None] * 3
    assert windows(read(mistral, sliding_window=9)) == [9] * 3
    assert windows(read(MIXED)) == [None, None, None, 7, 7]
    assert windows(read(MIXED, max_window_layers=0)) == [7] * 5
    assert windows(read(MIXED, use_sliding_window=False)) == [None] * 5
    full, near = "full_attention", "sliding_attention"
    types = [near, full, near, full, near]
    assert windows(read(MIXED, layer_types=types)) == [7, None, 7, None, 7]
    for wrong in ([full] * 4, [full] * 4 + ["chunked"], [[1]] * 5, "full"):
        with pytest.raises(InputError, match="layer_types must name"):
            read(MIXED, layer_types=wrong)
    with pytest.raises(InputError, match="sliding_window"):
        read(MIXED, sliding_window=None)


def test_biases_that_the_class_does_not_have_are_not_read():
    """transformers ignores these keys for these classes."""
    for family, qkv in (("mistral", False), ("qwen2", True)):
        spec = read(LLAMA, model_type=family, attention_bias=True, mlp_bias=True)
        assert (spec.qkv_bias, spec.out_bias, spec.mlp_bias) == (qkv, False, False)


def test_an_absent_head_dim_is_the_quotient_or_the_class_number():
    config = {k: v for k, v in LLAMA.items() if k != "head_dim"}
    assert read(config).head_dim == 8
    assert read(config, model_type="qwen3").head_dim == 128
    with pytest.raises(InputError, match="head_dim"):
        read(config, model_type="qwen3", head_dim=None)


def test_a_folder_and_its_faults(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*config\.json: no such file"):
        read_spec(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    assert read_spec(tmp_path) == read_spec(str(tmp_path)) == read(LLAMA)
    for text in ("{", "", b"\xff\xfe{}"):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError, match=r"config\.json is not valid JSON: ") as error:
            read_spec(tmp_path)
        assert "\n" not in str(error.value)
    path.write_text("[1]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        read_spec(tmp_path)
    os.remove(path)
    path.mkdir()
    with pytest.raises(InputError, match="cannot read"):
        read_spec(tmp_path)
