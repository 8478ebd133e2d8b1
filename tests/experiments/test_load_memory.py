"""The loading benchmark, on a small checkpoint: what it makes loads, and it counts the bytes."""

import math

import jax.numpy as jnp
import pytest
from safetensors import safe_open

from experiments.benchmarks import load_memory


@pytest.mark.parametrize("size", [10**9, 4 * 10**9])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_models_have_the_size_that_was_asked_for(size, itemsize):
    config, shapes = load_memory.model_of(size, itemsize)
    assert sum(map(math.prod, shapes.values())) * itemsize == pytest.approx(size, rel=0.04)
    assert shapes["model.embed_tokens.weight"] == (config["vocab_size"], config["hidden_size"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_checkpoint_in_shards_is_loaded_and_measured(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(load_memory, "SHARD_BYTES", 4 << 20)
    load_memory.write_checkpoint(str(tmp_path), 0.01, dtype)
    _, shapes = load_memory.model_of(10**7, jnp.dtype(dtype).itemsize)
    stored = {}
    for file in tmp_path.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            # One tensor, or several that fit.
            assert file.stat().st_size < 5 << 20 or len(tensors.keys()) == 1
            stored |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    assert stored == shapes

    row = load_memory.in_a_process(load_memory.measure, str(tmp_path), 2)
    split = sum(math.prod(s) for s in shapes.values() if len(s) == 2)
    repeated = sum(math.prod(s) for s in shapes.values() if len(s) == 1)
    assert row["placed"] == (split + 2 * repeated) * jnp.dtype(dtype).itemsize
    assert row["ratio"] == row["peak"] / row["placed"] > 0.9


def test_resident_memory_is_this_process_and_its_highest():
    before = load_memory.resident("VmRSS")
    block = b"x" * (64 << 20)
    held = load_memory.resident("VmRSS")
    assert held - before > len(block) * 0.9
    del block
    # The kernel counts in batches of pages.
    assert load_memory.resident("VmHWM") > held * 0.99 > load_memory.resident("VmRSS")
