"""Segmented attention against one softmax written out, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import attention

B, T, H, G, K = 2, 3, 2, 2, 4
SIZES = (5, 4)
SCALE = 0.7


def arrays(seed=0):
    r = np.random.default_rng(seed)
    q = r.standard_normal((B, T, H, G, K))
    segments = [
        (
            r.standard_normal((B, s, H, K)),
            r.standard_normal((B, s, H, K)),
            r.random((B, T, s)) < 0.6,
        )
        for s in SIZES
    ]
    return q, segments


def joined(q, segments):
    """One segment, one softmax, -inf for masked keys; zeros where nothing is seen."""
    k, v = (np.concatenate([s[i] for s in segments], 1) for i in (0, 1))
    mask = np.concatenate([s[2] for s in segments], 2)
    scores = np.einsum("bthgk,bshk->bthgs", q, k) * SCALE
    weights = np.exp(np.where(mask[:, :, None, None], scores, -np.inf))
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bthgs,bshk->bthgk", weights / np.where(total > 0, total, 1), v)


def test_two_segments_are_one_softmax():
    q, segments = arrays()
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            attention.attend(q, segments, SCALE), joined(q, segments), atol=1e-12
        )


@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_segments_with_nothing_to_see(empty):
    q, segments = arrays()
    for i, name in enumerate(("first", "second")):
        if empty in (name, "both"):
            k, v, mask = segments[i]
            # Scores far above those of the other segment must not swallow it.
            segments[i] = (k * 1e3, v, np.zeros_like(mask))
    with jax.enable_x64(True):
        out = attention.attend(q, segments, SCALE)
        np.testing.assert_allclose(out, joined(q, segments), atol=1e-12)
        grads = jax.grad(lambda q, s: jnp.sum(attention.attend(q, s, SCALE) ** 2), argnums=0)(
            q, segments
        )
    assert np.isfinite(grads).all()
    if empty == "both":
        assert not np.any(out)
        assert not np.any(grads)


def test_gradients_match_finite_differences():
    q, segments = arrays(1)
    masks = [s[2] for s in segments]

    def f(q, kv):
        parts = [(k, v, mask) for (k, v), mask in zip(kv, masks, strict=True)]
        return jnp.sum(jnp.sin(attention.attend(q, parts, SCALE)))

    with jax.enable_x64(True):
        kv = [(k, v) for k, v, _ in segments]
        grads = jax.grad(f, argnums=(0, 1))(q, kv)
        step = jax.tree.map(lambda a: np.random.default_rng(2).standard_normal(a.shape), (q, kv))
        up, down = (
            f(*jax.tree.map(lambda a, d, e=e: a + e * d, (q, kv), step)) for e in (1e-5, -1e-5)
        )
        slope = sum(map(np.vdot, jax.tree.leaves(grads), jax.tree.leaves(step)))
    np.testing.assert_allclose((float(up) - float(down)) / 2e-5, slope, rtol=1e-7)


def test_large_scores_do_not_overflow():
    q, segments = arrays()
    q = (1e4 * q).astype(np.float32)
    low = [tuple(a.astype(np.float32) for a in s[:2]) + s[2:] for s in segments]
    out = attention.attend(q, low, SCALE)
    assert np.isfinite(out).all()


def test_low_precision_arrays_keep_their_type():
    q, segments = arrays()
    low = [tuple(jnp.asarray(a, jnp.bfloat16) for a in s[:2]) + s[2:] for s in segments]
    out = attention.attend(jnp.asarray(q, jnp.bfloat16), low, SCALE)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), joined(q, segments), atol=0.05)
