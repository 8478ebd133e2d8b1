"""Configurations of gemma3 and qwen3_5: every key, both layouts, composites, what is refused."""

import dataclasses

import pytest

from rmas.errors import InputError
from rmas.models import config as config_module
from rmas.models import parse_spec
from rmas.models.config import CLASS_DEFAULTS, GEMMA3_PATTERN, GEMMA3_THETAS, QWEN3_5_INTERVAL
from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-3,
    "max_position_embeddings": 256,
}  # fmt: skip
# With settings of rope in the flat layout of older files.
GEMMA3 = SIZES | {
    "model_type": "gemma3_text", "query_pre_attn_scalar": 9, "sliding_window": 5,
    "sliding_window_pattern": 3, "rope_theta": 300.0, "rope_local_base_freq": 40.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}  # fmt: skip
QWEN3_5 = SIZES | {
    "model_type": "qwen3_5_text", "hidden_act": "silu", "full_attention_interval": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [1, 1, 1]},
    "partial_rotary_factor": 0.5, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_conv_kernel_dim": 3,
}  # fmt: skip
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
LOCAL = AttentionLayer(5, RopeSpec(40.0, 16))
GLOBAL = AttentionLayer(None, RopeSpec(300.0, 16, "linear", 4.0))
DELTA = DeltaLayer(key_heads=2, value_heads=4, key_dim=6, value_dim=10, conv_width=3)
ATTENTION = AttentionLayer(None, RopeSpec(300.0, 8))


def read(config: dict, **changes) -> ModelSpec:
    """The spec with keys changed, or taken out where the new value is `...`."""
    config = {k: v for k, v in (config | changes).items() if v is not ...}
    return parse_spec(config, where="config.json")


