"""Whole models against transformers, and properties that any input must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts

from rmas.models import abstract_params, embed, init_params, positions, run
from rmas.weights import load_params

torch = pytest.importorskip("torch")
import tiny_hf  # noqa: E402

CASES = sorted(tiny_hf.CASES)
FAMILIES = ["llama", "mistral_window", "qwen2_mixed", "qwen3"]
# Row 0 is full, row 1 starts late, row 2 holds one token.
VALID = np.arange(18) >= np.array([[0], [7], [17]])


def inputs(dtype=np.float32, seed=0):
    x = np.random.default_rng(seed).standard_normal((*VALID.shape, 32)) * 0.5
    return x.astype(dtype)


def close(a, b, tolerance, where=...):
    np.testing.assert_allclose(np.asarray(a)[where], np.asarray(b)[where], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_states_and_logits_of_embeddings(tiny, case):
    m = tiny(case)
    h, logits = rollouts.whole(m.spec, m.params, inputs(), VALID)
    h_hf, logits_hf = tiny_hf.hidden_and_logits(m.torch, inputs(), VALID)
    assert logits.dtype == jnp.float32
    close(h, h_hf, 3e-5, VALID)
    close(logits, logits_hf, 5e-5, VALID)


@pytest.mark.parametrize("case", FAMILIES)
def test_ids_and_greedy_continuation(tiny, case):
    m = tiny(case)
    ids = np.random.default_rng(1).integers(3, tiny_hf.VOCAB, VALID.shape)
    mask = torch.tensor(VALID, dtype=torch.long)
    expected = m.torch.generate(
        torch.tensor(ids), attention_mask=mask, do_sample=False, min_new_tokens=16,
        max_new_tokens=16, eos_token_id=[],
    )  # fmt: skip
    ours = rollouts.greedy(m.spec, m.params, ids, VALID, 16)
    np.testing.assert_array_equal(ours, expected[:, VALID.shape[1] :])
    with torch.no_grad():
        embeds = m.torch.get_input_embeddings()(torch.tensor(ids))
    np.testing.assert_array_equal(embed(m.params, ids), embeds)


@pytest.mark.parametrize("case", FAMILIES)
def test_float64_against_double(tiny, case):
    m = tiny(case)
    full = np.ones_like(VALID)  # transformers makes NaN of fully masked queries in double
    with jax.enable_x64(True):
        params = load_params(m.spec, m.folder, np.float64)
        h, logits = rollouts.whole(m.spec, params, inputs(np.float64), full)
        assert h.dtype == logits.dtype == np.float64
    double = tiny_hf.make(case).double()
    h_hf, _ = tiny_hf.hidden_and_logits(double, inputs(np.float64), full)
    # transformers takes norms and rotary angles in float32 even here.
    close(h, h_hf, 1e-5)


@pytest.mark.parametrize("case", FAMILIES)
def test_padding_changes_nothing(tiny, case):
    m = tiny(case)
    with jax.enable_x64(True):
        params = load_params(m.spec, m.folder, np.float64)
        x = inputs(np.float64)
        h, _ = rollouts.whole(m.spec, params, x, VALID)
        for row, valid in enumerate(VALID):
            alone = x[row : row + 1, valid]
            h_alone, _ = rollouts.whole(m.spec, params, alone, np.ones(alone.shape[:2], bool))
            close(h[row, valid], h_alone[0], 1e-9)
        other = np.where(VALID[..., None], x, 100 * inputs(np.float64, seed=5))
        h_other, _ = rollouts.whole(m.spec, params, other, VALID)
        close(h, h_other, 1e-9, VALID)


@pytest.mark.parametrize("case", ["mistral_window", "qwen2_mixed", "qwen3"])
def test_rows_of_padding_alone_are_finite(tiny, case):
    m = tiny(case)
    valid = VALID.copy()
    valid[1] = False

    @rollouts.jit
    def value_and_grads(params, x):
        def loss(params, x):
            h, _ = run(m.spec, params, x, valid, positions(valid))
            return jnp.sum(h[:, -1] ** 3), h

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    for content in (0.0, 1.0):
        x = inputs()
        x[1] = content
        (_, h), grads = value_and_grads(m.params, x)
        assert np.isfinite(h).all()
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert np.abs(grads[1][0]).max() > 0


def test_bfloat16_weights_run_in_bfloat16(tiny):
    m = tiny("llama")
    params = load_params(m.spec, m.folder, jnp.bfloat16)
    h, logits = rollouts.whole(m.spec, params, inputs(), VALID)
    assert (h.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    h_32, _ = rollouts.whole(m.spec, m.params, inputs(), VALID)
    error = np.abs(h.astype(np.float32) - h_32)[VALID]
    assert 1e-4 < error.mean() < 0.03


@pytest.mark.parametrize("case", ["llama_biased", "qwen2_mixed", "qwen3_mixed"])
def test_init_params_have_the_loaded_tree_and_differ_by_layer(tiny, case):
    m = tiny(case)
    params = init_params(m.spec, jax.random.key(0))
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
    spec = type(m.spec)(**{**vars(m.spec), "layers": m.spec.layers[:1]})
    layers = jax.tree.map(lambda a: a[:1], m.params["layers"])
    params = {**m.params, "layers": layers}
    assert spec.layers[0].window == 5 == torch_model.config.sliding_window
    x = inputs()[:1]
    moved = x.copy()
    moved[0, 10] += 1.0
    valid = VALID[:1]
    h, h_moved = (rollouts.whole(spec, params, v, valid)[0] for v in (x, moved))
    change = float(np.abs(h - h_moved)[0, 10 + distance].max())
    assert (change > 1e-3) if distance < 5 else (change == 0.0)
