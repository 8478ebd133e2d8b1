"""Parameters are put on the mesh as they are read.

Each distinct shard is read once and copied to every device of this process that holds it; no
process reads what its devices do not hold. Large stacked matrices are read layer by layer, and
large arrays on a mesh of one device in pieces, so that host memory stays near the size of one shard
of one layer or of the embedding.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from rmas.parallel.axes import Index, indices_of
from rmas.parallel.rules import Heads, is_stacked, sharder
from rmas.shapes import Array

Read = Callable[[Index], np.ndarray]
"""`read(index)` returns one slice of a parameter; its slices have starts and stops."""
Place = Callable[[str, tuple[int, ...], np.dtype, Read], Array]
"""`place(path, shape, dtype, read)` reads one parameter and returns it on its devices."""
PIECE = 16 << 20
"""Bytes of a parameter's shard that are in host memory at a time, where it is read in pieces. One
that has no more is read whole: writing pieces into it would compile a program for its shape."""


def placer(mesh: Mesh, heads: Heads) -> Place:
    """Makes the function that puts the parameters of one agent on the mesh (see `Place`).

    All processes must place the same parameters in the same order.

    Raises (when the function is called):
      KeyError: no rule matches the path.
      ValueError: the shape is not what the rule describes.
    """
    sharding_of = sharder(mesh, heads)

    def place(path: str, shape: tuple[int, ...], dtype: np.dtype, read: Read) -> Array:
        sharding = sharding_of(path, shape)
        held = math.prod(sharding.shard_shape(shape)) * dtype.itemsize
        if held > PIECE and is_stacked(path) and len(shape) > 2 and shape[0] > 1:
            return _by_piece(shape, sharding, read, axis=0, step=1)
        if held > PIECE and mesh.size == 1:
            axis = int(np.argmax(shape))
            step = max(PIECE * shape[axis] // held, 1)
            return _by_piece(shape, sharding, read, axis=axis, step=step)
        return _by_shard(shape, sharding, read)

    return place


def _by_shard(shape: tuple[int, ...], sharding: NamedSharding, read: Read) -> Array:
    holders: dict[tuple, list[jax.Device]] = {}
    for device, index in indices_of(sharding, shape):
        spans = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        holders.setdefault(spans, []).append(device)
    arrays = []
    for spans, devices in holders.items():
        shard = read(tuple(slice(*span) for span in spans))
        # Waiting bounds how many shards are in host memory.
        arrays += jax.block_until_ready([jax.device_put(shard, device) for device in devices])
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _by_piece(
    shape: tuple[int, ...], sharding: NamedSharding, read: Read, axis: int, step: int
) -> Array:
    """Fills an array in pieces along an axis that is not split, so that each write is local."""

    def piece_at(start: int) -> Array:
        size = min(step, shape[axis] - start)
        part = (*shape[:axis], size, *shape[axis + 1 :])
        return _by_shard(part, sharding, functools.partial(_read_from, read, axis, start))

    array, write = None, _writer(sharding, axis)
    for start in range(0, shape[axis], step):
        piece = piece_at(start)
        if array is None:
            array = jnp.zeros(shape, piece.dtype, device=sharding)
        array = write(array, piece, start).block_until_ready()
    assert array is not None
    return array


def _read_from(read: Read, axis: int, start: int, index: Index) -> np.ndarray:
    own = index[axis]
    moved = slice(own.start + start, own.stop + start)
    return read((*index[:axis], moved, *index[axis + 1 :]))


@functools.cache
def _writer(sharding: NamedSharding, axis: int) -> Callable[[Array, Array, int], Array]:
    def write(array: Array, piece: Array, start: int) -> Array:
        return lax.dynamic_update_slice_in_dim(array, piece, start, axis)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
