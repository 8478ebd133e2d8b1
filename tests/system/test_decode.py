"""Decoding: greedy against no cache, draws that depend on the row alone, rows that stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.errors import InputError
from rmas.system import decode
from rmas.system.batching import Prefilled, RunningBatch
from rmas.system.decode import CHUNK, row_keys
from rmas.system.sampling import Sampling, choose
from support.tiny_systems import model_spec, random_params

SPEC = model_spec("llama", 24)
PROMPTS = [(1, 2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12, 13, 14), (15,)]
GREEDY = Sampling()
NEVER = (10_000,)


@pytest.fixture(scope="module")
def params():
    return random_params(SPEC, 3, np.float32)


@jax.jit
def begin(params, ids, valid):
    return decode.start(SPEC, params, models.embed(SPEC, params, ids), valid)


def state_of(params, prompts, length=8):
    ids, valid = np.zeros((len(prompts), length), np.int32), np.zeros((len(prompts), length), bool)
    for b, prompt in enumerate(prompts):
        if prompt:
            ids[b, -len(prompt) :] = prompt
            valid[b, -len(prompt) :] = True
    return begin(params, ids, valid)


def decoded(params, prompts, names, sampling=GREEDY, eos=NEVER, limit=40, length=8, seed=0):
    rows = len(prompts)
    limits = np.full(rows, limit)
    batch = Prefilled(state_of(params, prompts, length), row_keys(seed, names), limits, rows)
    return RunningBatch(SPEC, params, sampling, [batch], eos=eos).run()


NAMES = [f"q{i}" for i in range(4)]


@pytest.fixture(scope="module")
def greedy(params):
    return decoded(params, PROMPTS, NAMES, limit=2 * CHUNK)


def test_greedy_is_argmax_without_a_cache(params, greedy):
    """Every id is the likeliest after all before it, read anew as one sequence."""
    for prompt, ids in zip(PROMPTS, greedy, strict=True):
        assert len(ids) == 2 * CHUNK
        sequence = np.zeros((1, 80), np.int32)
        sequence[0, : len(prompt) + len(ids)] = [*prompt, *ids]
        valid = np.arange(80)[None] < len(prompt) + len(ids)
        logits = whole(params, sequence, valid)[0]
        best = np.argmax(logits, -1)[len(prompt) - 1 :][: len(ids)]
        assert best.tolist() == ids
    assert len({tuple(ids) for ids in greedy}) == 4


@jax.jit
def whole(params, ids, valid):
    x = models.embed(SPEC, params, ids)
    h, _ = models.run(SPEC, params, x, valid, models.positions(valid))
    return models.unembed(SPEC, params, h)


SAMPLED = Sampling(temperature=1.0)


@pytest.mark.slow
def test_draws_depend_on_the_row_alone(params):
    """Not on order, company, batch size or padding."""
    together = decoded(params, PROMPTS, NAMES, SAMPLED)
    assert len({tuple(ids) for ids in together}) == 4
    order = [2, 0, 3, 1]
    shuffled = decoded(params, [PROMPTS[i] for i in order], [NAMES[i] for i in order], SAMPLED)
    assert shuffled == [together[i] for i in order]
    alone = decoded(params, [PROMPTS[2], ()], [NAMES[2], ""], SAMPLED, length=24)
    assert alone == [together[2], []]


def test_draws_depend_on_seed_and_name(params):
    same = [PROMPTS[0]] * 3
    one = decoded(params, same, ["a", "a", "b"], SAMPLED)
    assert one[0] == one[1] != one[2]
    assert decoded(params, same, ["a", "a", "b"], SAMPLED, seed=1)[0] != one[0]


def test_row_keys():
    keys = row_keys(0, ["a", "b", "a"])
    assert (keys.shape, keys.dtype) == ((3, 2), np.uint32)
    assert (keys[0] == keys[2]).all() and (keys[0] != keys[1]).any()
    assert (row_keys(1, ["a"]) != keys[:1]).any()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-9), Sampling(1e-6)],
    ids=["top_k", "top_p", "cold"],
)
def test_sampling_that_leaves_one_token_is_greedy(params, greedy, sampling):
    assert decoded(params, PROMPTS, NAMES, sampling) == [ids[:40] for ids in greedy]


LOGITS = np.log(np.array([0.4, 0.05, 0.3, 0.2, 0.05]))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), [0.4, 0.05, 0.3, 0.2, 0.05]),
        (Sampling(0.5), np.array([0.16, 0.0025, 0.09, 0.04, 0.0025]) / 0.295),
        (Sampling(1.0, top_k=2), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.6), [4 / 7, 0, 3 / 7, 0, 0]),  # the one that crosses counts
        (Sampling(1.0, top_p=0.75), [4 / 9, 0, 3 / 9, 2 / 9, 0]),
        # top_p is of what top_k leaves: .4 of .7 is short of .6, so that both stay.
        (Sampling(1.0, top_p=0.6, top_k=2), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.55, top_k=2), [1, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_frequencies(sampling, expected):
    n = 4000
    keys = row_keys(7, [str(i) for i in range(n)])
    logits = jnp.tile(jnp.asarray(LOGITS, jnp.float32), (n, 1))
    ids = choose(sampling, logits, keys, jnp.zeros(n, jnp.int32))
    share = np.bincount(ids, minlength=5) / n
    # Four standard deviations of a share.
    np.testing.assert_allclose(share, expected, rtol=0, atol=4 * 0.5 / np.sqrt(n))
    assert (share[np.array(expected) == 0] == 0).all()


def test_positions_draw_independently():
    keys = np.repeat(row_keys(0, ["a"]), 400, axis=0)
    logits = jnp.zeros((400, 50))
    ids = choose(SAMPLED, logits, keys, jnp.arange(400))
    assert len(set(ids.tolist())) > 40


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1},
     {"top_k": -1}],
)  # fmt: skip
def test_impossible_sampling(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_rows_stop_at_any_eos(params, greedy):
    """Each row at its own first stop token, which is kept; the others go on."""
    eos = (greedy[0][3], greedy[1][5], NEVER[0])
    got = decoded(params, PROMPTS, NAMES, eos=eos)
    for ids, full in zip(got, greedy, strict=True):
        ends = [i + 1 for i, token in enumerate(full) if token in eos]
        assert ids == full[: min([*ends, 40])]
    assert len(got[0]) <= 4
    assert len({len(ids) for ids in got}) > 1


@pytest.mark.parametrize("limit", [1, 7, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_limits(params, greedy, limit):
    assert decoded(params, PROMPTS, NAMES, limit=limit) == [ids[:limit] for ids in greedy]


def test_finished_and_empty_rows_never_write(params, greedy):
    """Their caches stay as they are, bit by bit, while others go on."""
    state = decode.widen(8, 2 * CHUNK, state_of(params, [PROMPTS[0], (), PROMPTS[1]]))
    assert state.done_B.tolist() == [False, True, False]
    eos = jnp.array([greedy[0][3]])
    keys, limits = row_keys(0, ["a", "b", "c"]), np.full(3, 2 * CHUNK)
    assert greedy[0][3] not in greedy[1][: 2 * CHUNK]
    state, _, wrote = decode.chunk(SPEC, GREEDY, params, state, keys, eos, limits)
    count = greedy[0].index(greedy[0][3]) + 1
    assert wrote.sum(1).tolist() == [count, 0, CHUNK]
    # A stop token is written to the answer, but nothing reads it: the tail lacks it.
    assert state.tail.valid_BS.sum(1).tolist() == [count - 1, 0, CHUNK]
    after, ids, wrote = decode.chunk(SPEC, GREEDY, params, state, keys, eos, limits)
    assert wrote.sum(1).tolist() == [0, 0, CHUNK]
    assert ids[:2].tolist() == [[0] * CHUNK] * 2
    for before, later in zip(
        jax.tree.leaves(state.tail.entries), jax.tree.leaves(after.tail.entries), strict=True
    ):
        np.testing.assert_array_equal(before[:, :2], later[:, :2])
        assert (before[:, 2] != later[:, 2]).any()


def test_a_limit_is_no_new_program(params):
    """Nor are other keys, prompts or stop tokens of the same shapes."""
    decoded(params, PROMPTS, NAMES, limit=9)
    before = decode.chunk._cache_size()
    decoded(params, PROMPTS[::-1], NAMES, limit=13, eos=(3,), seed=4)
    assert decode.chunk._cache_size() == before
    decoded(params, PROMPTS, NAMES, Sampling(0.9), limit=9)
    assert decode.chunk._cache_size() == before + 1


def test_room_is_rounded_up_to_chunks(params):
    def size(limit):
        x, valid = jnp.zeros((1, 4, 24)), jnp.ones((1, 4), bool)
        state = jax.eval_shape(lambda: decode.start(SPEC, params, x, valid))
        assert state.tail.valid_BS.shape[1] == 0
        state = jax.eval_shape(lambda s: decode.widen(4, decode.tail_size(limit), s), state)
        return state.tail.valid_BS.shape[1]

    assert [size(n) for n in (1, CHUNK, CHUNK + 1)] == [CHUNK, CHUNK, 2 * CHUNK]
