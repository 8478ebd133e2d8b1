"""Rope settings in every layout, for every family: what transformers reads, or a refusal.

A layout that says two things is refused, with both keys; others give the values of `AutoConfig`.
"""

import json

import pytest

from rmas.errors import InputError
from rmas.models.config import CLASS_DEFAULTS
from rmas.models.spec import AttentionLayer, RopeSpec
from support.configurations import SIZES, read

DENSE = ("llama", "mistral", "qwen2", "qwen3", "qwen3_5_text")
FULL, SLIDING = "full_attention", "sliding_attention"
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 64,
}
SHORT = {k: v for k, v in LLAMA3.items() if not k.startswith("original")}
OUTER = {"original_max_position_embeddings": 64}
THETA = {"rope_theta": 300.0}


def new(**settings):
    return {"rope_parameters": settings}


def old(**settings):
    return {"rope_scaling": settings}


READ = {
    "nothing": {},
    "theta": THETA,
    "theta as an integer": {"rope_theta": 300},
    "old null": THETA | {"rope_scaling": None},
    "old empty": THETA | old(),
    "old linear by type": THETA | old(type="linear", factor=4.0),
    "old linear": THETA | old(**LINEAR),
    "old linear, integer": THETA | old(rope_type="linear", factor=2),
    "old, named twice alike": THETA | old(type="linear", **LINEAR),
    "old default": THETA | old(type="default"),
    "old without theta": old(**LINEAR),
    "old with theta inside": old(**LINEAR, **THETA),
    "old with theta at both places": THETA | old(**LINEAR, **THETA),
    "old llama3": THETA | old(**LLAMA3),
    "old llama3 without its length": THETA | old(**SHORT),
    "old llama3, its length beside": THETA | OUTER | old(**SHORT),
    "old llama3, its length at both places": THETA | OUTER | old(**LLAMA3),
    "new llama3, its length beside": OUTER | new(**SHORT, **THETA),
    "new llama3, its length at both places": OUTER | new(**LLAMA3, **THETA),
    "new and old llama3, its length beside": THETA | OUTER | new(**SHORT) | old(**SHORT),
    "length beside others": THETA | OUTER | new(**LINEAR),
    "length alone": OUTER,
    "new default": new(rope_type="default", **THETA),
    "new linear": new(**LINEAR, **THETA),
    "new linear by type": new(type="linear", factor=4.0, **THETA),
    "new llama3": new(**LLAMA3, **THETA),
    "new llama3 without its length": new(**SHORT, **THETA),
    "new without a type": new(**THETA),
    "new without theta": new(rope_type="default"),
    "new linear without theta": new(**LINEAR),
    "new with theta beside": THETA | new(**LINEAR),
    "new with theta at both places": THETA | new(**LINEAR, **THETA),
    "new with a null theta beside": {"rope_theta": None} | new(**LINEAR, **THETA),
    "new null": THETA | {"rope_parameters": None},
    "new empty": THETA | new(),
    "new and old null": new(**LINEAR, **THETA) | {"rope_scaling": None},
    "new and old alike": new(**LINEAR, **THETA) | old(**LINEAR, **THETA),
    "new and old alike, theta beside": THETA | new(**LINEAR, **THETA) | old(**LINEAR),
    "new and old alike in other words": THETA | new(**LINEAR) | old(type="linear", factor=4),
    "new and old llama3": THETA | new(**LLAMA3, **THETA) | old(**LLAMA3),
    "other numbers": new(rope_type="default", mrope_section=[1, 1, 1], factor=9.0, **THETA),
    "part beside": THETA | {"partial_rotary_factor": 0.5},
    "part inside": new(rope_type="default", partial_rotary_factor=0.5, **THETA),
    "part inside old": THETA | old(rope_type="default", partial_rotary_factor=0.5),
    "part at both places": {"partial_rotary_factor": 0.5}
    | new(rope_type="default", partial_rotary_factor=0.5, **THETA),
    "all of a head": THETA | {"partial_rotary_factor": 1.0},
    "all of a head, linear": new(**LINEAR, **THETA, partial_rotary_factor=1.0),
}
REFUSED = {
    "theta": (
        {"rope_theta": 9.0} | new(**LINEAR, **THETA),
        "'rope_theta'.*'rope_parameters.rope_t",
    ),
    "theta of old": ({"rope_theta": 9.0} | old(**LINEAR, **THETA), "'rope_theta'.*'rope_scaling.r"),
    "default and yarn": (
        new(rope_type="default", **THETA) | old(type="yarn", factor=4.0),
        "'rope_parameters' and 'rope_scaling' contradict .* in rope_type: 'default' and 'yarn'",
    ),
    "yarn and default": (
        THETA | new(rope_type="yarn", factor=4.0) | old(type="default"),
        "'rope_parameters' and 'rope_scaling' contradict",
    ),
    "default and linear": (
        THETA | new(rope_type="default") | old(**LINEAR),
        "'rope_parameters' and 'rope_scaling' contradict",
    ),
    "factors": (
        THETA | new(**LINEAR) | old(rope_type="linear", factor=2.0),
        "'rope_parameters' and 'rope_scaling' contradict each other in factor: 4.0 and 2.0",
    ),
    "theta in new, none in old": (
        new(**LINEAR, **THETA) | old(**LINEAR),
        "'rope_parameters' and 'rope_scaling' contradict each other in rope_theta",
    ),
    "lengths": (
        THETA | new(**LLAMA3) | old(**SHORT),
        "'rope_parameters' and 'rope_scaling' contradict each other in original_max",
    ),
    "length beside old": (
        THETA | old(**LLAMA3) | {"original_max_position_embeddings": 32},
        "'original_max_position_embeddings' and 'rope_scaling.original_max_position_embeddings' "
        "contradict each other: 32 and 64",
    ),
    "length beside new": (
        {"original_max_position_embeddings": 32} | new(**LLAMA3, **THETA),
        "'original_max_position_embeddings' and 'rope_parameters.original_max_position_embeddings'",
    ),
    "null length beside": (
        THETA | old(**SHORT) | {"original_max_position_embeddings": None},
        "'original_max_position_embeddings' is null",
    ),
    "length out of range": (
        THETA | old(**SHORT) | {"original_max_position_embeddings": 0},
        "'original_max_position_embeddings' is 0; it must be an integer",
    ),
    "two types": (THETA | old(type="default", **LINEAR), "'rope_scaling.type' and .*rope_type'"),
    "yarn": (
        THETA | old(type="yarn", factor=4.0),
        "unknown rope type 'yarn'; .*'rope_scaling.rope_type'",
    ),
    "dynamic": (new(rope_type="dynamic", factor=2.0, **THETA), "unknown rope type 'dynamic'"),
    "longrope": (new(rope_type="longrope", **THETA), "unknown rope type"),
    "null type": (new(rope_type=None, **THETA), "unknown rope type null"),
    "null theta": ({"rope_theta": None}, "'rope_theta' is null"),
    "null theta inside": (
        new(rope_type="default", rope_theta=None),
        "parameters.rope_theta' is null",
    ),
    "null factor": (THETA | old(rope_type="linear", factor=None), "'rope_scaling.factor' is null"),
    "no factor": (THETA | old(type="linear"), "key 'rope_scaling.factor' is missing"),
    "a list": ({"rope_scaling": [1]}, "'rope_scaling' is a list of 1; it must be an object"),
    "a text": ({"rope_parameters": "linear"}, "'rope_parameters' is 'linear'; it must be an obj"),
    "an empty list": ({"rope_scaling": []}, "'rope_scaling' is a list of 0"),
    "by kind of layer": (
        new(full_attention=LINEAR | THETA, sliding_attention=THETA),
        "'rope_parameters' is nested by kind of layer",
    ),
    "a kind beside settings": (new(**THETA, full_attention=LINEAR), "nested by kind of layer"),
    "frequencies in the wrong order": (
        new(**LLAMA3 | THETA | {"low_freq_factor": 3.0}),
        "'high_freq_factor' is 3.0; it must be larger",
    ),
}
NESTED = {SLIDING: {"rope_type": "default", "rope_theta": 40.0}, FULL: LINEAR | THETA}
GEMMA3_READ = {
    "nothing": {},
    "thetas": THETA | {"rope_local_base_freq": 40.0},
    "scaling": THETA | {"rope_local_base_freq": 40.0, "rope_scaling": LINEAR},
    "scaling alone": {"rope_scaling": LINEAR},
    "scaling with theta inside": {"rope_scaling": LINEAR | THETA},
    "scaling null": THETA | {"rope_scaling": None},
    "nested": new(**NESTED),
    "nested by type": new(**{FULL: {"type": "linear", "factor": 4.0}, SLIDING: {}}),
    "nested without types": new(**{FULL: THETA, SLIDING: {"rope_theta": 40.0}}),
    "nested without thetas": new(**{FULL: LINEAR, SLIDING: {"rope_type": "default"}}),
    "nested without thetas, beside": THETA
    | {"rope_local_base_freq": 40.0}
    | new(**{FULL: LINEAR, SLIDING: {"rope_type": "default"}}),
    "nested and alike beside": THETA | {"rope_local_base_freq": 40.0} | new(**NESTED),
    "nested, and scaling alike": THETA | new(**NESTED) | {"rope_scaling": LINEAR},
    "nested, null thetas beside": {"rope_theta": None, "rope_local_base_freq": None}
    | new(**NESTED),
    "one null": new(**{FULL: None, SLIDING: {"rope_theta": 40.0}}),
    "one left out": new(**{FULL: LINEAR}),
    "the other left out": new(**{SLIDING: LINEAR}),
    "linear for both": new(**{FULL: LINEAR, SLIDING: LINEAR}),
    "llama3 without its length": new(**{FULL: SHORT, SLIDING: {}}),
    "llama3, its length beside too": OUTER | new(**{FULL: LLAMA3, SLIDING: {}}),
}
GEMMA3_REFUSED = {
    "theta": ({"rope_theta": 9.0} | new(**NESTED), "'rope_theta' and .*full_attention.rope_theta'"),
    "local theta": (
        {"rope_local_base_freq": 9.0} | new(**NESTED),
        "'rope_local_base_freq' and 'rope_parameters.sliding_attention.rope_theta' contradict",
    ),
    "theta of scaling": ({"rope_theta": 9.0, "rope_scaling": LINEAR | THETA}, "'rope_scaling.rope"),
    "length": (
        new(**{FULL: LLAMA3}) | {"original_max_position_embeddings": 32},
        "'original_max_position_embeddings' and 'rope_parameters.full_attention.original_max",
    ),
    "length, none inside": (
        OUTER | new(**{FULL: SHORT}),
        "'original_max_position_embeddings' and 'max_position_embeddings' contradict",
    ),
    "scaling": (
        THETA | new(**NESTED) | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "'rope_parameters.full_attention' and 'rope_scaling' contradict each other in factor",
    ),
    "flat": (new(**LINEAR, **THETA), "'rope_parameters' has 'factor'; in this family it holds"),
    "flat beside": (new(**NESTED, rope_type="default"), "'rope_parameters' has 'rope_type'"),
    "scaling by type": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "name it 'rope_type'"),
    "yarn": (new(**{FULL: {"rope_type": "yarn"}}), "unknown rope type"),
    "null theta": ({"rope_theta": None}, "'rope_theta' is null"),
    "a list": (new(**{FULL: [1]}), "'rope_parameters.full_attention' is a list of 1"),
    "no factor": (new(**{FULL: {"rope_type": "linear"}}), "full_attention.factor' is missing"),
}


