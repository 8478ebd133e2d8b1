"""Properties of `ModelSpec`: the period of its layers, its delta layers, hashing."""

import dataclasses

import pytest

from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec

ATTENTION = AttentionLayer(None, RopeSpec(1.0, 4))
DELTA = DeltaLayer(key_heads=2, value_heads=6, key_dim=3, value_dim=5, conv_width=4)
SPEC = ModelSpec(
    family="qwen3_5", vocab_size=20, d_model=8, d_ff=12, n_heads=2, n_kv_heads=1, head_dim=4,
    query_scale=0.5, activation="silu", norm_eps=1e-5, norm_offset=True, post_norms=False,
    qkv_bias=False, out_bias=False, mlp_bias=False, qk_norm=True, gated_attention=True,
    embed_scale=None, logit_softcap=None, tied=True, max_positions=64,
    layers=(DELTA, ATTENTION, DELTA),
)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "period", "repeats", "rest"),
    [("a", "a", 1, ""), ("aaaa", "a", 4, ""), ("ababa", "ab", 2, "a"), ("aab", "aab", 1, ""),
     ("aabaabaa", "aab", 2, "aa"), ("abab", "ab", 2, ""), ("abcab", "abc", 1, "ab"),
     ("aaadaaad", "aaad", 2, ""), ("dadad", "da", 2, "d")],
)  # fmt: skip
def test_period_of_the_layer_pattern(pattern, period, repeats, rest):
    kinds = {c: AttentionLayer(i + 1, RopeSpec(1.0, 4)) for i, c in enumerate("abc")} | {"d": DELTA}
    spec = dataclasses.replace(SPEC, layers=tuple(kinds[c] for c in pattern))
    names = {v: k for k, v in kinds.items()}
    assert "".join(names[x] for x in spec.period) == period
    assert spec.n_periods == repeats
    assert "".join(names[x] for x in spec.rest) == rest


def test_the_period_of_many_layers():
    """In time that grows with their number alone."""
    layers = (DELTA, ATTENTION) * 10_000 + (ATTENTION,)
    assert dataclasses.replace(SPEC, layers=layers).period == layers
    assert dataclasses.replace(SPEC, layers=layers[:-1]).period == (DELTA, ATTENTION)


def test_specs_are_hashable_statics():
    again = dataclasses.replace(SPEC)
    assert hash(SPEC) == hash(again)
    assert len({SPEC, again, dataclasses.replace(SPEC, tied=False)}) == 2


def test_delta_layers():
    assert SPEC.delta is DELTA
    assert dataclasses.replace(SPEC, layers=(ATTENTION,)).delta is None
    assert DELTA.sizes == (2 * 3, 2 * 3, 6 * 5)
