"""Each module against its counterpart in transformers, and the maths against its definition."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from rmas.models import config, ops, positions
from rmas.models.mixers import Attention, Block, GatedDelta, GatedMLP, RMSNorm, make_context
from rmas.models.spec import AttentionLayer, DeltaLayer

torch = pytest.importorskip("torch")
from support import tiny_hf  # noqa: E402

CASES = sorted(tiny_hf.CASES)
B, T, D = 2, 11, 32
X = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)
VALID = np.ones((B, T), bool)
# Over two chunks of the delta rule, and no whole number of them; row 1 starts late.
LONG = np.random.default_rng(1).standard_normal((B, 150, D)).astype(np.float32)
LONG_VALID = np.arange(150) >= np.array([[0], [61]])
NORMS = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
GEMMA3_NORMS = {
    "input_norm": "input_layernorm",
    "post_mixer_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}


def layer_params(m, i: int) -> dict:
    """Parameters of layer i, wherever the stack keeps it."""
    spec = m.spec
    repetition, j = divmod(i, len(spec.period))
    if repetition < spec.n_periods:
        return jax.tree.map(lambda a: a[repetition], m.params["layers"]["period"][str(j)])
    return m.params["layers"]["rest"][str(j)]


def last_of_each(m, kind) -> list[int]:
    """The last layer of every different spec of that kind."""
    found = {layer: i for i, layer in enumerate(m.spec.layers) if isinstance(layer, kind)}
    return list(found.values())


def close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=tolerance)


def context(m, i: int, valid=VALID):
    return make_context(m.spec, m.spec.layers[i], positions(valid), valid, (), jnp.float32)


def hf_angles(m, i: int, pos) -> tuple:
    """Cosines and sines of layer i; one class keeps several sorts of them."""
    sorts = (m.torch.config.layer_types[i],) if m.spec.family == "gemma3" else ()
    return m.torch.model.rotary_emb(torch.tensor(X), pos, *sorts)


def hf_attention_inputs(m, i: int) -> dict:
    """Rotary angles and the additive mask, its window written out."""
    query, key = np.arange(T)[:, None], np.arange(T)[None, :]
    seen = key <= query
    if m.spec.layers[i].window is not None:
        seen &= query - key < m.spec.layers[i].window
    mask = torch.tensor(np.where(seen, 0.0, -1e30), dtype=torch.float32)[None, None]
    angles = hf_angles(m, i, torch.arange(T)[None].repeat(B, 1))
    return {"position_embeddings": angles, "attention_mask": mask.expand(B, 1, T, T)}


@pytest.mark.parametrize("case", ["qwen3", "gemma3", "qwen3_5"])
def test_norms(tiny, case):
    m = tiny(case)
    (i,) = last_of_each(m, AttentionLayer)[-1:]
    layer, ours = m.torch.model.layers[i], layer_params(m, i)
    names = GEMMA3_NORMS if case == "gemma3" else NORMS
    pairs = [(ours[a], getattr(layer, b), X) for a, b in names.items()]
    heads = X[..., : m.spec.head_dim].reshape(B, T, 1, -1)
    for name in ("q_norm", "k_norm"):
        pairs.append((ours["attention"][name], getattr(layer.self_attn, name), heads))
    norm = RMSNorm(m.spec.norm_eps, m.spec.norm_offset)
    for p, theirs, x in pairs:
        close(norm.apply({"params": p}, x), theirs(torch.tensor(x)))
    assert {*ours} - {"attention", "mlp"} == {*names}


@pytest.mark.parametrize("case", ["qwen3", "gemma3"])
def test_norms_round_where_the_class_rounds(tiny, case):
    """In bfloat16 the weight multiplies after rounding, an offset one before: bits differ."""
    m = tiny(case)
    low, x = jnp.asarray(m.params["norm"]["weight"], jnp.bfloat16), jnp.asarray(LONG, jnp.bfloat16)
    theirs = tiny_hf.make(case).model.norm.bfloat16()(torch.tensor(LONG).bfloat16()).float()
    same = {
        offset: np.mean(
            ops.rms_norm(x, low - (offset != m.spec.norm_offset) * (2 * offset - 1), 1e-3, offset)
            == theirs.numpy()
        )
        for offset in (False, True)
    }
    assert same[m.spec.norm_offset] > 0.999
    assert same[not m.spec.norm_offset] < 0.9


@pytest.mark.parametrize("case", CASES)
def test_rope_angles(tiny, case):
    m = tiny(case)
    pos = np.array([[0, 1, 5, 60, 64, 250]])
    layers = last_of_each(m, AttentionLayer)
    assert len({m.spec.layers[i].rope for i in layers}) == (2 if m.spec.family == "gemma3" else 1)
    for i in layers:
        rope = m.spec.layers[i].rope
        cos, sin = ops.rope_angles(rope, jnp.asarray(pos), np.float32)
        for ours, full in zip((cos, sin), hf_angles(m, i, torch.tensor(pos)), strict=True):
            half = full[..., : rope.dim // 2]
            assert torch.equal(full, torch.cat([half, half], -1))
            close(ours[:, :, 0], half, 3e-5)


def test_llama3_frequencies_keep_blend_and_divide(tiny):
    """The tiny numbers reach all three ranges, so that parity says something about each."""
    rope = tiny("llama").spec.layers[0].rope
    plain = ops.inverse_frequencies(dataclasses.replace(rope, kind="default"))
    ratio = ops.inverse_frequencies(rope) / plain
    assert (ratio == 1).sum() >= 2
    assert (np.isclose(ratio, 1 / rope.factor)).sum() >= 2
    assert ((ratio < 0.99) & (ratio > 1.01 / rope.factor)).sum() >= 2


@pytest.mark.parametrize("case", CASES)
def test_attention(tiny, case):
    m = tiny(case)
    for i in last_of_each(m, AttentionLayer):
        p = {"params": layer_params(m, i)["attention"]}
        module = Attention(m.spec, m.spec.layers[i])
        ours, _ = jax.jit(lambda p, a=module, i=i: a.apply(p, X, context(m, i), ()))(p)
        layer = m.torch.model.layers[i].self_attn
        theirs, _ = layer(torch.tensor(X), **hf_attention_inputs(m, i))
        close(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_mlp(tiny, case):
    m = tiny(case)
    p = {"params": layer_params(m, 1)["mlp"]}
    close(GatedMLP(m.spec).apply(p, X), m.torch.model.layers[1].mlp(torch.tensor(X)))


@pytest.mark.parametrize(
    "case",
    ["llama_biased", "qwen2_mixed", "qwen3_mixed", "gemma3", "gemma3_biased", "qwen3_5"],
)
def test_last_block(tiny, case):
    m = tiny(case)
    i = len(m.spec.layers) - 1
    p, block = {"params": layer_params(m, i)}, Block(m.spec, m.spec.layers[i])
    ours, _ = jax.jit(lambda p: block.apply(p, X, context(m, i), ()))(p)
    if isinstance(m.spec.layers[i], DeltaLayer):
        inputs = {"position_embeddings": None, "attention_mask": None}
    else:
        inputs = hf_attention_inputs(m, i)
    close(ours, m.torch.model.layers[i](torch.tensor(X), **inputs))


@functools.partial(jax.jit, static_argnums=(0, 1))
def delta_net(spec, layer, params, x, valid):
    """Output and state of a gated delta-net layer."""
    shared = make_context(spec, layer, positions(valid), valid, (), x.dtype)
    return GatedDelta(spec, layer).apply({"params": params}, x, shared, ())


def delta_case(tiny, case):
    """The case, the last of its delta-net layers, and what `delta_net` needs before the input."""
    m = tiny(case)
    (i,) = last_of_each(m, DeltaLayer)
    return m, i, (m.spec, m.spec.layers[i], layer_params(m, i)["delta"])


@pytest.mark.parametrize("case", ["qwen3_5", "qwen3_5_untied"])
def test_gated_delta_net(tiny, case):
    """Outputs at valid positions, the state and the windows that a cache would hold."""
    m, i, ours = delta_case(tiny, case)
    theirs = m.torch.model.layers[i].linear_attn
    y, state = delta_net(*ours, LONG, LONG_VALID)
    mask = torch.tensor(LONG_VALID, dtype=torch.long)
    cache = transformers.DynamicCache(config=m.torch.config)
    expected = theirs(torch.tensor(LONG), attention_mask=mask, cache=cache)
    close(np.asarray(y)[LONG_VALID], expected[LONG_VALID])
    s = cache.get_recurrent_state(i, state_idx=0)
    close(state.s_BHGKU.reshape(s.shape), s)
    window = np.concatenate([state.q_BWC, state.k_BWC, state.v_BWC], -1).swapaxes(1, 2)
    last = cache.get_conv_state(i, state_idx=0)
    close(window, last[..., last.shape[-1] - window.shape[-1] :])


def test_nothing_in_padding_reaches_the_delta_net(tiny):
    """Its inputs there are zeroed, whatever they are: even numbers that are none."""
    _, _, ours = delta_case(tiny, "qwen3_5")
    y, state = delta_net(*ours, LONG, LONG_VALID)
    broken = np.where(LONG_VALID[..., None], LONG, np.float32(np.nan))
    other, same = delta_net(*ours, broken, LONG_VALID)
    np.testing.assert_array_equal(np.asarray(other)[LONG_VALID], np.asarray(y)[LONG_VALID])
    jax.tree.map(np.testing.assert_array_equal, same, state)
    assert np.isfinite(other).all()


def test_every_part_of_the_delta_net_matters(tiny):
    """With these random numbers no part could be left out unnoticed."""
    _, _, (spec, layer, params) = delta_case(tiny, "qwen3_5")

    def output(params):
        return np.asarray(delta_net(spec, layer, params, LONG, LONG_VALID)[0])[LONG_VALID]

    y = output(params)

    def change(name, f) -> float:
        """How far the output moves, in its own units, if a parameter is changed."""
        moved = output(params | {name: jax.tree.map(f, params[name])}) - y
        return float(np.linalg.norm(moved) / np.linalg.norm(y))

    assert change("a_log", lambda a: a - 20) > 0.2  # nothing decays
    assert change("dt_bias", np.zeros_like) > 0.02
    assert change("a_proj", np.zeros_like) > 0.1
    assert change("b_proj", np.zeros_like) > 0.1  # all writes equally strong
    for name in ("q_conv", "k_conv", "v_conv"):
        assert change(name, lambda k: k.at[:-1].set(0)) > 0.2  # no convolution
    assert change("z_proj", lambda k: jnp.roll(k, 1, axis=1)) > 0.2  # another's gate
    assert change("norm", np.ones_like) > 0.1


def test_what_is_far_back_still_counts(tiny):
    """Memory reaches over the border of a chunk, so that parity says something about borders."""
    _, _, ours = delta_case(tiny, "qwen3_5")
    other = LONG.copy()
    other[:, :56] *= -1
    y, moved = (np.asarray(delta_net(*ours, x, np.ones_like(LONG_VALID))[0]) for x in (LONG, other))
    assert np.abs(moved - y)[:, 64 + 4 :].max() > 0.01


def test_activations_are_those_that_configs_may_name():
    assert set(ops.ACTIVATIONS) == set(config.ACTIVATIONS)
