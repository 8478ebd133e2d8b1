"""What top-k and top-p keep, against their definition by sorting; and what devices exchange."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import sorted_sampling as benchmark
from rmas.parallel import use
from rmas.system.decode import row_keys
from rmas.system.sampling import Sampling, choose, keep_likeliest
from support.fake_devices import mesh_of

by_sorting = jax.jit(benchmark.by_sorting, static_argnums=0)
kept = jax.jit(keep_likeliest, static_argnums=0)
draw = jax.jit(choose, static_argnums=0)
FILTERS = [
    Sampling(1.0, top_p=p, top_k=k)
    for k, p in itertools.product((0, 1, 7, 10**9), (1e-9, 0.5, 0.95, 1.0))
]


def rows_of(kind: str, size: int, dtype=np.float64) -> np.ndarray:
    """Ten rows of logits."""
    rng = np.random.default_rng(size)
    x = rng.normal(size=(10, size))
    if kind == "peaked":
        x *= 20
    if kind == "flat":
        x = 30 + 1e-5 * x
    if kind == "ties":
        x = np.round(2 * x)  # of both signs, and both zeros
    if kind == "masked":
        x = np.where(rng.random(x.shape) < 0.6, -np.inf, x)
        x[:, rng.integers(size)] = 1.0
    return x.astype(dtype)


@pytest.mark.parametrize("size", [1, 33, 1000])
@pytest.mark.parametrize("kind", ["normal", "peaked", "flat", "ties", "masked"])
def test_kept_tokens_are_those_of_the_definition(kind, size):
    """In float64, where no sum is so near `top_p` that its rounding decides."""
    with jax.enable_x64(True):
        x = jnp.asarray(rows_of(kind, size))
        for sampling in FILTERS:
            np.testing.assert_array_equal(
                kept(sampling, x), by_sorting(sampling, x), err_msg=str(sampling)
            )


@pytest.mark.parametrize("temperature", [0.05, 0.6, 3.0])
def test_kept_tokens_in_float32(temperature):
    """The sums over the kept tokens, in float64, reach `top_p`; without the last, they do not."""
    x_BV = (rows_of("normal", 20_000) * 3).astype(np.float32) / np.float32(temperature)
    weight_BV = np.exp(x_BV.astype(np.float64) - x_BV.max(axis=1, keepdims=True))
    p_BV = weight_BV / weight_BV.sum(axis=1, keepdims=True)
    for top_p in (0.3, 0.8, 0.95, 0.999):
        keep_BV = np.isfinite(kept(Sampling(1.0, top_p=top_p), jnp.asarray(x_BV)))
        least_B1 = np.min(x_BV, axis=1, keepdims=True, initial=np.inf, where=keep_BV)
        np.testing.assert_array_equal(keep_BV, x_BV >= least_B1)
        assert (np.sum(p_BV, axis=1, where=keep_BV) >= top_p - 1e-6).all()
        assert (np.sum(p_BV, axis=1, where=x_BV > least_B1) < top_p + 1e-6).all()


@pytest.mark.parametrize("top_k", [1, 4, 6, 7, 9, 13])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_of_all_sizes_are_in_order(dtype, top_k):
    with jax.enable_x64(True):
        most, least = np.finfo(dtype).max, np.finfo(dtype).tiny
        x = [1.0, -most, 0.0, -np.inf, least, -1.0, most, -0.0, -least, 1 + 1e-6, 1e30, -1e30, 2.0]
        x = np.random.default_rng(0).permutation(np.array([x] * 4, dtype), axis=1)
        sampling = Sampling(1.0, top_k=top_k)
        np.testing.assert_array_equal(kept(sampling, x), by_sorting(sampling, jnp.asarray(x)))
        nth = np.sort(x, axis=1)[:, ::-1][:, top_k - 1 : top_k]
        np.testing.assert_array_equal(kept(sampling, x), np.where(x >= nth, x, -np.inf))


@pytest.mark.parametrize("sampling", [s for s in FILTERS if s.top_k or s.top_p < 1], ids=str)
def test_nan_is_never_kept(sampling):
    x = rows_of("normal", 33, np.float32)
    hidden = np.where(np.random.default_rng(1).random(x.shape) < 0.3, -np.inf, x)
    hidden[:, 5], hidden[-1] = 1.0, -np.inf  # nothing is left of the last row
    unknown = np.where(hidden == -np.inf, np.nan, hidden)
    unknown[0] = -unknown[0]  # NaN of the other sign too
    hidden[0] = np.where(hidden[0] == -np.inf, -np.inf, -hidden[0])
    np.testing.assert_array_equal(kept(sampling, unknown), kept(sampling, hidden))
    ids = draw(sampling, unknown, row_keys(0, ["a"] * 10), np.arange(10))
    assert np.isfinite(unknown[np.arange(9), ids[:9]]).all()
    assert ids[9] == 0


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, top_p=0.5), {1}),
        (Sampling(1.0, top_k=2), {1, 2}),
        (Sampling(1.0, top_p=0.9, top_k=3), {1}),
    ],
    ids=str,
)
def test_an_infinite_logit_has_all_the_mass(sampling, expected):
    x = np.array([[0.0, np.inf, 3.0, -np.inf]], np.float32)
    assert set(np.flatnonzero(kept(sampling, x)[0] > -np.inf).tolist()) == expected
    assert draw(sampling, x, row_keys(0, ["a"]), np.zeros(1, int)).tolist() == [1]


@pytest.mark.parametrize("value", [0.0, -7.5, 3e38, -3e38])
def test_equal_logits_stay_together(value):
    x = np.full((3, 257), value, np.float32)
    for sampling in FILTERS:
        np.testing.assert_array_equal(kept(sampling, x), x)


@pytest.mark.parametrize("top_p", [5e-324, 1e-40, 1e-9])
def test_a_tiny_top_p_keeps_the_likeliest(top_p):
    x = rows_of("normal", 1000, np.float32)
    found = kept(Sampling(1.0, top_p=top_p), x)
    np.testing.assert_array_equal(found, np.where(x == x.max(axis=1, keepdims=True), x, -np.inf))


def test_a_top_p_just_below_one_keeps_all_that_counts():
    """What rounding loses weighs less than the sum can tell."""
    x = rows_of("normal", 1000, np.float32)
    found = kept(Sampling(1.0, top_p=math.nextafter(1.0, 0.0)), x)
    weight = np.exp(x.astype(np.float64))
    left_out = np.sum(weight, axis=1, where=np.isneginf(found))
    assert (left_out <= 1e-6 * weight.sum(axis=1)).all()


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 0.6, 1.0, 50.0, 1e30])
def test_drawn_tokens_are_those_of_the_definition(temperature):
    """The same key draws the same tokens; at the extremes, the likeliest, or any."""
    n, size = 200, 503
    keys, count = row_keys(3, [str(i) for i in range(n)]), np.arange(n)
    logits = 4 * np.random.default_rng(0).normal(size=(n, size)).astype(np.float32)
    for sampling in (
        Sampling(temperature, top_p=0.9),
        Sampling(temperature, top_k=20),
        Sampling(temperature, top_p=0.8, top_k=51),
        Sampling(temperature),
    ):
        left = by_sorting(sampling, jnp.asarray(logits) / temperature)
        step = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys), count)
        expected = jax.vmap(jax.random.categorical)(step, left)
        ids = draw(sampling, logits, keys, count)
        np.testing.assert_array_equal(ids, expected)
        if temperature < 1e-10:
            np.testing.assert_array_equal(ids, logits.argmax(axis=1))
        if temperature > 10:
            assert len(set(ids.tolist())) > n / 4


BOTH = Sampling(0.7, top_p=0.9, top_k=60)


@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 1, 4), (2, 2, 2)], ids=str)
@pytest.mark.parametrize(
    "sampling", [BOTH, Sampling(0.7, top_p=0.9), Sampling(0.7)], ids=["both", "top_p", "free"]
)
def test_a_split_vocabulary_is_never_gathered(sizes, sampling):
    """The same tokens, and the devices exchange a few numbers per row, not logits."""
    rows, size = 8, 4096
    mesh = mesh_of(*sizes)
    logits = 3 * np.random.default_rng(0).normal(size=(rows, size)).astype(np.float32)
    keys, count = row_keys(0, [str(i) for i in range(rows)]), np.arange(rows, dtype=np.int32)
    placed = jax.device_put(logits, NamedSharding(mesh, P(("data", "fsdp"), "tensor")))
    with use(mesh):
        program = draw.lower(sampling, placed, keys, count).compile()
        found = draw(sampling, placed, keys, count)
    np.testing.assert_array_equal(found, draw(sampling, logits, keys, count))
    text = program.as_text()
    assert " sort(" not in text
    exchanged = re.findall(
        r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
        r"(?:-start)?\(",
        text,
    )
    assert exchanged
    for results, kind in exchanged:
        for shape in re.findall(r"\w\[([\d,]*)\]", results):
            numbers = math.prod(int(n) for n in shape.split(",") if n)
            assert numbers <= rows * mesh.size, (kind, results)


def test_nothing_is_sorted():
    x = jax.ShapeDtypeStruct((2, 100), jnp.float32)
    assert "sort" in by_sorting.lower(BOTH, x).as_text()
    assert "sort" not in kept.lower(BOTH, x).as_text()


def test_the_benchmark_compares_the_same_tokens():
    row = benchmark.compare(BOTH, 3, 500, 2)
    assert (row["batch"], row["top_k"], row["differ"]) == (3, BOTH.top_k, 0)
    assert 0 < row["least"] <= row["threshold"] <= row["most"]
    assert row["ratio"] == row["sorting"] / row["threshold"]
