"""Whole models whose attention goes through blocks: prefill, text read on, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.models import attention
from support.tiny_families import family_params, family_spec

ROWS, LENGTH, MORE = 3, 40, 37
PROMPT = np.arange(LENGTH) >= np.array([0, 11, LENGTH])[:, None]
TEXT = np.arange(MORE) >= np.array([5, 0, MORE])[:, None]


def read(spec, params, x_BTD, y_BTD):
    """Hidden states of a prompt's end and of the text after it, with the cache between them."""
    h_BD, prefix = models.prefill(spec, params, x_BTD, PROMPT, remat=True)
    prefix, tail = models.open_tail(spec, prefix, 8, x_BTD.dtype)
    one, start_B = jnp.ones((ROWS, 1), bool), jnp.asarray(PROMPT.sum(1), jnp.int32)
    pos_B1 = start_B[:, None]
    past = (prefix, tail)
    h_B1D, new = models.run(spec, params, h_BD[:, None], one, pos_B1, past=past)
    tail = models.append(tail, new, pos_B1, 0)
    pos_BT = models.positions(TEXT, start_B + 1)
    h_BTD, _ = models.run(spec, params, y_BTD, TEXT, pos_BT, past=(prefix, tail))
    return h_BD, h_B1D, jnp.where(TEXT[..., None], h_BTD, 0)


def outcome(spec, params, x_BTD, y_BTD):
    """The states and the gradients of their sum, traced anew."""

    def loss(x_BTD, y_BTD):
        states = read(spec, params, x_BTD, y_BTD)
        return sum(jnp.sum(jnp.sin(h)) for h in states), states

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x_BTD, y_BTD)


@pytest.mark.parametrize(
    "family",
    [
        "qwen2",
        pytest.param("gemma3", marks=pytest.mark.slow),
        pytest.param("qwen3_5", marks=pytest.mark.extended),
    ],
)
def test_blocks_change_no_result(family, monkeypatch):
    with jax.enable_x64(True):
        spec = family_spec(family)
        params = family_params(spec, dtype=np.float64)
        r = np.random.default_rng(2)
        arrays = [r.standard_normal((ROWS, T, spec.d_model)) for T in (LENGTH, MORE)]
        expected = outcome(spec, params, *arrays)
        calls = []
        monkeypatch.setattr(attention, "DENSE_SCORES", 0)
        monkeypatch.setattr(attention, "BLOCK", 16)
        blocked = attention.blocked
        monkeypatch.setattr(attention, "blocked", lambda *a: calls.append(a[1]) or blocked(*a))
        found = outcome(spec, params, *arrays)
    assert calls and set(calls) == {16}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
