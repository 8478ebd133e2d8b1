"""Attention in blocks against the dense form: values, gradients, masks, memory, programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.models import attention
from rmas.models.attention import Visible, attend, masks
from rmas.models.model import positions
from rmas.parallel import use
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


@functools.partial(jax.jit, static_argnums=0)
def outcome(form, q, kvs, seen):
    """The result of `dense` or `blocked`, and the gradients of a sum over all of it."""
    out, back = jax.vjp(lambda q, kvs: form(q, kvs, seen), q, kvs)
    return out, back(jnp.cos(out) * (jnp.arange(out.size).reshape(out.shape) % 7))


def in_blocks_of(size: int):
    """`blocked` of one size: the same function for each."""
    return FORMS.setdefault(size, functools.partial(blocked, size=size))


FORMS = {}


def assert_close(one, other, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=atol), one, other)


@pytest.mark.parametrize(
    ("T", "past", "window", "holes", "sizes"),
    [
        (100, (), None, False, (16, 200)),
        (96, (), 20, False, (32,)),
        (100, (), 50, True, (16,)),
        (40, (70, 33), None, False, (32,)),
        (48, (64, 5), 30, True, (16, 48)),
    ],
)
def test_blocks_equal_all_scores_at_once(T, past, window, holes, sizes):
    with jax.enable_x64(True):
        arrays = case(T, past, window, holes)
        expected = outcome(dense, *arrays)
        for size in sizes:
            out, grads = outcome(in_blocks_of(size), *arrays)
            assert_close((out, grads), expected, atol=1e-9)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
            if not past:
                assert not np.any(out[0])  # a row of padding


def test_single_precision_stays_within_its_rounding():
    arrays = case(130, (40,), dtype=np.float32)
    expected = outcome(dense, *arrays)
    for size in (16, 64):
        assert_close(outcome(in_blocks_of(size), *arrays), expected, atol=2e-5)


@pytest.mark.parametrize("form", [dense, blocked])
def test_bfloat16_rounds_no_score(form):
    """Scores are large here: rounded to bfloat16, they would move weights by tenths."""
    q, kvs, seen = case(200, dtype=np.float32)
    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (30 * q, kvs))
    exact = outcome(dense, *jax.tree.map(lambda x: x.astype(jnp.float32), low), seen)
    found = outcome(form, *low, seen)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert one.dtype == jnp.bfloat16
        assert np.abs(np.asarray(one, np.float32) - other).max() < 0.02 * np.abs(other).max()


def test_segments_without_a_key_to_see():
    with jax.enable_x64(True):
        q, kvs, seen = case(40, (50, 20))
        for hidden in ((0,), (0, 1), (0, 1, 2)):
            masked = tuple(
                s.replace(valid_BS=np.zeros_like(s.valid_BS)) if n in hidden else s
                for n, s in enumerate(seen)
            )
            out, grads = outcome(blocked, q, kvs, masked)
            assert_close((out, grads), outcome(dense, q, kvs, masked), atol=1e-9)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        assert not np.any(out)


@pytest.mark.parametrize("T", [40, 600])
def test_a_segment_without_slots(T):
    q, kvs, seen = case(T, dtype=np.float32)
    empty = Visible(seen[0].pos_BT, np.zeros((B, 0), np.int32), np.zeros((B, 0), bool), None)
    none = (np.zeros((B, 0, H, K), np.float32),) * 2
    segments = [(*kv, mask) for kv, mask in zip((none, *kvs), masks((empty, *seen)), strict=True)]
    assert_close(attend(q, segments, SCALE), dense(q, kvs, seen), atol=2e-5)


def test_transformations():
    """Under checkpointing, in a scan and mapped over an axis, both forms are one function."""

    def twice(f, q, kvs, seen):
        (k, v), (own,) = kvs[0], seen

        def layer(x, scale):
            return f(x * scale, ((k * scale, v),), (own,)), None

        return lax.scan(jax.checkpoint(layer), q, jnp.array([0.5, 1.5], q.dtype))[0]

    with jax.enable_x64(True):
        q, kvs, seen = case(70)
        many = jax.tree.map(lambda x: np.stack([x, 2 * x, x - 1]), (q, kvs))
        for f in (twice, lambda f, *arrays: f(*arrays)):

            def loss(form, q, kvs, f=f):
                return jax.vmap(lambda q, kvs: jnp.sum(f(form, q, kvs, seen) ** 3))(q, kvs).sum()

            one, other = (
                jax.jit(jax.grad(functools.partial(loss, form), argnums=(0, 1)))(*many)
                for form in (blocked, dense)
            )
            assert_close(one, other, atol=1e-8)


@pytest.mark.parametrize("window", [None, 32, 33])
def test_pairs_of_blocks(window):
    """Of left-padded rows, only blocks with something to see are computed; each of them once."""
    valid = np.ones((1, 160), bool)
    pos = np.arange(160)[None]
    own = Visible(pos, pos, valid, window, own=True, left_padded=True)
    blocks = attention._Blocks.of(160, 32)
    i_P, j_P, first_P = attention._pairs(own, blocks, blocks)
    tiles = np.asarray(own.mask())[0].reshape(5, 32, 5, 32).any(axis=(1, 3))
    assert list(zip(i_P, j_P, strict=True)) == list(zip(*np.nonzero(tiles), strict=True))
    assert first_P.sum() == blocks.count
    holes = own.replace(left_padded=False)  # positions then say nothing about distances
    assert len(attention._pairs(holes, blocks, blocks)[0]) == 15


@pytest.mark.parametrize("gradient", [False, True])
def test_programs_have_one_size(gradient):
    """The traced program of a prompt of any length beyond the dense form."""

    def size(T: int) -> int:
        q, kvs, seen = case(T, window=100, dtype=np.float32)

        def f(q, kvs):
            return jnp.sum(attention.attend(q, [(*kvs[0], *attention.masks(seen))], SCALE))

        return str(jax.make_jaxpr(jax.grad(f) if gradient else f)(q, kvs)).count(" = ")

    assert size(768) == size(1024) == size(4096)


def test_short_prompts_and_single_queries_take_the_dense_form():
    def made(queries: int, keys: int) -> bool:
        pos_BT, pos_BS = (jnp.zeros((1, n), jnp.int32) for n in (queries, keys))
        seen = Visible(pos_BT, pos_BS, jnp.ones(pos_BS.shape, bool), None)
        (mask,) = attention.masks([seen])
        return not isinstance(mask, Visible)

    assert made(1, 1 << 20) and made(512, 512) and made(16, 4096)
    assert not made(513, 512)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("gradient", [False, True])
def test_memory_is_linear_in_the_prompt(gradient):
    def temporary(T: int) -> int:
        q, k = (jax.ShapeDtypeStruct((2, T, *n, 16), jnp.float32) for n in ((2, 2), (2,)))
        pos, valid = (jax.ShapeDtypeStruct((2, T), dtype) for dtype in (jnp.int32, bool))

        def f(q, k, v, pos, valid):
            own = Visible(pos, pos, valid, None, own=True, left_padded=True)
            return jnp.sum(attention.attend(q, [(k, v, *attention.masks([own]))], SCALE) ** 2)

        f = jax.grad(f, argnums=(0, 1, 2)) if gradient else f
        return jax.jit(f).lower(q, k, k, pos, valid).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary(1024), temporary(2048)
    assert long < 2.2 * short
    assert long < 2 * 4 * 2048 * 2048 * 2  # half of the scores of both rows


def exchanges(compiled: str) -> list[str]:
    """The lines of a compiled program that exchange data between devices."""
    kinds = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    lines = compiled.splitlines()
    return [x for x in lines if any(f" {k}(" in x or f" {k}-start(" in x for k in kinds)]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("sizes", "heads"), [((2, 2, 2), (4, 2)), ((8, 1, 1), (4, 2)), ((1, 2, 4), (2, 4))], ids=str
)
@pytest.mark.parametrize("gradient", [False, True])
def test_nothing_is_exchanged_between_devices(sizes, heads, gradient):
    """Rows over data and fsdp, heads over tensor: all devices compute by themselves.

    Where key/value heads do not divide over `tensor`, the gradient of each is a sum over devices
    in either form, once and not in every block.
    """
    mesh, (H, G) = mesh_of(*sizes), heads
    r, T = np.random.default_rng(0), 96
    q = r.standard_normal((8, T, H * G, K)).astype(np.float32)
    k, v = (r.standard_normal((8, T, H, K)).astype(np.float32) for _ in range(2))
    valid = np.arange(T) >= 11 * np.arange(8)[:, None]
    split, whole = P(("data", "fsdp"), None, "tensor"), P(("data", "fsdp"))
    names = (split, *[whole if H % sizes[2] else split] * 2, whole)
    arrays = (q, k, v, valid)
    placed = [jax.device_put(x, NamedSharding(mesh, p)) for x, p in zip(arrays, names, strict=True)]

    def program(form):
        def f(q, k, v, valid):
            pos = positions(valid)
            own = Visible(pos, pos, valid, 40, own=True, left_padded=True)
            return form(q.reshape(8, T, H, G, K), ((k, v),), (own,)).reshape(8, T, H * G, K)

        def loss(*arrays):
            return jnp.sum(jnp.sin(f(*arrays)))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)) if gradient else f)

    expected = program(dense)(*arrays)
    with use(mesh):
        plain, compiled = (program(f).lower(*placed).compile() for f in (dense, blocked))
        found = compiled(*placed)
    assert_close(found, expected, atol=2e-5)
    moved = exchanges(compiled.as_text())
    assert len(moved) == len(exchanges(plain.as_text()))
    assert not any("while/body" in line for line in moved)
    if not gradient or H % sizes[2] == 0:
        assert not moved
