"""`ModelSpec` from configurations: every key is read or the class's, and faults are told."""

import dataclasses
import json
import os

import pytest

from rmas.errors import InputError
from rmas.models import read_spec
from rmas.models.config import CLASS_DEFAULTS, COMPOSITES
from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec
from support.configurations import BASES, DELTA, GEMMA3, LLAMA, LOCAL, QWEN3_5, SIZES, read

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
    "llama": SHARED_FIELDS
    | {
        "query_scale": ("head_dim", 12, 12**-0.5),
        "mlp_bias": ("mlp_bias", True, True),
        "tied": ("tie_word_embeddings", True, True),
        "family": ("model_type", "qwen3", "qwen3"),
        "qk_norm": ("model_type", "qwen3", True),
        "layers": ("num_hidden_layers", 2, read(LLAMA).layers[:2]),
        "activation": ("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
    },
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
    "llama": {
        "norm_offset": False, "post_norms": False, "gated_attention": False, "embed_scale": None,
        "logit_softcap": None,
    },
    "gemma3": {
        "family": "gemma3", "norm_offset": True, "post_norms": True, "mlp_bias": False,
        "qk_norm": True, "gated_attention": False,
    },
    "qwen3_5": {
        "family": "qwen3_5", "norm_offset": True, "post_norms": False, "mlp_bias": False,
        "qk_norm": True, "gated_attention": True, "embed_scale": None, "logit_softcap": None,
    },
}  # fmt: skip
# Read by rules of their own where they are missing; see `test_config_rope.py`.
OPTIONAL = {"rope_parameters", "rope_scaling"}
EACH = [(family, field) for family in BASES for field in FIELDS[family]]


@pytest.mark.parametrize("family", BASES)
def test_the_tables_above_name_every_field(family):
    names = FIELDS[family].keys() | CONSTANT[family].keys()
    ours = {"unrolled"}  # how a model runs, which no checkpoint decides
    assert names == {f.name for f in dataclasses.fields(ModelSpec)} - ours
    spec = read(BASES[family], final_logit_softcapping=None, query_pre_attn_scalar=9)
    assert {name: getattr(spec, name) for name in CONSTANT[family]} == CONSTANT[family]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_constants_of_the_dense_families(family):
    more = {"embed_scale": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 4}
    spec = read(LLAMA | more, model_type=family, use_sliding_window=False)
    assert {name: getattr(spec, name) for name in CONSTANT["llama"]} == CONSTANT["llama"]
    assert spec.query_scale == 16**-0.5
    assert {layer.rope.dim for layer in spec.layers} == {16}


@pytest.mark.parametrize(("family", "field"), EACH)
def test_each_field_is_read(family, field):
    key, other, expected = FIELDS[family][field]
    assert getattr(read(BASES[family]), field) != expected
    assert getattr(read(BASES[family], **{key: other}), field) == expected


@pytest.mark.parametrize("family", BASES)
def test_a_missing_key_is_named_or_the_class_default(family):
    kind = BASES[family]["model_type"]
    defaults = CLASS_DEFAULTS[kind]
    for key in BASES[family].keys() - defaults.keys() - OPTIONAL - {"model_type"}:
        with pytest.raises(InputError, match=rf"^config\.json: key '{key}' is missing"):
            read(BASES[family], **{key: ...})
    with pytest.raises(InputError, match=r"^config\.json: unknown architecture null"):
        read(BASES[family], model_type=...)
    bare = {k: v for k, v in BASES[family].items() if not k.startswith("rope")}
    bare |= {"num_hidden_layers": 3, "num_attention_heads": 32, "hidden_size": 1024}
    bare |= {"linear_num_value_heads": 32}
    for key, value in defaults.items():
        without = read(bare, **{key: ...})
        assert without == read(bare, **{key: value}), key


@pytest.mark.parametrize("key", sorted(LLAMA))
def test_a_value_of_the_wrong_type_raises(key):
    for wrong in ([1], "many", {"rope_type": 1}):
        with pytest.raises(InputError) as error:
            read(LLAMA, **{key: wrong})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": 1}, "'attention_bias' is 1; it must be true or false"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads' is 3; it must divide 'num_attention_h"),
        ({"head_dim": 7}, "'head_dim' is 7; it must be even"),
        ({"head_dim": None, "hidden_size": 28}, "'head_dim' is 7; it must be even"),
        ({"head_dim": None, "hidden_size": 33}, "'hidden_size' is 33; .* multiple of 'num_atten"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
         "unknown rope type 'yarn'; supported: default, linear, llama3 .'rope_param"),
        ({"hidden_act": "gelu"}, "unknown activation 'gelu'; supported: silu, gelu_pytorch_tanh"),
        ({"model_type": "gpt2"},
         "unknown architecture 'gpt2'; supported: gemma3, gemma3_text, llama, .*, qwen3_5_text"),
        ({"model_type": None}, "unknown architecture null"),
    ],
)  # fmt: skip
def test_faults_are_told(changes, message):
    with pytest.raises(InputError, match=message):
        read(LLAMA, **changes)


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


