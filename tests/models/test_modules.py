"""Each module against its counterpart in transformers, and the maths against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import ops, positions
from rmas.models import spec as spec_module
from rmas.models.mixers import Attention, Block, GatedMLP, RMSNorm, make_context

torch = pytest.importorskip("torch")
import tiny_hf  # noqa: E402

CASES = sorted(tiny_hf.CASES)
B, T, D = 2, 11, 32
X = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)
VALID = np.ones((B, T), bool)
BLOCK_NORMS = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
HEAD_NORMS = {"q_norm": "q_norm", "k_norm": "k_norm"}


def layer_params(m, i: int) -> dict:
    """Parameters of layer i, wherever the stack keeps it."""
    spec = m.spec
    repetition, j = divmod(i, len(spec.period))
    if repetition < spec.n_periods:
        return jax.tree.map(lambda a: a[repetition], m.params["layers"]["period"][str(j)])
    return m.params["layers"]["rest"][str(j)]


def close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=tolerance)


def context(m, i: int):
    return make_context(m.spec, m.spec.layers[i], positions(VALID), VALID, (), jnp.float32)


def hf_attention_inputs(m, i: int) -> dict:
    """Rotary angles and the additive mask, its window written out."""
    query, key = np.arange(T)[:, None], np.arange(T)[None, :]
    seen = key <= query
    if m.spec.layers[i].window is not None:
        seen &= query - key < m.spec.layers[i].window
    mask = torch.tensor(np.where(seen, 0.0, -1e30), dtype=torch.float32)[None, None]
    pos = torch.arange(T)[None].repeat(B, 1)
    angles = m.torch.model.rotary_emb(torch.tensor(X), pos)
    return {"position_embeddings": angles, "attention_mask": mask.expand(B, 1, T, T)}


@pytest.mark.parametrize("name", BLOCK_NORMS)
def test_block_norms(tiny, name):
    m = tiny("qwen3")
    theirs = getattr(m.torch.model.layers[1], BLOCK_NORMS[name])
    p = layer_params(m, 1)[name]
    close(RMSNorm(m.spec.norm_eps).apply({"params": p}, X), theirs(torch.tensor(X)))


@pytest.mark.parametrize("name", HEAD_NORMS)
def test_head_norms(tiny, name):
    m = tiny("qwen3")
    x = X[..., : m.spec.head_dim].reshape(B, T, 1, -1)
    theirs = getattr(m.torch.model.layers[2].self_attn, HEAD_NORMS[name])
    p = layer_params(m, 2)["attention"][name]
    close(RMSNorm(m.spec.norm_eps).apply({"params": p}, x), theirs(torch.tensor(x)))


@pytest.mark.parametrize("case", CASES)
def test_rope_angles(tiny, case):
    m = tiny(case)
    pos = np.array([[0, 1, 5, 60, 64, 250]])
    cos, sin = ops.rope_angles(m.spec.layers[0].rope, jnp.asarray(pos), m.spec.head_dim, np.float32)
    theirs = m.torch.model.rotary_emb(torch.tensor(X), torch.tensor(pos))
    for ours, full in zip((cos, sin), theirs, strict=True):
        half = full[..., : m.spec.head_dim // 2]
        assert torch.equal(full, torch.cat([half, half], -1))
        close(ours[:, :, 0], half, 3e-5)


def test_llama3_frequencies_keep_blend_and_divide(tiny):
    """The tiny numbers reach all three ranges, so that parity says something about each."""
    rope = tiny("llama").spec.layers[0].rope
    plain = ops.inverse_frequencies(spec_module.RopeSpec(rope.theta, "default"), 16)
    ratio = ops.inverse_frequencies(rope, 16) / plain
    assert (ratio == 1).sum() >= 2
    assert (np.isclose(ratio, 1 / rope.factor)).sum() >= 2
    assert ((ratio < 0.99) & (ratio > 1.01 / rope.factor)).sum() >= 2


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("i", [0, 1])
def test_attention(tiny, case, i):
    m = tiny(case)
    p = {"params": layer_params(m, i)["attention"]}
    ours, _ = jax.jit(lambda p: Attention(m.spec).apply(p, X, context(m, i), ()))(p)
    layer = m.torch.model.layers[i].self_attn
    theirs, _ = layer(torch.tensor(X), **hf_attention_inputs(m, i))
    close(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_mlp(tiny, case):
    m = tiny(case)
    p = {"params": layer_params(m, 1)["mlp"]}
    close(GatedMLP(m.spec).apply(p, X), m.torch.model.layers[1].mlp(torch.tensor(X)))


@pytest.mark.parametrize("case", ["llama_biased", "qwen2_mixed", "qwen3_mixed"])
def test_last_block(tiny, case):
    m = tiny(case)
    i = len(m.spec.layers) - 1
    p = {"params": layer_params(m, i)}
    ours, _ = jax.jit(lambda p: Block(m.spec).apply(p, X, context(m, i), ()))(p)
    theirs = m.torch.model.layers[i](torch.tensor(X), **hf_attention_inputs(m, i))
    close(ours, theirs)


def test_activations_are_those_that_configs_may_name():
    assert set(ops.ACTIVATIONS) == set(spec_module.ACTIVATIONS)
