"""Whole models against transformers, and properties that any input must keep."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import (
    abstract_params,
    embed,
    embedding_rms,
    init_params,
    positions,
    read_spec,
    run,
)
from rmas.weights import load_params
from support import rollouts

torch = pytest.importorskip("torch")
from support import tiny_hf  # noqa: E402

CASES = sorted(tiny_hf.CASES)
FAMILIES = ["llama", "mistral_window", "qwen2_mixed", "qwen3", "gemma3", "qwen3_5"]
# Row 0 is full, row 1 starts late, row 2 holds one token.
SHORT = np.arange(18) >= np.array([[0], [7], [17]])
# The same over two chunks of the delta rule, no whole number of them.
LONG = np.arange(150) >= np.array([[0], [61], [149]])


def valid_of(case):
    """Which positions of a batch of prompts hold something."""
    return LONG if case.startswith("qwen3_5") else SHORT


def inputs(valid, dtype=np.float32, seed=0):
    x = np.random.default_rng(seed).standard_normal((*valid.shape, 32)) * 0.5
    return x.astype(dtype)


def close(a, b, tolerance, where=...):
    np.testing.assert_allclose(np.asarray(a)[where], np.asarray(b)[where], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_states_and_logits_of_embeddings(tiny, case):
    m, valid = tiny(case), valid_of(case)
    h, logits = rollouts.whole(m.spec, m.params, inputs(valid), valid)
    h_hf, logits_hf = tiny_hf.hidden_and_logits(m.torch, inputs(valid), valid)
    assert logits.dtype == jnp.float32
    close(h, h_hf, 3e-5, valid)
    close(logits, logits_hf, 5e-5, valid)


@pytest.mark.parametrize("case", FAMILIES)
def test_ids_and_greedy_continuation(tiny, case):
    m, valid = tiny(case), valid_of(case)
    ids = np.random.default_rng(1).integers(3, tiny_hf.VOCAB, valid.shape)
    mask = torch.tensor(valid, dtype=torch.long)
    expected = m.torch.generate(
        torch.tensor(ids), attention_mask=mask, do_sample=False, min_new_tokens=16,
        max_new_tokens=16, eos_token_id=[],
    )[:, valid.shape[1] :]  # fmt: skip
    ours = rollouts.greedy(m.spec, m.params, ids, valid, 16)
    np.testing.assert_array_equal(ours, expected)
    assert len(np.unique(ours)) > 8
    with torch.no_grad():
        embeds = m.torch.get_input_embeddings()(torch.tensor(ids))
    np.testing.assert_array_equal(embed(m.spec, m.params, ids), embeds)


def test_a_folder_that_leaves_out_what_the_class_gives(tmp_path):
    """As those of Llama 1 and 2: no theta, no number of key/value heads, no size of a head, ..."""
    rope = {"rope_type": "default", "rope_theta": 1e4}
    given = {"num_key_value_heads": 4, "rope_parameters": rope, "rms_norm_eps": 1e-6}
    model = tiny_hf.make("llama_biased", **given, mlp_bias=False, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key in (
        *("rope_parameters", "head_dim", "num_key_value_heads", "rms_norm_eps", "hidden_act"),
        *("tie_word_embeddings", "max_position_embeddings", "mlp_bias"),
    ):
        config.pop(key, None)
    path.write_text(json.dumps(config))
    spec, valid = read_spec(tmp_path), np.ones((2, 18), bool)
    x = np.random.default_rng(0).standard_normal((2, 18, 32)).astype(np.float32) * 0.5
    h, logits = rollouts.whole(spec, load_params(spec, tmp_path), x, valid)
    h_hf, logits_hf = tiny_hf.hidden_and_logits(model, x, valid)
    close(h, h_hf, 3e-5)
    close(logits, logits_hf, 5e-5)


@pytest.mark.parametrize("case", FAMILIES)
def test_float64_against_double(tiny, case):
    m = tiny(case)
    full = np.ones_like(valid_of(case))  # transformers makes NaN of fully masked queries in double
    x = inputs(full, np.float64)
    with jax.enable_x64(True):
        params = load_params(m.spec, m.folder, np.float64)
        h, logits = rollouts.whole(m.spec, params, x, full)
        assert h.dtype == logits.dtype == np.float64
    double = tiny_hf.make(case).double()
    h_hf, _ = tiny_hf.hidden_and_logits(double, x, full)
    # transformers takes norms, rotary angles and the delta rule in float32 even here.
    close(h, h_hf, 3e-5 if m.spec.delta else 1e-5)


@pytest.mark.parametrize("case", FAMILIES)
def test_padding_changes_nothing(tiny, case):
    m, valid = tiny(case), valid_of(case)
    with jax.enable_x64(True):
        params = load_params(m.spec, m.folder, np.float64)
        x = inputs(valid, np.float64)
        h, _ = rollouts.whole(m.spec, params, x, valid)
        for row, own in enumerate(valid):
            alone = x[row : row + 1, own]
            h_alone, _ = rollouts.whole(m.spec, params, alone, np.ones(alone.shape[:2], bool))
            close(h[row, own], h_alone[0], 1e-9)
        other = np.where(valid[..., None], x, 100 * inputs(valid, np.float64, seed=5))
        h_other, _ = rollouts.whole(m.spec, params, other, valid)
        close(h, h_other, 1e-9, valid)


@pytest.mark.parametrize("case", ["mistral_window", "qwen2_mixed", "qwen3", "gemma3", "qwen3_5"])
def test_rows_of_padding_alone_are_finite(tiny, case):
    m, valid = tiny(case), valid_of(case).copy()
    valid[1] = False

    @jax.jit
    def value_and_grads(params, x):
        def loss(params, x):
            h, _ = run(m.spec, params, x, valid, positions(valid))
            return jnp.sum(h[:, -1] ** 3), h

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    for content in (0.0, 1.0):
        x = inputs(valid)
        x[1] = content
        (_, h), grads = value_and_grads(m.params, x)
        assert np.isfinite(h).all()
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert np.abs(grads[1][0]).max() > 0


@pytest.mark.parametrize("case", ["llama", "gemma3", "qwen3_5"])
def test_bfloat16_weights_run_in_bfloat16(tiny, case):
    m, valid = tiny(case), valid_of(case)
    params = load_params(m.spec, m.folder, jnp.bfloat16)
    h, logits = rollouts.whole(m.spec, params, inputs(valid), valid)
    assert (h.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    h_32, _ = rollouts.whole(m.spec, m.params, inputs(valid), valid)
    error = np.abs(h.astype(np.float32) - h_32)[valid]
    assert 1e-4 < error.mean() < 0.03


def test_gemma3_scales_its_embeddings_by_a_number_of_the_weights_type(tiny):
    """The root of 32 is not a bfloat16; of the two roundings both are those of the class."""
    m = tiny("gemma3")
    ids = np.arange(tiny_hf.VOCAB)[None]
    for dtype, low in ((jnp.bfloat16, torch.bfloat16), (jnp.float32, torch.float32)):
        params = load_params(m.spec, m.folder, dtype)
        theirs = tiny_hf.make("gemma3").to(low).get_input_embeddings()(torch.tensor(ids))
        ours = embed(m.spec, params, ids)
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours.astype(jnp.float32), theirs.float())
        whole = params["embed"]["weight"].astype(jnp.float32) * 32**0.5
        assert np.array_equal(ours[0].astype(jnp.float32), whole) == (dtype == jnp.float32)
        rms = np.sqrt(np.mean(np.square(theirs.double().numpy())))
        np.testing.assert_allclose(embedding_rms(m.spec, params), rms, rtol=3e-3)


@pytest.mark.parametrize("case", ["llama_biased", "gemma3", "qwen3_5_untied"])
def test_init_params_have_the_loaded_tree_and_differ_by_layer(tiny, case):
    m = tiny(case)
    params = jax.jit(init_params, static_argnums=0)(m.spec, jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == jax.tree.map(jnp.shape, m.params)
    assert shapes == jax.tree.map(jnp.shape, abstract_params(m.spec))
    layers = params["layers"]
    kernels = [row for b in layers["period"].values() for row in b["mlp"]["up_proj"]["kernel"]]
    kernels += [b["mlp"]["up_proj"]["kernel"] for b in layers["rest"].values()]
    assert len(kernels) == len(m.spec.layers)
    assert len({float(k[0, 0]) for k in kernels}) == len(kernels)
    assert all(abs(float(jnp.std(k)) * len(k) ** 0.5 - 1) < 0.1 for k in kernels)


def test_positions_count_valid_slots():
    valid = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    expected = [[0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 2]]
    np.testing.assert_array_equal(positions(valid), expected)
    np.testing.assert_array_equal(
        positions(valid[:2], np.array([5, 9])), [[4, 4, 5, 6], [9, 10, 11, 12]]
    )


@pytest.mark.parametrize("distance", [4, 5])
def test_window_reaches_exactly_its_length(tiny, distance):
    """One layer with window 5 sees the position 4 before, not the one 5 before."""
    torch_model = tiny_hf.make("mistral_window", num_hidden_layers=1)
    m = tiny("mistral_window")
    spec = dataclasses.replace(m.spec, layers=m.spec.layers[:1])
    layers = jax.tree.map(lambda a: a[:1], m.params["layers"])
    params = {**m.params, "layers": layers}
    assert spec.layers[0].window == 5 == torch_model.config.sliding_window
    valid = SHORT[:1]
    x = inputs(valid)
    moved = x.copy()
    moved[0, 10] += 1.0
    h, h_moved = (rollouts.whole(spec, params, v, valid)[0] for v in (x, moved))
    change = float(np.abs(h - h_moved)[0, 10 + distance].max())
    assert (change > 1e-3) if distance < 5 else (change == 0.0)