def test_gemma3_that_is_not_causal_is_refused():
    with pytest.raises(InputError, match=r"use_bidirectional_attention is true; .* causal"):
        read(GEMMA3, use_bidirectional_attention=True)


def test_the_attention_cap_of_gemma3_is_not_read():
    """The class has the key, and applies it nowhere (`tiny_hf` holds a case against it)."""
    assert read(GEMMA3, attn_logit_softcapping=50.0) == read(GEMMA3)


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
    with pytest.raises(InputError, match=rf"'{name}\w*' is a mixture-of-experts model.*only dense"):
        read(config)


def test_other_architectures_are_refused_by_name():
    for kind in ("phi3", "gemma2", "gemma3n", "mamba2"):
        with pytest.raises(InputError, match=f"unknown architecture '{kind}'; supported: gemma3,"):
            read(SIZES | {"model_type": kind})
    with pytest.raises(InputError, match="unknown activation 'relu'; supported: silu, gelu_p"):
        read(GEMMA3, hidden_activation="relu")


# Keys that the classes take without a field of their own, and where their effect shows.
THROUGH = {
    "rope_theta": lambda c: _full(c)["rope_theta"],
    "rope_local_base_freq": lambda c: c.rope_parameters["sliding_attention"]["rope_theta"],
    "partial_rotary_factor": lambda c: c.rope_parameters["partial_rotary_factor"],
    "sliding_window_pattern": lambda c: c.layer_types.index("full_attention") + 1,
    "full_attention_interval": lambda c: c.layer_types.index("full_attention") + 1,
}


def _full(config) -> dict:
    return config.rope_parameters.get("full_attention", config.rope_parameters)


@pytest.mark.parametrize("family", CLASS_DEFAULTS)
def test_class_defaults_are_those_of_transformers(family):
    from transformers import AutoConfig

    config = AutoConfig.for_model(family)
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    for key, value in CLASS_DEFAULTS[family].items():
        theirs = THROUGH[key](config) if key in THROUGH else fields[key]
        assert (theirs, type(theirs)) == (value, type(value)), key
        assert (key in THROUGH) != (key in fields), key


@pytest.mark.parametrize("family", CLASS_DEFAULTS)
def test_bare_configurations_are_those_of_transformers(family):
    """Only sizes, as the oldest files have them: all else is what `AutoConfig` makes of them."""
    from transformers import AutoConfig

    sizes = {"vocab_size": 50, "hidden_size": 1024, "intermediate_size": 48}
    sizes |= {"num_hidden_layers": 12, "num_attention_heads": 32}
    theirs = AutoConfig.for_model(family, **sizes)
    spec = read(sizes, model_type=family)
    head_dim = getattr(theirs, "head_dim", 1024 // 32)
    part = _full(theirs).get("partial_rotary_factor", 1)
    rope = RopeSpec(_full(theirs)["rope_theta"], int(head_dim * part))
    kinds = getattr(theirs, "layer_types", ["full_attention"] * 12)
    assert (spec.n_kv_heads, spec.n_heads) == (theirs.num_key_value_heads, 32)
    assert spec.head_dim == head_dim
    assert (spec.norm_eps, spec.max_positions) == (1e-6, theirs.max_position_embeddings)
    assert spec.tied == theirs.tie_word_embeddings
    assert spec.activation == getattr(theirs, "hidden_act", None) or theirs.hidden_activation
    assert spec.out_bias == getattr(theirs, "attention_bias", False)
    full = AttentionLayer(4096 if family == "mistral" else None, rope)
    for kind, layer in zip(kinds, spec.layers, strict=True):
        if kind == "full_attention":
            assert layer == full
        elif kind == "sliding_attention":
            local = theirs.rope_parameters["sliding_attention"]["rope_theta"]
            assert layer == AttentionLayer(theirs.sliding_window, RopeSpec(local, rope.dim))
        else:
            named = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
            names = [f"linear_{name}" for name in (*named, "conv_kernel_dim")]
            assert layer == DeltaLayer(*(getattr(theirs, name) for name in names))


def test_the_inner_types_of_composites_are_those_of_transformers():
    from transformers import AutoConfig

    for kind, text in COMPOSITES.items():
        assert AutoConfig.for_model(kind).text_config.model_type == text


def test_old_llama_folders_are_read(tmp_path):
    """Llama 1 and 2 as their first conversions say it, the padding token -1 included."""
    one = {
        "architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "initializer_range": 0.02, "max_sequence_length": 2048, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": -1,
        "rms_norm_eps": 1e-06, "torch_dtype": "float16", "use_cache": True, "vocab_size": 32000,
    }  # fmt: skip
    two = {
        "hidden_act": "silu", "hidden_size": 8192, "intermediate_size": 28672,
        "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 64,
        "num_hidden_layers": 80, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
        "vocab_size": 32000,
    }  # fmt: skip
    for config, kv, length in ((one, 32, 2048), (two, 8, 4096)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        spec = read_spec(tmp_path)
        assert (spec.n_kv_heads, spec.head_dim, spec.max_positions) == (kv, 128, length)
        assert set(spec.layers) == {AttentionLayer(None, RopeSpec(10_000.0, 128))}


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
