"""The cache: what `write` stores, what `open_tail` moves, cached runs against whole ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import Segment, abstract_params, append, open_tail, positions, prefill, run
from rmas.models import write as write_eager
from rmas.models.cache import KV, State
from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec
from rmas.weights import load_params
from support import rollouts

STEPS = 8
write = jax.jit(write_eager)
run_jit = jax.jit(run, static_argnums=0)
# Two full layers around one with a short window, twice, and a remainder.
ROPE = RopeSpec(300.0, 4)
FULL, NEAR = AttentionLayer(None, ROPE), AttentionLayer(4, ROPE)
SPEC = ModelSpec(
    family="qwen2", vocab_size=20, d_model=8, d_ff=12, n_heads=2, n_kv_heads=1, head_dim=4,
    query_scale=0.5, activation="silu", norm_eps=1e-5, norm_offset=False, post_norms=False,
    qkv_bias=True, out_bias=False, mlp_bias=False, qk_norm=False, gated_attention=False,
    embed_scale=None, logit_softcap=None, tied=True, max_positions=64,
    layers=(FULL, NEAR, FULL, NEAR, FULL),
)  # fmt: skip
DELTA = DeltaLayer(key_heads=1, value_heads=2, key_dim=3, value_dim=5, conv_width=4)
HYBRID = dataclasses.replace(
    SPEC,
    family="qwen3_5",
    norm_eps=1e-2,
    gated_attention=True,
    layers=(DELTA, NEAR, DELTA, NEAR, DELTA),
)
SHORT = np.arange(9) >= np.array([[0], [3], [8]])
LONG = np.arange(150) >= np.array([[0], [61], [149]])


def random_params(spec):
    """Float64 numbers with which every part matters."""
    r = np.random.default_rng(3)
    return jax.tree.map(lambda a: 0.4 * r.standard_normal(a.shape), abstract_params(spec))


def empty_tail(spec, batch: int, size: int, dtype) -> Segment:
    """A tail behind a prefix of one position that is not there."""
    x = jax.ShapeDtypeStruct((batch, 1, spec.d_model), dtype)
    valid = jax.ShapeDtypeStruct((batch, 1), bool)
    _, prefix = jax.eval_shape(lambda *a: prefill(spec, *a), abstract_params(spec), x, valid)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), prefix)
    return open_tail(spec, zeros, size, dtype)[1]


def entries_of(size: int, value: float, batch: int = 3):
    """Entries like a new run's, filled with `value + slot`."""
    tail = empty_tail(SPEC, batch, size, jnp.float32)
    slots = value + np.arange(size, dtype=np.float32)[:, None]
    return jax.tree.map(lambda a: a + slots, tail.entries)


def slots(tail: Segment) -> np.ndarray:
    """The number in each slot [B, S], which must be the same in every array of the cache."""
    stacks = [np.reshape(a, (-1, *a.shape[-4:])) for a in jax.tree.leaves(tail.entries)]
    all_NBHSK = np.concatenate(stacks)
    assert (all_NBHSK == all_NBHSK[:1, :, :1, :, :1]).all()
    return all_NBHSK[0, :, 0, :, 0]


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


