"""Attention in blocks against the dense form: values, gradients, masks, memory, programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import attention
from rmas.models.attention import Visible
from rmas.models.model import positions
from rmas.parallel import constrain, put_batch, use
from support.fake_devices import mesh_of

B, H, G, K = 3, 2, 2, 8
SCALE = 0.3


def rows(T: int, holes: bool = False) -> np.ndarray:
    """Valid positions: the first row has none, the second some padding, the third none of it."""
    valid = np.arange(T) >= np.array([T, T // 3, 0])[:, None]
    return valid & (np.random.default_rng(T).random((B, T)) < 0.8) if holes else valid


def case(T: int, past: tuple[int, ...] = (), window=None, holes=False, dtype=np.float64):
    """Queries, keys and values of all segments, and what is seen of them."""
    r = np.random.default_rng(T)

    def heads(S: int, *more: int) -> np.ndarray:
        return r.standard_normal((B, S, H, *more, K)).astype(dtype)

    visible, start = [], 0
    for S in past:
        valid = rows(S, holes)
        visible.append((np.asarray(positions(valid, start)), valid))
        start = start + valid.sum(1)
    valid = rows(T, holes)
    pos = np.asarray(positions(valid, start))
    seen = [Visible(pos, pos_BS, valid_BS, window) for pos_BS, valid_BS in visible]
    seen.append(Visible(pos, pos, valid, window, own=True, left_padded=not holes))
    kvs = tuple((heads(S), heads(S)) for S in (*past, T))
    return heads(T, G), kvs, tuple(seen)


def dense(q, kvs, seen):
    segments = [(k, v, s.mask()) for (k, v), s in zip(kvs, seen, strict=True)]
    return attention.dense(q, segments, SCALE)


def blocked(q, kvs, seen, size=32):
    return attention.blocked(SCALE, size, q, kvs, seen)


def gradients(f, q, kvs, seen):
    """A value with a gradient at every position, and its gradients."""
    weight = jnp.asarray(np.random.default_rng(9).standard_normal(q.shape), q.dtype)
    return jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(f(*x, seen)) * weight)))((q, kvs))


def assert_close(one, other, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=atol), one, other)


@pytest.mark.parametrize("size", [16, 32, 48, 200])
@pytest.mark.parametrize(
    ("T", "past", "window", "holes"),
    [
        (100, (), None, False),
        (96, (), 20, False),
        (100, (), 50, True),
        (40, (70, 33), None, False),
        (48, (64, 5), 30, True),
    ],
)
def test_blocks_equal_all_scores_at_once(size, T, past, window, holes):
    with jax.enable_x64(True):
        arrays = case(T, past, window, holes)
        one = jax.jit(functools.partial(blocked, size=size))(*arrays)
        assert_close(one, dense(*arrays), atol=1e-9)
        grads = gradients(functools.partial(blocked, size=size), *arrays)
        assert_close(grads, gradients(dense, *arrays), atol=1e-9)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        if not past:
            assert not np.any(one[0])  # a row of padding


@pytest.mark.parametrize("size", [16, 64])
def test_single_precision_stays_within_its_rounding(size):
    arrays = case(130, (40,), dtype=np.float32)
    assert_close(blocked(*arrays, size=size), dense(*arrays), atol=2e-6)


def test_bfloat16_is_nearer_to_the_truth_than_the_dense_form():
    q, kvs, seen = case(200, dtype=np.float32)
    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (q, kvs))
    exact = dense(*jax.tree.map(lambda x: x.astype(jnp.float32), low), seen)
    out = blocked(*low, seen)
    assert out.dtype == jnp.bfloat16

    def error(x):
        return np.abs(np.asarray(x, np.float32) - exact).max()

    assert error(out) <= error(dense(*low, seen)) < 0.05