# field of ModelSpec -> (key, other value, value of the field then)
SHARED_FIELDS = {
    "vocab_size": ("vocab_size", 51, 51),
    "d_model": ("hidden_size", 40, 40),
    "d_ff": ("intermediate_size", 49, 49),
    "n_heads": ("num_attention_heads", 6, 6),
    "n_kv_heads": ("num_key_value_heads", 1, 1),
    "head_dim": ("head_dim", 12, 12),
    "norm_eps": ("rms_norm_eps", 1e-5, 1e-5),
    "qkv_bias": ("attention_bias", True, True),
    "out_bias": ("attention_bias", True, True),
    "max_positions": ("max_position_embeddings", 128, 128),
}
FIELDS = {
    "gemma3": SHARED_FIELDS
    | {
        "query_scale": ("query_pre_attn_scalar", 25, 0.2),
        "activation": ("hidden_activation", "silu", "silu"),
        "embed_scale": ("hidden_size", 64, 8.0),
        "logit_softcap": ("final_logit_softcapping", 30, 30.0),
        "tied": ("tie_word_embeddings", False, False),
        "layers": ("num_hidden_layers", 2, (LOCAL, LOCAL)),
    },
    "qwen3_5": SHARED_FIELDS
    | {
        "query_scale": ("head_dim", 64, 1 / 8),
        "activation": ("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
        "tied": ("tie_word_embeddings", True, True),
        "layers": ("num_hidden_layers", 2, (DELTA, DELTA)),
    },
}
CONSTANT = {
    "gemma3": {
        "family": "gemma3", "norm_offset": True, "post_norms": True, "mlp_bias": False,
        "qk_norm": True, "gated_attention": False,
    },
    "qwen3_5": {
        "family": "qwen3_5", "norm_offset": True, "post_norms": False, "mlp_bias": False,
        "qk_norm": True, "gated_attention": True, "embed_scale": None, "logit_softcap": None,
    },
}  # fmt: skip
BASES = {"gemma3": GEMMA3, "qwen3_5": QWEN3_5}
EACH = [(family, field) for family in BASES for field in FIELDS[family]]


@pytest.mark.parametrize("family", BASES)
def test_the_tables_above_name_every_field(family):
    names = FIELDS[family].keys() | CONSTANT[family].keys()
    assert names == {f.name for f in dataclasses.fields(ModelSpec)}
    spec = read(BASES[family], final_logit_softcapping=None, query_pre_attn_scalar=9)
    assert {name: getattr(spec, name) for name in CONSTANT[family]} == CONSTANT[family]


@pytest.mark.parametrize(("family", "field"), EACH)
def test_each_field_is_read(family, field):
    key, other, expected = FIELDS[family][field]
    assert getattr(read(BASES[family]), field) != expected
    assert getattr(read(BASES[family], **{key: other}), field) == expected


@pytest.mark.parametrize("family", BASES)
def test_a_missing_key_is_named_or_the_class_default(family):
    defaults = CLASS_DEFAULTS[f"{family}_text"]
    for key in {*SIZES, *(k for k in BASES[family] if k.startswith("linear_"))} - {*defaults}:
        with pytest.raises(InputError, match=f"'{key}' is missing"):
            read(BASES[family], **{key: ...})
    for key, value in defaults.items():
        without = read(BASES[family], num_hidden_layers=3, **{key: ...})
        assert without == read(BASES[family], num_hidden_layers=3, **{key: value}), key


def test_the_pattern_of_gemma3():
    assert read(GEMMA3).layers == (LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL)
    assert read(GEMMA3, sliding_window_pattern=2).layers == (LOCAL, GLOBAL, LOCAL, GLOBAL, LOCAL)
    twelve = read(GEMMA3, sliding_window_pattern=..., num_hidden_layers=12).layers
    assert [i for i, layer in enumerate(twelve) if layer == GLOBAL] == [5, 11]
    types = [FULL, SLIDING, SLIDING, FULL, FULL]
    layers = (GLOBAL, LOCAL, LOCAL, GLOBAL, GLOBAL)
    assert read(GEMMA3, layer_types=types).layers == layers
    assert {layer.window for layer in read(GEMMA3, sliding_window=9).layers} == {9, None}
    for wrong in (types[:4], [*types[:4], LINEAR], [[1]] * 5, "full"):
        with pytest.raises(InputError, match="layer_types must name sliding_attention or full"):
            read(GEMMA3, layer_types=wrong)


def test_two_ropes_of_gemma3_in_both_layouts():
    nested = {
        SLIDING: {"rope_type": "default", "rope_theta": 40.0},
        FULL: {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0},
    }
    flat = {"rope_theta": ..., "rope_local_base_freq": ..., "rope_scaling": ...}
    assert read(GEMMA3, **flat, rope_parameters=nested) == read(GEMMA3)
    # What is left out, or null, is the class's; scaling is for the global layers alone.
    bare = read(GEMMA3, **flat)
    assert bare.layers[0].rope == RopeSpec(1e4, 16)
    assert bare.layers[2].rope == RopeSpec(1e6, 16)
    assert read(GEMMA3, **dict.fromkeys(flat)) == bare
    assert read(GEMMA3, **flat, rope_parameters={FULL: None}) == bare
    half = read(GEMMA3, **flat, rope_parameters={FULL: {"rope_type": "linear", "factor": 4.0}})
    assert half.layers[2].rope == RopeSpec(1e6, 16, "linear", 4.0)
    assert read(GEMMA3, rope_theta=77.0).layers[2].rope.theta == 77.0
    assert read(GEMMA3, rope_local_base_freq=77.0).layers[0].rope.theta == 77.0
    assert read(GEMMA3, rope_scaling={"type": "linear", "factor": 2.0}).layers[2].rope.factor == 2.0
    for wrong in ([1], {FULL: [1]}, {FULL: {"rope_type": "yarn"}}, {FULL: {"rope_type": "linear"}}):
        with pytest.raises(InputError, match=r"^config.json: .*(rope|factor)"):
            read(GEMMA3, **flat, rope_parameters=wrong)


def test_gemma3_that_is_not_causal_is_refused():
    with pytest.raises(InputError, match=r"use_bidirectional_attention is true; .* causal"):
        read(GEMMA3, use_bidirectional_attention=True)


def test_the_attention_cap_of_gemma3_is_not_read():
    """The class has the key, and applies it nowhere (`tiny_hf` holds a case against it)."""
    assert read(GEMMA3, attn_logit_softcapping=50.0) == read(GEMMA3)


def test_the_pattern_of_qwen3_5():
    assert read(QWEN3_5).layers == (DELTA, DELTA, ATTENTION, DELTA, DELTA)
    eight = read(QWEN3_5, full_attention_interval=..., num_hidden_layers=8).layers
    assert eight == (DELTA, DELTA, DELTA, ATTENTION) * 2
    types = [FULL, LINEAR, LINEAR, LINEAR, FULL]
    layers = (ATTENTION, DELTA, DELTA, DELTA, ATTENTION)
    assert read(QWEN3_5, layer_types=types).layers == layers
    only = read(QWEN3_5, layer_types=[FULL] * 5, linear_num_key_heads=...)
    assert only.layers == (ATTENTION,) * 5
    with pytest.raises(InputError, match="layer_types must name linear_attention or full"):
        read(QWEN3_5, layer_types=[SLIDING] * 5)


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("key_heads", "linear_num_key_heads"),
        ("value_heads", "linear_num_value_heads"),
        ("key_dim", "linear_key_head_dim"),
        ("value_dim", "linear_value_head_dim"),
        ("conv_width", "linear_conv_kernel_dim"),
    ],
)
def test_each_field_of_the_delta_layers_is_read(field, key):
    other = 4 if field == "key_heads" else 2 * QWEN3_5[key]
    changed = read(QWEN3_5, **{key: other}).delta
    assert changed == dataclasses.replace(DELTA, **{field: other})


