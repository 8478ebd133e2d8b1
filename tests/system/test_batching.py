"""Continuous batching: a text is the same alone, in a static batch, and in a row filled again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.parallel import put_batch, use
from rmas.system import batching, decode
from rmas.system.batching import Prefilled, RunningBatch
from rmas.system.decode import CHUNK, row_keys
from rmas.system.sampling import Sampling
from support.fake_devices import mesh_of
from support.tiny_families import family_params, family_spec

LIMITS = (5, 70, 33, 2, 40, 64, 1, 20, 37)
N = len(LIMITS)
LENGTHS = (3, 9, 5, 7, 1, 12, 18, 2, 6)  # of prompts: those above 16 are in the next bucket
SAMPLED = Sampling(temperature=1.0)


@functools.cache
def family(name):
    """Architecture and weights."""
    spec = family_spec(name)
    return spec, family_params(spec, 0, np.float64 if jax.config.jax_enable_x64 else np.float32)


@functools.partial(jax.jit, static_argnums=0)
def start(spec, params, ids_BT, valid_BT):
    return decode.start(spec, params, models.embed(spec, params, ids_BT), valid_BT)


def prefilled(name, texts, rows, limits=LIMITS, mesh=None):
    """Some texts in a batch of `rows` rows, as wide as the longest prompt needs."""
    spec, params = family(name)
    width = 16 if max(LENGTHS[n] for n in texts) <= 16 else 32
    ids, valid = np.zeros((rows, width), np.int32), np.zeros((rows, width), bool)
    for b, n in enumerate(texts):
        prompt = np.random.default_rng(n).integers(0, 42, LENGTHS[n])
        ids[b, width - LENGTHS[n] :], valid[b, width - LENGTHS[n] :] = prompt, True
    keys = row_keys(0, [f"q{n}" for n in texts] + [""] * (rows - len(texts)))
    limit_B = np.ones(rows, np.int32)
    limit_B[: len(texts)] = [limits[n] for n in texts]
    if mesh:
        ids, valid = put_batch(mesh, (ids, valid))
    return Prefilled(start(spec, params, ids, valid), keys, limit_B, len(texts))


def running(name, groups, rows, sampling=SAMPLED, eos=(), **kw):
    spec, params = family(name)
    batches = (prefilled(name, group, rows, **kw) for group in groups)
    return RunningBatch(spec, params, sampling, batches, eos=eos)


def groups_of(order, rows):
    return [order[at : at + rows] for at in range(0, len(order), rows)]


def together(name, order, rows, **kw):
    """Ids by text, written as one queue."""
    found = running(name, groups_of(order, rows), rows, **kw).run()
    return dict(zip(order, found, strict=True))


def static(name, order, rows, **kw):
    """Ids by text, each batch on its own."""
    found = {}
    for group in groups_of(order, rows):
        found |= together(name, group, rows, **kw)
    return found


FAMILIES = [
    "llama",
    pytest.param("gemma3", marks=pytest.mark.slow),
    "qwen3_5",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_those_of_static_batches_in_any_order(name):
    order = list(range(N))
    expected = static(name, order, 3)
    assert [len(expected[n]) for n in order] == list(LIMITS)
    assert len({tuple(ids[:5]) for ids in expected.values() if len(ids) >= 5}) > 4
    assert together(name, order, 3) == expected
    assert together(name, order[::-1], 3) == expected
    assert together(name, order, 4) == expected  # the last batch is not full
    assert together(name, [6], 1)[6] == expected[6]  # alone
    # Stop tokens end texts, too.
    eos = (expected[1][40], expected[5][10])
    stopped = together(name, order, 3, eos=eos)
    for n in order:
        ends = [i + 1 for i, token in enumerate(expected[n]) if token in eos]
        assert stopped[n] == expected[n][: min([*ends, LIMITS[n]])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen3_5"])
def test_batches_of_one_row(name):
    order = list(range(5))
    assert together(name, order, 1) == static(name, order, 3)


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3_5"])
def test_logits_of_a_row_filled_again_are_those_of_the_text_alone(name):
    """After admission and a chunk, at 1e-9 in float64, whatever was in the row before."""
    with jax.enable_x64(True):
        family.cache_clear()
        try:
            limits = (20, 100, 100, 100, 100, 100, 100, 100, 100)
            run = running(name, [[0, 1], [6, 2]], 2, limits=limits)
            assert run.refill()
            (first, _) = run.chunk()
            assert first.ended
            run.free(first.row)
            assert run.refill()  # text 6, with the wider prompt, is in row 0 now
            assert run.texts == [2, 1]
            parts = run.chunk()
            alone = running(name, [[6]], 1, limits=limits)
            assert alone.refill()
            (part,) = alone.chunk()
            assert parts[0].ids == part.ids
            got, expected = run.state, alone.state
            assert got.logits_BV.dtype == np.float64
            np.testing.assert_allclose(
                got.logits_BV[0], expected.logits_BV[0], rtol=1e-9, atol=1e-9
            )
            # The neighbour, whose prompt was padded further and who is older by a chunk.
            other = running(name, [[1]], 1, limits=limits)
            assert other.refill()
            before, (after,) = other.chunk(), other.chunk()
            assert before and parts[1].ids == after.ids
            np.testing.assert_allclose(
                got.logits_BV[1], other.state.logits_BV[0], rtol=1e-9, atol=1e-9
            )
        finally:
            family.cache_clear()


def test_what_a_row_held_before_does_not_matter():
    """Not even numbers that are not finite, as of a text that went wrong."""
    run = running("qwen3_5", [[0, 1], [2, 3]], 2)
    assert run.refill()
    (first, _) = run.chunk()
    run.free(first.row)

    def spoiled(axis, x):
        if x.dtype == bool or x.dtype == np.int32:
            return x
        rows = np.expand_dims(np.array([True, False]), [i for i in range(x.ndim) if i != axis])
        return jnp.where(rows, jnp.asarray(np.nan, x.dtype), x)

    run.state = jax.jit(lambda s: decode._map_rows(spoiled, s))(run.state)
    ids = {}
    while run.refill():
        for part in run.chunk():
            ids.setdefault(run.text(part.row), []).extend(part.ids)
            if part.ended:
                run.free(part.row)
    expected = static("qwen3_5", [2, 3], 2)
    assert (ids[2], ids[3]) == (expected[2], expected[3])


def test_no_row_waits_for_the_slowest():
    limits = (3 * CHUNK, *[CHUNK] * 8)
    run = running("llama", groups_of(list(range(7)), 2), 2, limits=limits)
    ids = run.run()
    assert [len(own) for own in ids] == list(limits[:7])
    # One row writes 96 tokens, the other 3 texts; then 3 more: 5 chunks, not 6.
    assert run.chunks == 5


def test_all_rows_that_end_at_once_leave_no_copies(monkeypatch):
    """A batch then begins in its own rows, as if it were the first."""
    calls = []
    monkeypatch.setattr(decode, "admit", lambda *args: calls.append(args))
    order = list(range(6))
    same = [7] * N
    assert together("llama", order, 3, limits=same) == static("llama", order, 3, limits=same)
    assert together("llama", [0, 1], 3) == static("llama", [0, 1], 3)  # fewer texts than rows
    assert not calls


def test_programs_are_compiled_once_per_shape():
    order = list(range(6))  # all prompts are in one bucket
    together("llama", order, 2)
    programs = (decode.admit, decode.chunk, decode.widen)
    before = [p._cache_size() for p in programs]
    other = {"limits": (9, 50, 8, 40, 3, 90, 3, 2, 1)}
    together("llama", order[::-1], 2, **other)
    assert [p._cache_size() for p in programs] == before


def test_the_next_batch_is_prefilled_while_a_chunk_runs(monkeypatch):
    """Its program is dispatched after the chunk and before the chunk is fetched; one is ahead."""
    events = []
    chunk, get = decode.chunk, jax.device_get

    def spy(*args):
        events.append("chunk")
        return chunk(*args)

    def fetch(*args):
        events.append("fetch")
        return get(*args)

    def batches():
        for group in groups_of(list(range(6)), 2):
            events.append("prefill")
            yield prefilled("llama", group, 2)

    monkeypatch.setattr(decode, "chunk", spy)
    monkeypatch.setattr(batching.jax, "device_get", fetch)
    spec, params = family("llama")
    RunningBatch(spec, params, SAMPLED, batches(), eos=()).run()
    assert events[:4] == ["prefill", "chunk", "prefill", "fetch"]
    third = [i for i, event in enumerate(events) if event == "prefill"][2]
    assert (events[third - 1], events[third + 1]) == ("chunk", "fetch")
    # The third came only when all of the second had begun: text 1 has three chunks, text 0 one.
    assert events[:third].count("fetch") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen3_5"])
def test_texts_on_a_mesh(name):
    """Rows are in blocks on devices of their own; texts move to those that are free."""
    order, rows, mesh = list(range(N)), 4, mesh_of(2, 2)
    expected = static(name, order, rows)
    rotations, rotate = [], decode.rotate

    def spy(state):
        rotations.append(state)
        return rotate(state)

    with use(mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "rotate", spy)
        assert together(name, order, rows, mesh=mesh) == expected
    assert rotations