def test_one_position_is_written_where_each_row_is():
    """Rows at three slots, one that is full and one that is done: as where T is more than one."""
    tail = empty_tail(SPEC, 5, 3, jnp.float32)
    first = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]], bool)
    tail = write(tail, entries_of(3, 1.0, batch=5), first, np.tile(np.arange(3), (5, 1)))
    valid, pos = np.array([[1], [1], [1], [0], [1]], bool), np.arange(5)[:, None] + 7
    one = write(tail, entries_of(1, 20.0, batch=5), valid, pos)
    expected = [[1, 2, 3], [1, 2, 20], [3, 20, 0], [1, 2, 0], [20, 0, 0]]
    np.testing.assert_array_equal(slots(one), expected)
    no = np.zeros_like(valid)
    two = write(
        tail, entries_of(2, 19.0, batch=5), np.hstack([no, valid]), np.hstack([pos - 7, pos])
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_append_is_a_write_of_all_rows_at_one_slot():
    once = np.ones((3, 2), bool)
    tail = write(empty_tail(SPEC, 3, 4, jnp.float32), entries_of(2, 1.0), once, once + np.arange(2))
    pos = np.array([[3], [5], [4]])
    wanted = write(tail, entries_of(1, np.pi), np.ones((3, 1), bool), pos)
    found = append(tail, entries_of(1, np.pi), pos, jnp.int32(2))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_entries_take_the_type_of_the_tail():
    tail = empty_tail(SPEC, 3, 2, jnp.bfloat16)
    tail = write(tail, entries_of(1, 1.0), np.ones((3, 1), bool), np.zeros((3, 1), np.int32))
    assert {a.dtype for a in jax.tree.leaves(tail.entries)} == {jnp.dtype(jnp.bfloat16)}


def test_open_tail_moves_states_and_leaves_keys():
    """Keys and values stay in the prefix, states go on in the tail, nothing is in both."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((3, 9, 8))
        _, prefix = jax.jit(prefill, static_argnums=0)(HYBRID, random_params(HYBRID), x, SHORT)
        kept, tail = open_tail(HYBRID, prefix, 5, jnp.float64)
    old, left, new = ([*s.entries.period, *s.entries.rest] for s in (prefix, kept, tail))
    kinds = [type(layer) for layer in (*HYBRID.period, *HYBRID.rest)]
    assert kinds == [DeltaLayer, AttentionLayer, DeltaLayer]
    for kind, before, stays, moves in zip(kinds, old, left, new, strict=True):
        if kind is DeltaLayer:
            assert isinstance(before, State)
            assert stays is None
            assert moves is before
        else:
            assert stays is before
            assert isinstance(moves, KV)
            assert moves.k_BHSK.shape == (*before.k_BHSK.shape[:-3], 1, 5, 4)
            assert not np.any(moves.k_BHSK)
            assert not np.any(moves.v_BHSK)
    assert kept.valid_BS is prefix.valid_BS
    assert kept.pos_BS is prefix.pos_BS
    assert tail.valid_BS.shape == (3, 5)
    assert not tail.valid_BS.any()


def rows_of(segment: Segment, row: int) -> list[np.ndarray]:
    """All that a segment holds of one row."""
    entries = [(e, 1) for e in segment.entries.period] + [(e, 0) for e in segment.entries.rest]
    leaves = [np.take(np.asarray(a), row, axis) for e, axis in entries for a in jax.tree.leaves(e)]
    return [*leaves, np.asarray(segment.valid_BS)[row], np.asarray(segment.pos_BS)[row]]


def test_parked_rows_keep_states_and_windows_through_steps():
    """Bit by bit while parked; and going on is as if there had been no pause."""
    awake = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
    with jax.enable_x64(True):
        r, params = np.random.default_rng(1), random_params(HYBRID)
        x, inputs = r.standard_normal((3, 9, 8)), r.standard_normal((3, len(awake), 8))
        _, prefix = jax.jit(prefill, static_argnums=0)(HYBRID, params, x, SHORT)
        prefix, tail = open_tail(HYBRID, prefix, len(awake), jnp.float64)
        done, states = np.zeros(3, int), [[] for _ in range(3)]
        for valid in awake:
            e = inputs[np.arange(3), done][:, None]
            pos = (SHORT.sum(1) + done)[:, None]
            h, new = run_jit(HYBRID, params, e, valid[:, None], pos, (prefix, tail))
            after = write(tail, new, valid[:, None], pos)
            for row in range(3):
                same = map(np.array_equal, rows_of(tail, row), rows_of(after, row))
                if valid[row]:
                    states[row].append(np.asarray(h)[row, 0])
                    assert not all(same)
                else:
                    assert all(same)
            tail, done = after, done + valid
        for row in range(3):
            own = np.concatenate([x[row, SHORT[row]], inputs[row, : done[row]]])[None]
            valid = np.ones(own.shape[:2], bool)
            h, _ = run_jit(HYBRID, params, own, valid, positions(valid))
            np.testing.assert_allclose(states[row], h[0, -done[row] :], rtol=0, atol=1e-9)


def example(valid, d_model, dtype, seed=0):
    r = np.random.default_rng(seed)
    x = (0.5 * r.standard_normal((*valid.shape, d_model))).astype(dtype)
    return x, (0.5 * d_model**-0.5 * r.standard_normal((d_model, d_model))).astype(dtype)


@pytest.mark.parametrize(
    "case", ["llama", "mistral_window", "qwen2_mixed", "qwen3", "gemma3", "qwen3_5"]
)
def test_cached_rollout_is_the_whole_run(tiny, case):
    """Against one run over all that was fed: in double our own, in float32 PyTorch's."""
    from support import tiny_hf

    m, prompt = tiny(case), LONG if case == "qwen3_5" else SHORT
    valid = np.concatenate([prompt, np.ones((len(prompt), STEPS), bool)], 1)
    x, map_DD = example(prompt, 32, np.float32)
    states, fed = rollouts.latent(m.spec, m.params, x, prompt, map_DD, STEPS)
    assert states.dtype == np.float32
    theirs, _ = tiny_hf.hidden_and_logits(m.torch, np.concatenate([x, fed], 1), valid)
    np.testing.assert_allclose(states, theirs[:, -STEPS - 1 :], rtol=0, atol=3e-5)
    with jax.enable_x64(True):
        params = load_params(m.spec, m.folder, np.float64)
        x, map_DD = example(prompt, 32, np.float64)
        states, fed = rollouts.latent(m.spec, params, x, prompt, map_DD, STEPS)
        assert states.dtype == np.float64
        whole, _ = rollouts.whole(m.spec, params, np.concatenate([x, fed], 1), valid)
        np.testing.assert_allclose(states, whole[:, -STEPS - 1 :], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("spec", "cuts"),
    [(SPEC, (4, 6, 9)), (HYBRID, (4, 6, 9)), (HYBRID, (70, 71, 150))],
    ids=["attention", "hybrid", "hybrid-long"],
)
def test_many_new_positions_after_two_segments(spec, cuts):
    """Ragged chunks with gaps, after prefix and tail, give what one run over all gives."""
    with jax.enable_x64(True):
        r, params, size = np.random.default_rng(4), random_params(spec), cuts[-1]
        x = r.standard_normal((3, size, 8))
        valid = r.random((3, size)) < 0.7
        valid[:, cuts[0] - 1] = True, True, False
        valid[1, : cuts[0] - 2] = False  # left-padded, and fewer than a window behind
        valid[2, cuts[0] : cuts[1]] = False  # a chunk of nothing
        pos = positions(valid)
        whole, _ = run_jit(spec, params, x, valid, pos)
        head = slice(0, cuts[0])
        h, entries = run_jit(spec, params, x[:, head], valid[:, head], pos[:, head])
        chunks = [h]
        prefix, tail = open_tail(
            spec, Segment(entries, valid[:, head], pos[:, head]), size - cuts[0], jnp.float64
        )
        for at in (slice(*cuts[:2]), slice(*cuts[1:])):
            h, new = run_jit(spec, params, x[:, at], valid[:, at], pos[:, at], (prefix, tail))
            chunks.append(h)
            tail = write(tail, new, valid[:, at], pos[:, at])
        np.testing.assert_allclose(
            np.concatenate(chunks, 1)[valid], np.asarray(whole)[valid], rtol=0, atol=1e-9
        )
        for row, own in enumerate(valid):
            alone = np.ones((1, own.sum()), bool)
            h, _ = run_jit(spec, params, x[row : row + 1, own], alone, positions(alone))
            np.testing.assert_allclose(h[0], np.asarray(whole)[row, own], rtol=0, atol=1e-9)