def test_the_tables_name_every_field_of_a_layer():
    assert {f.name for f in dataclasses.fields(DeltaLayer)} == {
        *("key_heads", "value_heads", "key_dim", "value_dim", "conv_width")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_num_value_heads": 3}, "3 value heads for 2 key heads"),
        ({"linear_conv_kernel_dim": 1}, "at least 2 wide"),
        ({"linear_conv_kernel_dim": 0}, "out of range"),
        ({"linear_key_head_dim": 1.5}, "must be int"),
        (
            {"partial_rotary_factor": 0.2},
            "factor 0.2 of a head of 16 is 3 numbers",
        ),
        ({"partial_rotary_factor": 1.5}, "an even number from 2 to 16"),
        ({"partial_rotary_factor": "half"}, "must be float"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_theta"),
        ({"rope_parameters": [1]}, "must be an object"),
    ],
)
def test_faults_of_qwen3_5_are_told(changes, message):
    with pytest.raises(InputError, match=message):
        read(QWEN3_5, **changes)


def test_the_rotary_part_of_qwen3_5_nested_or_not():
    rope = QWEN3_5["rope_parameters"]
    nested = {
        "partial_rotary_factor": ...,
        "rope_parameters": rope | {"partial_rotary_factor": 0.5},
    }
    flat = {"rope_parameters": ..., "rope_theta": 300.0, "rope_scaling": None}
    assert read(QWEN3_5) == read(QWEN3_5, **nested) == read(QWEN3_5, **flat)
    assert read(QWEN3_5, partial_rotary_factor=...).layers[2].rope.dim == 4
    whole = rope | {"partial_rotary_factor": 1.0}
    assert read(QWEN3_5, rope_parameters=whole).layers[2].rope.dim == 16  # the nested one counts
    assert read(QWEN3_5, partial_rotary_factor=0.3).layers[2].rope.dim == 4  # 4.8 is cut


