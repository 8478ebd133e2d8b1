"""Placing parameters on the mesh: what is read, by whom, how often, and where it lies."""

import collections
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rmas.parallel import Heads, place, placer
from support.fake_devices import dense_shapes, mesh_of, random_arrays, with_scales

ROOT = Path(__file__).parents[2]
HEADS = Heads(query=4, kv=2)
UP = "layers/period/0/mlp/up_proj/kernel"


class Source:
    """A stored tensor that counts how often each of its numbers is read."""

    def __init__(self, array: np.ndarray):
        self.array, self.reads, self.sizes = array, np.zeros(array.shape, int), []

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        assert all(s.start is not None and s.stop is not None for s in index)
        self.reads[index] += 1
        self.sizes.append(self.array[index].size)
        return self.array[index].copy()


SIZES = pytest.mark.parametrize(
    "sizes", [(2, 2, 2), (8, 1, 1), (1, 8, 1), (2, 1, 4), (1, 1, 1)], ids=str
)


@SIZES
@pytest.mark.parametrize("piece", [place.PIECE, 300], ids=["whole", "layer by layer"])
def test_all_is_read_once_and_lies_by_the_rules(sizes, piece, monkeypatch):
    monkeypatch.setattr(place, "PIECE", piece)
    mesh = mesh_of(*sizes)
    put = placer(mesh, HEADS)
    shapes = with_scales(dense_shapes(HEADS, vocab=24))
    for path, array in random_arrays(shapes, np.float32).items():
        source = Source(array)
        placed = put(path, array.shape, array.dtype, source.read)
        assert (source.reads == 1).all(), path
        np.testing.assert_array_equal(placed, array)
        assert placed.dtype == array.dtype
        assert placed.sharding.mesh == mesh
        assert len(placed.addressable_shards) == mesh.size
        shard = placed.sharding.shard_shape(array.shape)
        matrix = path.startswith("layers/period") and array.ndim == 3
        whole = np.prod(shard)
        if 4 * whole <= piece or (mesh.size > 1 and not matrix):
            assert source.sizes == [whole] * (array.size // whole), path
        elif matrix:
            assert max(source.sizes) == np.prod(shard[1:]), path
        else:
            assert 4 * max(source.sizes) <= piece, path


def test_specs_of_what_is_placed():
    place, arrays = placer(mesh_of(2, 2, 2), HEADS), random_arrays(dense_shapes(HEADS), np.float32)

    def spec(path: str):
        source = Source(arrays[path])
        placed = place(path, source.array.shape, source.array.dtype, source.read)
        return placed.sharding.spec, placed.addressable_shards[0].data.shape

    assert spec(UP) == (P(None, "fsdp", "tensor"), (3, 4, 16))
    assert spec("layers/rest/0/attention/k_proj/kernel") == (P("fsdp", "tensor"), (4, 4))
    assert spec("layers/rest/0/input_norm/weight") == (P(None), (8,))
    assert spec("embed/weight") == (P("tensor", "fsdp"), (16, 4))


def test_replicated_heads_are_logged_once_for_all_layers(caplog):
    place, shapes = placer(mesh_of(data=2, tensor=4), HEADS), dense_shapes(HEADS)
    with caplog.at_level(logging.INFO):
        for path, array in random_arrays(shapes, np.float32).items():
            placed = place(path, array.shape, array.dtype, Source(array).read)
            if "/k_proj/" in path or "/v_proj/" in path:
                assert placed.is_fully_replicated
    assert [r.getMessage().split(" and")[0] for r in caplog.records] == [
        "kv_heads=2 does not divide over tensor=4"
    ]


@pytest.mark.parametrize("dtype", ["int8", "float16", "bfloat16", "float32"])
def test_types_are_kept(dtype):
    array = np.arange(3 * 8 * 32).reshape(3, 8, 32) % 100
    array = array.astype(jax.numpy.dtype(dtype))
    placed = placer(mesh_of(2, 2, 2), HEADS)(UP, array.shape, array.dtype, Source(array).read)
    assert placed.dtype == array.dtype
    np.testing.assert_array_equal(placed, array)


def test_stacks_of_one_shape_compile_once(monkeypatch):
    monkeypatch.setattr("rmas.parallel.place.PIECE", 100)
    place, counts = placer(mesh_of(2, 2, 2), HEADS), collections.Counter()
    array = np.ones((5, 12, 44), np.float32)
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: counts.update([name])
    )
    seen = []
    for j in range(3):
        path = f"layers/period/{j}/mlp/up_proj/kernel"
        place(path, array.shape, array.dtype, Source(array).read)
        seen.append(counts["/jax/core/compile/backend_compile_duration"])
    assert seen[0] >= 1
    assert seen[0] == seen[1] == seen[2]


def test_on_one_device_parameters_are_read_by_pieces(monkeypatch):
    monkeypatch.setattr("rmas.parallel.place.PIECE", 1000)
    array = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)  # 1,536 bytes
    source = Source(array)
    place = placer(mesh_of(), Heads(4, 4))
    placed = place("embed/weight", array.shape, array.dtype, source.read)
    assert source.sizes == [15 * 16, 9 * 16]
    np.testing.assert_array_equal(placed, array)
    assert placed.sharding.mesh == mesh_of()


WORKER = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
import jax.numpy as jnp
import numpy as np
from rmas import parallel

mesh = parallel.make_mesh(parallel.parse_mesh("fsdp=2,tensor=2"))
array = np.arange(3 * 8 * 16, dtype=np.float32).reshape(3, 8, 16)
reads = np.zeros(array.shape, int)

def read(index):
    reads[index] += 1
    return array[index]

place = parallel.placer(mesh, parallel.Heads(4, 2))
kernel = place("layers/period/0/mlp/up_proj/kernel", array.shape, array.dtype, read)
batch = parallel.put_batch(mesh, np.arange(16, dtype=np.float32).reshape(2, 8))
with parallel.use(mesh):
    total = jax.jit(lambda x, w: jnp.einsum("BD,LDF->", x, w))(batch, kernel)
local = [shard.data.shape for shard in batch.addressable_shards]
print(json.dumps([float(total), reads.sum(axis=(0, 2)).tolist(), local]))
"""


@pytest.mark.slow
def test_two_processes_read_their_own_halves():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(port), str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        )
        for index in range(2)
    ]
    try:
        results = []
        for worker in workers:
            out, err = worker.communicate(timeout=120)
            assert worker.returncode == 0, err
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    array = np.arange(3 * 8 * 16, dtype=np.float32).reshape(3, 8, 16)
    batch = np.arange(16, dtype=np.float32).reshape(2, 8)
    expected = float(np.einsum("BD,LDF->", batch, array))
    for total, _, local in results:
        assert total == pytest.approx(expected, rel=1e-6)
        assert local == [[1, 8], [1, 8]]
    rows = np.array([reads for _, reads, _ in results])
    assert sorted(rows.tolist()) == [[0] * 4 + [48] * 4, [48] * 4 + [0] * 4]
