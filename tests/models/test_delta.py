"""The gated delta rule: chunks against steps, both against the definition, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import abstract_params, delta, positions, run
from rmas.models.spec import DeltaLayer, ModelSpec

B, H, G, K, U = 2, 2, 3, 5, 4
LENGTHS = [1, 3, 63, 64, 65, 150]
chunked = jax.jit(delta.chunked)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def arrays(length, seed=0, decay=0.3):
    """Queries, keys, values, write strengths, log decays and a state, at the scales of a model."""
    r = np.random.default_rng(seed)
    q, k = (np.asarray(delta.unit(r.standard_normal((B, length, H, K)))) for _ in range(2))
    v = r.standard_normal((B, length, H, G, U))
    b = r.random((B, length, H, G))
    g = -decay * r.exponential(size=(B, length, H, G))
    return q, k, v, b, g, r.standard_normal((B, H, G, K, U))


def naive(q, k, v, b, g, s):
    """The definition, head by head: decay, write what the key does not yet give, read."""
    out, s = np.zeros(v.shape), s.copy()
    for row, h, j in np.ndindex(B, H, G):
        state = s[row, h, j]
        for t in range(q.shape[1]):
            key, strength = k[row, t, h], b[row, t, h, j]
            state = np.exp(g[row, t, h, j]) * state
            forget = np.eye(K) - strength * np.outer(key, key)
            state = forget @ state + strength * np.outer(key, v[row, t, h, j])
            out[row, t, h, j] = q[row, t, h] @ state
        s[row, h, j] = state
    return out, s


def stepped(q, k, v, b, g, s):
    """One position after the other."""
    xs = tuple(jnp.moveaxis(a, 1, 0) for a in (q, k, v, b, g))
    s, out = jax.lax.scan(lambda s, x: delta.step(*x, s)[::-1], s, xs)
    return jnp.moveaxis(out, 0, 1), s


def close(ours, theirs, tolerance=1e-9):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


stepped_jit = jax.jit(stepped)


@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_and_steps_are_the_definition(length):
    args = arrays(length)
    expected = naive(*args)
    close(chunked(*args), expected)
    close(stepped_jit(*args), expected)


@pytest.mark.parametrize("cut", [1, 40, 64, 100])
def test_a_sequence_goes_on_from_its_state(cut):
    *xs, s = arrays(150)
    whole = chunked(*xs, s)
    first, s = chunked(*(x[:, :cut] for x in xs), s)
    second, s = chunked(*(x[:, cut:] for x in xs), s)
    close((jnp.concatenate([first, second], 1), s), whole)


def test_positions_without_write_and_decay_change_nothing():
    """Gaps anywhere are as if they were not there; a stretch of them keeps the state's bits."""
    q, k, v, b, g, s = arrays(150)
    valid = np.random.default_rng(1).random((B, 150)) < 0.6
    valid[1, 64:128] = False  # one whole chunk
    b, g = (np.where(valid[..., None, None], x, 0) for x in (b, g))
    out, state = chunked(q, k, v, b, g, s)
    for row, own in enumerate(valid):
        alone = (x[row : row + 1, own] for x in (q, k, v, b, g))
        expected = chunked(*alone, s[row : row + 1])
        close((out[row : row + 1, own], state[row : row + 1]), expected)
    nothing = np.zeros_like(b)
    for rule, size in ((chunked, 150), (chunked, 3), (stepped_jit, 150)):
        xs = (x[:, :size] for x in (q, k, v, nothing, nothing))
        np.testing.assert_array_equal(rule(*xs, s)[1], s)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decay", [30.0, 3000.0])
def test_steep_decay_is_finite_and_exact(dtype, decay):
    """Summed over a chunk, logs of decays reach thousands: exp of their negative overflows, and
    differences of float32 sums are too coarse for the weak decays among them."""
    args = [a.astype(dtype) for a in arrays(150, decay=decay)]
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(-args[4][:, :64].sum(1).min()))
    expected = naive(*(a.astype(np.float64) for a in args))
    close(chunked(*args), expected, 1e-9 if dtype == np.float64 else 3e-6)

    def loss(*args):
        out, s = delta.chunked(*args)
        return jnp.sum(out**2) + jnp.sum(s**2)

    grads = jax.jit(jax.grad(loss, argnums=range(6)))(*args)
    assert all(np.isfinite(g).all() for g in grads)
    assert all(np.abs(g).max() > 0 for g in grads[:4])


