"""Numbers of a configuration out of any sane range: one line with key and value, nothing made."""

import json
import math

import pytest

from rmas.errors import InputError
from rmas.models import read_spec
from rmas.models.fields import RANGES, Fields, shown
from support.configurations import BASES, read

NUMBERS = {
    name: sorted(k for k, v in config.items() if isinstance(v, int | float) and k in RANGES)
    for name, config in BASES.items()
}
WRONG = {
    "negative": (-1, "-1"),
    "huge": (10**12, "1000000000000"),
    "far too long": (10**400, "an integer of about 400 digits"),
    "longer than Python prints": (10**5000, "an integer of about 5000 digits"),
    "inf": (math.inf, "Infinity"),
    "nan": (math.nan, "NaN"),
    "true": (True, "true"),
    "text": ("12", "'12'"),
    "list": ([1], "a list of 1"),
    "object": ({"a": 1}, "an object of 1"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("family", BASES)
def test_every_number_has_a_range(family, wrong):
    value, text = WRONG[wrong]
    assert len(NUMBERS[family]) >= 9
    for key in NUMBERS[family]:
        if value == 10**12 and key.startswith("rope"):
            continue  # not out of range
        with pytest.raises(InputError) as error:
            read(BASES[family] | {key: value})
        told = str(error.value)
        assert told.startswith(f"config.json: '{key}' is {text}; it must be"), told
        assert len(told) < 200


@pytest.mark.parametrize("family", BASES)
def test_zero_and_fractions(family):
    for key in NUMBERS[family]:
        whole = isinstance(BASES[family][key], int)
        least = RANGES[key][0]
        for value in [0] * (least > 0) + [1e-400] * (not whole) + [1.5] * whole:
            if value == 1.5 and key == "query_pre_attn_scalar":
                continue  # a whole number in files, but any number is read
            with pytest.raises(InputError, match=rf"'{key}' is {value}; it must be"):
                read(BASES[family] | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", 10**400),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", -1e-6),
        ("rms_norm_eps", 2.0),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 10**12),
        ("vocab_size", 10**12),
        ("head_dim", 7),
        ("head_dim", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 0),
        ("rope_theta", 0),
        ("rope_theta", -1e4),
        ("rope_theta", 1e400),
        ("eos_token_id", 50),
        ("eos_token_id", [1, 10**30]),
        ("eos_token_id", -1),
        ("eos_token_id", 1.0),
        ("eos_token_id", "2"),
        ("eos_token_id", True),
        ("eos_token_id", {"a": 1}),
        ("bos_token_id", 50),
        ("pad_token_id", 50),
        ("pad_token_id", -2),
    ],
)
def test_a_llama_out_of_range(key, value):
    config = {k: v for k, v in BASES["llama"].items() if k != "rope_parameters"}
    with pytest.raises(InputError, match=r"^config\.json: ") as error:
        read(config | {key: value})
    told = str(error.value)
    assert key in told
    assert shown(value[1] if isinstance(value, list) else value) in told


def test_special_tokens_of_the_model_are_accepted():
    for ids in (0, 49, [0, 49], None, []):
        read(BASES["llama"] | {"eos_token_id": ids, "bos_token_id": ids, "pad_token_id": -1})
    whole = {"model_type": "gemma3", "text_config": BASES["gemma3"]}
    read(whole | {"eos_token_id": [1, 49]})
    with pytest.raises(InputError, match=r"^config\.json: 'eos_token_id' is 50; .* 0 to 49$"):
        read(whole | {"eos_token_id": [1, 50]})


def test_numbers_that_json_does_not_bound(tmp_path):
    """Digits without end, and exponents beyond a float, are values like others."""
    for text in ("1" + "0" * 5000, "-1" + "0" * 5000, "1e400", "NaN"):
        for key in ("num_hidden_layers", "rms_norm_eps"):
            config = json.dumps(BASES["llama"] | {key: "@"}).replace('"@"', text)
            (tmp_path / "config.json").write_text(config)
            with pytest.raises(InputError, match=rf"config\.json: '{key}' is (-?Infinity|NaN); "):
                read_spec(tmp_path)


def test_generation_settings_name_tokens_of_the_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BASES["llama"]))
    generation = tmp_path / "generation_config.json"
    for wrong in ([0, 50], 10**12, "x"):
        generation.write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(InputError, match=r"generation_config\.json: 'eos_token_id' is "):
            read_spec(tmp_path)
    generation.write_text(json.dumps({"eos_token_id": [0, 49], "pad_token_id": None}))
    assert read_spec(tmp_path) == read(BASES["llama"])


def test_values_are_shown_in_one_short_line():
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 1000) == f"'{'x' * 50}'..."
    assert shown(None) == "null"
    assert shown([[1] * 10**6]) == "a list of 1"
    assert Fields({"a": 1}, {"a": 2, "b": 3}, "x").get("b") == 3
