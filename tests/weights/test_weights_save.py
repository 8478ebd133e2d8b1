"""Saving: folders that transformers and we read back as they were."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rmas.models import abstract_params, init_params, parse_spec, read_spec
from rmas.weights import config_dict, load_params, save, save_params
from rmas.weights.quantize import quantize
from support import rollouts

CASES = [
    "llama",
    "llama_biased",
    "mistral",
    "mistral_window",
    "qwen2",
    "qwen2_mixed",
    "qwen3",
    "qwen3_mixed",
    "gemma3",
    "gemma3_biased",
    "qwen3_5",
    "qwen3_5_untied",
]


@pytest.mark.parametrize("case", CASES)
def test_round_trip_through_transformers(tiny, case, tmp_path):
    import transformers

    m = tiny(case)
    extra = {"eos_token_id": [2, 3], "pad_token_id": 0}
    save_params(m.spec, m.params, tmp_path, extra)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert read_spec(tmp_path) == m.spec
    jax.tree.map(np.testing.assert_array_equal, m.params, load_params(m.spec, tmp_path))
    ours, theirs = (
        load_file(tmp_path / "model.safetensors"),
        load_file(m.folder / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])

    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values())
    assert type(again) is type(m.torch)
    assert again.config.eos_token_id == [2, 3]
    x = np.random.default_rng(0).standard_normal((2, 9, 32)).astype(np.float32)
    valid = np.ones((2, 9), bool)
    from support import tiny_hf

    for a, b in zip(
        tiny_hf.hidden_and_logits(again.requires_grad_(False), x, valid),
        tiny_hf.hidden_and_logits(m.torch, x, valid),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_configs_read_back(tiny, case):
    spec = tiny(case).spec
    config = config_dict(spec, {"eos_token_id": 2})
    assert config["eos_token_id"] == 2
    assert "rope_theta" not in config
    assert parse_spec(json.loads(json.dumps(config)), where="") == spec


def test_a_config_that_would_read_back_differently_is_refused(tiny):
    spec = tiny("qwen3").spec
    with pytest.raises(ValueError, match="cannot express"):
        config_dict(spec, {"hidden_size": 64})
    with pytest.raises(ValueError, match="cannot express"):
        config_dict(dataclasses.replace(spec, mlp_bias=True))
    two_ropes = dataclasses.replace(spec.layers[0].rope, theta=1.0)
    layers = (dataclasses.replace(spec.layers[0], rope=two_ropes), *spec.layers[1:])
    with pytest.raises(ValueError, match="cannot express"):
        config_dict(dataclasses.replace(spec, layers=layers))


@pytest.mark.parametrize("change", [{"query_scale": 0.3}, {"embed_scale": 5.0}, {"out_bias": True}])
def test_a_gemma3_that_the_class_does_not_have_is_refused(tiny, change):
    with pytest.raises(ValueError, match=r"a gemma3_text .* cannot express"):
        config_dict(dataclasses.replace(tiny("gemma3").spec, **change))


def test_every_rotary_part_of_a_head_reads_back(tiny):
    """Products like 44 * (30 / 44) fall short of the whole number that readers cut them to."""
    spec = tiny("qwen3_5").spec
    assert int(44 * (30 / 44)) < 30
    for head_dim, dim in ((44, 30), (8, 2), (8, 8)):
        layers = tuple(
            dataclasses.replace(layer, rope=dataclasses.replace(layer.rope, dim=dim))
            if hasattr(layer, "rope")
            else layer
            for layer in spec.layers
        )
        other = dataclasses.replace(
            spec, head_dim=head_dim, query_scale=head_dim**-0.5, layers=layers
        )
        factor = config_dict(other)["rope_parameters"]["partial_rotary_factor"]
        assert int(head_dim * factor) == dim


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_types_are_kept_and_named(tiny, tmp_path, dtype):
    m = tiny("qwen2_mixed")
    params = jax.tree.map(lambda a: a.astype(dtype), m.params)
    save_params(m.spec, params, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == np.dtype(dtype).name
    again = load_params(m.spec, tmp_path)
    assert {a.dtype for a in jax.tree.leaves(again)} == {np.dtype(dtype)}
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_fresh_parameters_need_no_torch(tmp_path):
    config = {
        "model_type": "qwen3", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "max_position_embeddings": 64, "rope_theta": 1000.0,
    }  # fmt: skip
    spec = parse_spec(config, where="")
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: random.standard_normal(a.shape).astype(np.float32), abstract_params(spec)
    )
    save_params(spec, params, tmp_path / "new" / "folder")
    again = load_params(spec, tmp_path / "new" / "folder")
    x, valid = np.ones((1, 3, 8), np.float32), np.ones((1, 3), bool)
    for a, b in zip(
        rollouts.whole(spec, params, x, valid), rollouts.whole(spec, again, x, valid), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_failed_write_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    m = tiny("qwen3")
    save_params(m.spec, m.params, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def broken(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(save, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_params(m.spec, jax.tree.map(jnp.zeros_like, m.params), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_int8_parameters_are_refused_before_anything_is_written(tmp_path):
    config = {
        "model_type": "qwen3", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 32,
        "rope_theta": 100.0,
    }  # fmt: skip
    spec = parse_spec(config, "test")
    params = quantize(init_params(spec, jax.random.key(0)))
    with pytest.raises(ValueError, match="int8 parameters cannot be saved"):
        save_params(spec, params, tmp_path / "new")
    assert not (tmp_path / "new").exists()