@pytest.mark.parametrize(("kind", "text"), [("gemma3", GEMMA3), ("qwen3_5", QWEN3_5)])
def test_composites_are_read_for_their_text(kind, text):
    whole = {"model_type": kind, "vision_config": {"hidden_size": 7}, "hidden_size": 8}
    assert read(whole, text_config=text) == read(text)
    old = {k: v for k, v in text.items() if k != "model_type"}
    assert read(whole, text_config=old) == read(text)
    for missing in (..., None, [text], "text"):
        with pytest.raises(InputError, match=f"'text_config' of a {kind} model must be an object"):
            read(whole, text_config=missing)
    with pytest.raises(InputError, match=r"^config.json \(text_config\): key 'hidden_size' is"):
        read(whole, text_config={k: v for k, v in text.items() if k != "hidden_size"})


@pytest.mark.parametrize(("kind", "text"), [("gemma3", GEMMA3), ("qwen3_5", QWEN3_5)])
def test_a_composite_may_tie_its_head_above(kind, text):
    for tied in (True, False):
        above = {"model_type": kind, "tie_word_embeddings": tied, "text_config": text}
        assert read(above).tied == tied
        below = {"model_type": kind, "text_config": text | {"tie_word_embeddings": tied}}
        assert read(below).tied == tied
    assert read({"model_type": kind, "text_config": text}).tied == (kind == "gemma3")


@pytest.mark.parametrize(
    "config",
    [
        QWEN3_5 | {"model_type": "qwen3_5_moe_text"},
        {"model_type": "qwen3_5_moe", "text_config": QWEN3_5},
        {"model_type": "qwen3_5", "text_config": QWEN3_5 | {"model_type": "qwen3_5_moe_text"}},
        QWEN3_5 | {"model_type": "qwen3_next", "num_experts": 512},
        SIZES | {"model_type": "mixtral", "num_local_experts": 8},
        SIZES | {"model_type": "qwen3_moe"},
        QWEN3_5 | {"num_experts": 4},
    ],
    ids=lambda config: config["model_type"],
)
def test_mixtures_of_experts_are_refused_by_name(config):
    name = config["model_type"]
    with pytest.raises(InputError, match=rf"'{name}\w*' is a mixture-of-experts model; only dense"):
        read(config)


def test_other_architectures_are_refused_by_name():
    for kind in ("qwen3_next", "gemma2", "gemma3n", "mamba2"):
        with pytest.raises(InputError, match=f"unknown architecture '{kind}'; supported: gemma3,"):
            read(SIZES | {"model_type": kind})
    with pytest.raises(InputError, match=r"unknown activation 'relu'; supported: silu, gelu_p"):
        read(GEMMA3, hidden_activation="relu")


@pytest.mark.parametrize("family", CLASS_DEFAULTS)
def test_class_defaults_are_those_of_transformers(family):
    from transformers import AutoConfig

    theirs = type(AutoConfig.for_model(family))
    for key, value in CLASS_DEFAULTS[family].items():
        assert getattr(theirs(), key) == value, key
        assert key in theirs.__annotations__, key


def test_constants_are_those_of_transformers():
    from transformers import AutoConfig

    gemma3 = AutoConfig.for_model("gemma3_text", num_hidden_layers=20)
    assert gemma3.layer_types.index(FULL) + 1 == GEMMA3_PATTERN
    assert {k: v["rope_theta"] for k, v in gemma3.rope_parameters.items()} == GEMMA3_THETAS
    qwen3_5 = AutoConfig.for_model("qwen3_5_text", num_hidden_layers=20)
    assert qwen3_5.layer_types.index(FULL) + 1 == QWEN3_5_INTERVAL
    rotary = qwen3_5.rope_parameters["partial_rotary_factor"]
    assert rotary == config_module.QWEN3_5_ROTARY
    for kind, text in config_module.COMPOSITES.items():
        assert AutoConfig.for_model(kind).text_config.model_type == text