@pytest.mark.parametrize("rule", [delta.chunked, stepped], ids=["chunked", "stepped"])
def test_gradients_match_finite_differences(rule):
    args = arrays(70, seed=2)

    def f(*args):
        out, s = rule(*args)
        return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(s))

    grads = jax.jit(jax.grad(f, argnums=range(6)))(*args)
    f = jax.jit(f)
    r = np.random.default_rng(3)
    for i, grad in enumerate(grads):
        along = r.standard_normal(grad.shape)
        up, down = (
            f(*(a + e * along if j == i else a for j, a in enumerate(args))) for e in (1e-6, -1e-6)
        )
        np.testing.assert_allclose((up - down) / 2e-6, np.vdot(grad, along), rtol=1e-6)


def test_unit_vectors_of_zeros_are_zeros_with_finite_gradients():
    x = jnp.zeros((1, 1, 1, K))
    np.testing.assert_array_equal(delta.unit(x), x)
    assert np.isfinite(jax.jacobian(delta.unit)(x)).all()


def test_convolution_reads_the_window_and_never_ahead():
    r = np.random.default_rng(4)
    x, window, kernel = (r.standard_normal(s) for s in ((B, 6, 3), (B, 3, 3), (4, 3)))
    joined = np.concatenate([window, x], 1)
    expected = [
        [[np.dot(joined[b, t : t + 4, c], kernel[:, c]) for c in range(3)] for t in range(6)]
        for b in range(B)
    ]
    np.testing.assert_allclose(delta.convolve(x, window, kernel), expected, atol=1e-12)
    low = [jnp.asarray(a, jnp.bfloat16) for a in (x, window, kernel)]
    wide = delta.convolve(*(a.astype(jnp.float32) for a in low))
    np.testing.assert_array_equal(delta.convolve(*low), wide.astype(jnp.bfloat16))  # rounded once


def test_log_decay_is_never_positive():
    a = np.linspace(-200, 200, 41).reshape(1, -1, 1)
    g = np.asarray(delta.log_decay(a, np.full(1, 0.7), np.full(1, -0.4)))
    assert np.isfinite(g).all()
    assert (g <= 0).all()
    np.testing.assert_allclose(
        g[0, 20, 0], -np.exp(0.7) * np.log1p(np.exp(a[0, 20, 0] - 0.4)), rtol=1e-12
    )


def test_the_state_of_bfloat16_weights_is_float32():
    layer = DeltaLayer(key_heads=H, value_heads=H * G, key_dim=K, value_dim=U, conv_width=4)
    spec = ModelSpec(
        family="qwen3_5", vocab_size=20, d_model=8, d_ff=12, n_heads=2, n_kv_heads=1, head_dim=4,
        query_scale=0.5, activation="silu", norm_eps=1e-2, norm_offset=True, post_norms=False,
        qkv_bias=False, out_bias=False, mlp_bias=False, qk_norm=True, gated_attention=True,
        embed_scale=None, logit_softcap=None, tied=True, max_positions=64, layers=(layer,),
    )  # fmt: skip
    r = np.random.default_rng(5)
    params = jax.tree.map(
        lambda a: jnp.asarray(0.4 * r.standard_normal(a.shape), jnp.bfloat16), abstract_params(spec)
    )
    x, valid = jnp.asarray(r.standard_normal((B, 70, 8)), jnp.bfloat16), np.ones((B, 70), bool)
    for n in (70, 1):
        h, entries = jax.jit(run, static_argnums=0)(
            spec, params, x[:, :n], valid[:, :n], positions(valid[:, :n])
        )
        (state,) = entries.period
        assert (h.dtype, state.s_BHGKU.dtype) == (jnp.bfloat16, jnp.float32)
        assert {w.dtype for w in (state.q_BWC, state.k_BWC, state.v_BWC)} == {jnp.dtype("bfloat16")}
        # More bits than bfloat16 holds are in use.
        assert not np.array_equal(state.s_BHGKU, state.s_BHGKU.astype(jnp.bfloat16))
