"""Layers of a `ModelSpec` from configurations: their kinds, windows, rope, in both layouts."""

import dataclasses

import pytest

from rmas.errors import InputError
from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec
from support.configurations import ATTENTION, DELTA, GEMMA3, GLOBAL, LLAMA, LOCAL, QWEN3_5, read

PLAIN = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
MIXED = PLAIN | {
    "model_type": "qwen2",
    "num_hidden_layers": 5,
    "use_sliding_window": True,
    "sliding_window": 7,
    "max_window_layers": 3,
}
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
ROPE_FIELDS = {
    "theta": ("rope_theta", 100.0),
    "factor": ("factor", 2.0),
    "low_freq_factor": ("low_freq_factor", 2.0),
    "high_freq_factor": ("high_freq_factor", 5.0),
    "original_max_positions": ("original_max_position_embeddings", 32),
}
DELTA_FIELDS = {
    "key_heads": "linear_num_key_heads",
    "value_heads": "linear_num_value_heads",
    "key_dim": "linear_key_head_dim",
    "value_dim": "linear_value_head_dim",
    "conv_width": "linear_conv_kernel_dim",
}


def windows(spec: ModelSpec) -> list[int | None]:
    return [layer.window for layer in spec.layers]


def test_the_tables_name_every_field():
    assert ROPE_FIELDS.keys() == {f.name for f in dataclasses.fields(RopeSpec)} - {"kind", "dim"}
    assert {f.name for f in dataclasses.fields(AttentionLayer)} == {"window", "rope"}
    assert {f.name for f in dataclasses.fields(DeltaLayer)} == set(DELTA_FIELDS)


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


@pytest.mark.parametrize("key", ["factor", "low_freq_factor", "high_freq_factor"])
def test_a_missing_rope_key_raises_and_is_named(key):
    rope = {k: v for k, v in LLAMA["rope_parameters"].items() if k != key}
    with pytest.raises(InputError, match=key):
        read(LLAMA, rope_parameters=rope)


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
    assert windows(read(MIXED, sliding_window=None)) == [None] * 5  # as transformers reads it
    with pytest.raises(InputError, match="'sliding_window' is null"):
        read(MIXED, sliding_window=None, layer_types=types)
    legacy = ["attention" if kind == full else kind for kind in types]
    assert read(MIXED, layer_types=legacy) == read(MIXED, layer_types=types)
    with pytest.raises(
        InputError, match="'use_sliding_window' is false, but 'layer_types' has sli"
    ):
        read(MIXED, use_sliding_window=False, layer_types=types)
    assert windows(read(MIXED, use_sliding_window=False, layer_types=[full] * 5)) == [None] * 5


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
    assert read(GEMMA3, **flat, rope_parameters={FULL: None}) == bare
    half = read(GEMMA3, **flat, rope_parameters={FULL: {"rope_type": "linear", "factor": 4.0}})
    assert half.layers[2].rope == RopeSpec(1e6, 16, "linear", 4.0)
    assert read(GEMMA3, rope_theta=77.0).layers[2].rope.theta == 77.0
    assert read(GEMMA3, rope_local_base_freq=77.0).layers[0].rope.theta == 77.0
    for wrong in ([1], {FULL: [1]}, {FULL: {"rope_type": "yarn"}}, {FULL: {"rope_type": "linear"}}):
        with pytest.raises(InputError, match=r"^config.json: .*(rope|factor)"):
            read(GEMMA3, **flat, rope_parameters=wrong)


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


@pytest.mark.parametrize(("field", "key"), DELTA_FIELDS.items())
def test_each_field_of_the_delta_layers_is_read(field, key):
    other = 4 if field == "key_heads" else 2 * QWEN3_5[key]
    changed = read(QWEN3_5, **{key: other}).delta
    assert changed == dataclasses.replace(DELTA, **{field: other})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_num_value_heads": 3}, "3 value heads for 2 key heads"),
        (
            {"linear_conv_kernel_dim": 1},
            "'linear_conv_kernel_dim' is 1; it must be an integer from 2",
        ),
        ({"linear_key_head_dim": 1.5}, "'linear_key_head_dim' is 1.5; it must be an integer"),
        (
            {"partial_rotary_factor": 0.2},
            "factor 0.2 of a head of 16 is 3 numbers",
        ),
        (
            {"partial_rotary_factor": 1.5},
            "'partial_rotary_factor' is 1.5; it must be a number from",
        ),
        ({"partial_rotary_factor": "half"}, "'half'; it must be a number"),
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
    nested = {"partial_rotary_factor": ..., "rope_parameters": whole}
    assert read(QWEN3_5, **nested).layers[2].rope.dim == 16
    assert read(QWEN3_5, partial_rotary_factor=0.3).layers[2].rope.dim == 4  # 4.8 is cut