def config_of(family: str, layout: dict) -> dict:
    """A model with one layer of each kind, and no other rope settings."""
    kind = "linear_attention" if family.startswith("qwen3_5") else SLIDING
    more = {"layer_types": [FULL, kind], "use_sliding_window": True, "sliding_window": 5}
    return SIZES | more | {"model_type": family, "num_hidden_layers": 2} | layout


def theirs(family: str, layout: dict) -> dict:
    """The rope settings of `AutoConfig`, which changes what it is given."""
    from transformers import AutoConfig

    config = json.loads(json.dumps(config_of(family, layout)))
    made = AutoConfig.for_model(config.pop("model_type"), **config)
    made.standardize_rope_params()  # as the models do, once more: only then the outer length counts
    return made.rope_parameters


def spec_of(settings: dict, dim: int) -> RopeSpec:
    """What transformers' rotary classes read from standardized settings."""
    kind = settings["rope_type"]
    names = {"default": (), "linear": ("factor",), "llama3": LLAMA3.keys() - {"rope_type"}}[kind]
    numbers = {k.replace("position_embeddings", "positions"): settings[k] for k in names}
    return RopeSpec(settings["rope_theta"], dim, kind, **numbers)


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("layout", READ)
def test_settings_are_those_of_transformers(family, layout):
    expected = theirs(family, READ[layout])
    # Only qwen3_5 rotates a part of a head where the type is `default`.
    part = expected.get("partial_rotary_factor", 1.0) if family.startswith("qwen3_5") else 1.0
    spec = read(config_of(family, READ[layout]))
    ropes = {layer.rope for layer in spec.layers if isinstance(layer, AttentionLayer)}
    assert ropes == {spec_of(expected, int(16 * part))}


