"""The cache: what `write` stores, and cached runs against whole ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts

from rmas.models import Segment, abstract_params, empty_tail, positions, run
from rmas.models import write as write_eager
from rmas.models.spec import LayerSpec, ModelSpec, RopeSpec
from rmas.weights import load_params

STEPS = 8
write = rollouts.jit(write_eager)
# Two full layers around one with a short window, twice, and a remainder.
ROPE = RopeSpec(theta=300.0, kind="default")
FULL, NEAR = LayerSpec(None, ROPE), LayerSpec(4, ROPE)
SPEC = ModelSpec(
    family="qwen2", vocab_size=20, d_model=8, d_ff=12, n_heads=2, n_kv_heads=1, head_dim=4,
    activation="silu", norm_eps=1e-5, qkv_bias=True, out_bias=False, mlp_bias=False,
    qk_norm=False, tied=True, max_positions=64, layers=(FULL, NEAR, FULL, NEAR, FULL),
)  # fmt: skip
VALID = np.arange(9) >= np.array([[0], [3], [8]])


def entries_of(size: int, value: float, batch: int = 3):
    """Entries like a new run's, filled with `value + slot`."""
    tail = empty_tail(SPEC, batch, size, jnp.float32)
    slots = value + np.arange(size, dtype=np.float32)[:, None, None]
    return jax.tree.map(lambda a: a + slots, tail.entries)


def slots(tail: Segment) -> np.ndarray:
    """The number in each slot [B, S], which must be the same in every array of the cache."""
    stacks = [np.reshape(a, (-1, *a.shape[-4:])) for a in jax.tree.leaves(tail.entries)]
    all_NBSHK = np.concatenate(stacks)
    assert (all_NBSHK == all_NBSHK[:1, :, :, :1, :1]).all()
    return all_NBSHK[0, :, :, 0, 0]


def test_write_appends_valid_positions_of_each_row():
    tail = empty_tail(SPEC, 3, 6, jnp.float32)
    first = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    tail = write(tail, entries_of(3, 1.0), first, np.array([[5, 6, 7], [0, 9, 0], [0, 0, 0]]))
    second = np.array([[1, 1], [1, 1], [0, 1]], bool)
    tail = write(tail, entries_of(2, 10.0), second, np.array([[8, 9], [10, 11], [0, 3]]))
    expected = [[1, 2, 3, 10, 11, 0], [2, 10, 11, 0, 0, 0], [11, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(slots(tail), expected)
    np.testing.assert_array_equal(tail.valid_BS, np.array(expected) > 0)
    np.testing.assert_array_equal(
        tail.pos_BS, [[5, 6, 7, 8, 9, 0], [9, 10, 11, 0, 0, 0], [3, 0, 0, 0, 0, 0]]
    )


def test_a_parked_row_keeps_its_tail_bit_by_bit():
    tail = write(
        empty_tail(SPEC, 3, 4, jnp.float32),
        entries_of(2, np.pi),
        np.ones((3, 2), bool),
        np.ones((3, 2), np.int32),
    )
    valid = np.array([[1], [0], [1]], bool)
    after = write(tail, entries_of(1, np.nan), valid, np.full((3, 1), 7))
    before, now = (map(np.asarray, jax.tree.leaves(t)) for t in (tail, after))
    for a, b in zip(before, now, strict=True):
        axis = a.ndim - 4 if a.ndim >= 4 else 0
        np.testing.assert_array_equal(np.take(a, 1, axis), np.take(b, 1, axis))
        assert not np.array_equal(np.take(a, 0, axis), np.take(b, 0, axis))


def test_positions_beyond_the_last_slot_are_dropped():
    tail = empty_tail(SPEC, 3, 2, jnp.float32)
    valid = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]], bool)
    pos = np.tile(np.arange(3), (3, 1))
    tail = write(tail, entries_of(3, 1.0), valid, pos)
    np.testing.assert_array_equal(slots(tail), [[1, 2], [2, 3], [3, 0]])
    again = write(tail, entries_of(3, 7.0), np.ones((3, 3), bool), pos)
    np.testing.assert_array_equal(slots(again), [[1, 2], [2, 3], [3, 7]])


def test_entries_take_the_type_of_the_tail():
    tail = empty_tail(SPEC, 3, 2, jnp.bfloat16)
    tail = write(tail, entries_of(1, 1.0), np.ones((3, 1), bool), np.zeros((3, 1), np.int32))
    assert {a.dtype for a in jax.tree.leaves(tail.entries)} == {jnp.dtype(jnp.bfloat16)}


def full_run(spec, params, x, valid, map_DD, latent):
    """States at the last prompt position and after it, from one run over everything."""
    states, fed = latent(spec, params, x, valid, map_DD, STEPS)
    sequence = np.concatenate([x, fed], 1)
    now_valid = np.concatenate([valid, np.ones((len(x), STEPS), bool)], 1)
    return states, sequence, now_valid


def example(d_model, dtype, seed=0):
    r = np.random.default_rng(seed)
    x = (0.5 * r.standard_normal((*VALID.shape, d_model))).astype(dtype)
    return x, (0.5 * d_model**-0.5 * r.standard_normal((d_model, d_model))).astype(dtype)


@pytest.mark.parametrize("case", ["llama", "mistral_window", "qwen2_mixed", "qwen3"])
def test_cached_rollout_is_the_whole_run(tiny, case):
    import tiny_hf

    m = tiny(case)
    for dtype, tolerance in ((np.float32, 3e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):
            params = load_params(m.spec, m.folder, dtype)
            x, map_DD = example(32, dtype)
            args = full_run(m.spec, params, x, VALID, map_DD, rollouts.latent)
            states, sequence, valid = args
            assert states.dtype == dtype
            whole, _ = rollouts.whole(m.spec, params, sequence, valid)
        np.testing.assert_allclose(states, whole[:, -STEPS - 1 :], rtol=0, atol=tolerance)
        if dtype == np.float32:
            theirs, _ = tiny_hf.hidden_and_logits(m.torch, sequence, valid)
            np.testing.assert_allclose(states, theirs[:, -STEPS - 1 :], rtol=0, atol=5e-5)


def test_many_new_positions_after_two_segments():
    """A ragged, left-padded chunk after prefix and tail gives what one run gives."""
    with jax.enable_x64(True):
        r = np.random.default_rng(3)
        params = jax.tree.map(lambda a: 0.4 * r.standard_normal(a.shape), abstract_params(SPEC))
        x, _ = example(8, np.float64)
        valid = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 1, 0, 1, 1]], bool)
        x = x[:2]
        pos = positions(valid)
        run_jit = rollouts.jit(run, static_argnums=0)
        whole, _ = run_jit(SPEC, params, x, valid, pos)
        head, tail, past = slice(0, 4), empty_tail(SPEC, 2, 3, jnp.float64), ()
        h, entries = run_jit(SPEC, params, x[:, head], valid[:, head], pos[:, head])
        chunks, past = [h], (Segment(entries, valid[:, head], pos[:, head]),)
        for at in (slice(4, 6), slice(6, 9)):
            h, new = run_jit(SPEC, params, x[:, at], valid[:, at], pos[:, at], (*past, tail))
            chunks.append(h)
            tail = write(tail, new, valid[:, at], pos[:, at])
        np.testing.assert_allclose(
            np.concatenate(chunks, 1)[valid], np.asarray(whole)[valid], rtol=0, atol=1e-9
        )
