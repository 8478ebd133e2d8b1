"""The base models of the released systems: read, and counted to the last parameter."""

import jax
import pytest

from rmas.errors import InputError
from rmas.models import abstract_params
from rmas.models.base import base_models, base_spec
from rmas.models.spec import AttentionLayer, DeltaLayer, RopeSpec

LLAMA_1B, LLAMA_3B = (f"meta-llama/Llama-3.2-{n}B-Instruct" for n in (1, 3))
MATH, CODER = (f"Qwen/Qwen2.5-{x}-Instruct" for x in ("Math-1.5B", "Coder-3B"))
R1, MISTRAL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "BioMistral/BioMistral-7B"
QWEN3, GEMMA = "Qwen/Qwen3-1.7B", "google/gemma-3-4b-it"
SMALL, MIDDLE, LARGE = (f"Qwen/Qwen3.5-{n}B" for n in (2, 4, 9))
PATTERN = (DeltaLayer, DeltaLayer, DeltaLayer, AttentionLayer)


def test_there_are_eleven():
    named = {LLAMA_1B, LLAMA_3B, MATH, CODER, R1, MISTRAL, QWEN3, GEMMA, SMALL, MIDDLE, LARGE}
    assert set(base_models()) == named
    assert len(named) == 11


@pytest.mark.parametrize("name", base_models())
def test_parameter_count(name):
    shapes = jax.tree.leaves(abstract_params(base_spec(name)))
    assert sum(leaf.size for leaf in shapes) == base_models()[name]["parameters"]


def test_facts_of_the_dense_ones():
    llama, large_llama = base_spec(LLAMA_1B), base_spec(LLAMA_3B)
    rope = llama.layers[0].rope
    assert (rope.kind, rope.factor, rope.theta) == ("llama3", 32.0, 500000.0)
    assert (llama.head_dim, large_llama.head_dim) == (64, 128)
    assert (large_llama.n_heads, large_llama.n_kv_heads) == (24, 8)
    assert llama.tied and large_llama.tied
    mistral = base_spec(MISTRAL)
    assert {layer.window for layer in mistral.layers} == {4096}
    assert (mistral.head_dim, mistral.norm_eps, mistral.tied) == (128, 1e-5, False)
    maths, r1, coder = base_spec(MATH), base_spec(R1), base_spec(CODER)
    assert {layer.window for s in (maths, r1, coder) for layer in s.layers} == {None}
    assert [s.layers[0].rope.theta for s in (maths, r1, coder)] == [1e4, 1e4, 1e6]
    assert [s.max_positions for s in (maths, r1, coder)] == [4096, 131072, 32768]
    assert [s.tied for s in (maths, r1, coder)] == [True, False, True]
    assert all(s.qkv_bias and not s.out_bias for s in (maths, r1, coder))
    qwen3 = base_spec(QWEN3)
    assert (qwen3.qk_norm, qwen3.qkv_bias, qwen3.norm_offset) == (True, False, False)


def test_facts_of_gemma3():
    """Its file names six numbers; the rest is the class's."""
    spec = base_spec(GEMMA)
    windows = [layer.window for layer in spec.layers]
    assert [i + 1 for i, window in enumerate(windows) if window is None] == [6, 12, 18, 24, 30]
    assert set(windows) == {1024, None}
    assert (len(spec.period), spec.n_periods, len(spec.rest)) == (6, 5, 4)
    assert spec.layers[0].rope == RopeSpec(1e4, 256)
    assert spec.layers[5].rope == RopeSpec(1e6, 256, "linear", 8.0)
    assert (spec.n_heads, spec.n_kv_heads, spec.head_dim) == (8, 4, 256)
    assert (spec.query_scale, spec.embed_scale) == (1 / 16, 2560**0.5)
    assert (spec.vocab_size, spec.tied, spec.logit_softcap) == (262208, True, None)
    assert (spec.post_norms, spec.norm_offset, spec.qk_norm) == (True, True, True)


def test_facts_of_qwen3_5():
    small, middle, large = (base_spec(name) for name in (SMALL, MIDDLE, LARGE))
    for spec, repetitions in ((small, 6), (middle, 8), (large, 8)):
        assert tuple(type(layer) for layer in spec.period) == PATTERN
        assert (spec.n_periods, spec.rest) == (repetitions, ())
        assert spec.layers[3] == AttentionLayer(None, RopeSpec(1e7, 64))
        assert (spec.head_dim, spec.gated_attention, spec.vocab_size) == (256, True, 248320)
        assert (spec.delta.key_heads, spec.delta.key_dim, spec.delta.conv_width) == (16, 128, 4)
    assert [s.delta.value_heads for s in (small, middle, large)] == [16, 32, 32]
    assert [s.tied for s in (small, middle, large)] == [True, True, False]
    assert [s.d_model for s in (small, middle, large)] == [2048, 2560, 4096]


def test_other_names_are_told():
    with pytest.raises(InputError, match=r"'gpt2' is not a base .*; known: Qwen/Qwen3-1.7B"):
        base_spec("gpt2")