@pytest.mark.parametrize("layout", GEMMA3_READ)
def test_settings_of_gemma3_are_those_of_transformers(layout):
    expected = theirs("gemma3_text", GEMMA3_READ[layout])
    spec = read(config_of("gemma3_text", GEMMA3_READ[layout]))
    ropes = {FULL if layer.window is None else SLIDING: layer.rope for layer in spec.layers}
    assert ropes == {kind: spec_of(expected[kind], 16) for kind in (FULL, SLIDING)}


@pytest.mark.parametrize("layout", REFUSED)
@pytest.mark.parametrize("family", DENSE)
def test_settings_that_say_two_things_are_refused(family, layout):
    changes, message = REFUSED[layout]
    with pytest.raises(InputError, match=rf"^config\.json: .*{message}") as error:
        read(config_of(family, changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", GEMMA3_REFUSED)
def test_settings_of_gemma3_that_say_two_things_are_refused(layout):
    changes, message = GEMMA3_REFUSED[layout]
    with pytest.raises(InputError, match=rf"^config\.json: .*{message}") as error:
        read(config_of("gemma3_text", changes))
    assert "\n" not in str(error.value)


def test_parts_of_a_head():
    """Only qwen3_5 rotates a part; the other classes ignore the key, or fail if they scale."""
    nested = new(rope_type="default", partial_rotary_factor=0.5, **THETA)
    with pytest.raises(InputError, match=r"'partial_rotary_factor' and 'rope_parameters\.partial_"):
        read(config_of("qwen3_5_text", nested | {"partial_rotary_factor": 0.25}))
    with pytest.raises(InputError, match="'partial_rotary_factor' is null"):
        read(config_of("qwen3_5_text", {"partial_rotary_factor": None}))
    for family in (*DENSE[:-1], "gemma3_text"):
        scaled = {"rope_scaling": LINEAR, "partial_rotary_factor": 0.5}
        with pytest.raises(InputError, match=r"'partial_rotary_factor' is 0\.5; .*whole heads"):
            read(config_of(family, scaled))


def test_every_family_is_here():
    assert {*DENSE, "gemma3_text"} == CLASS_DEFAULTS.keys()
