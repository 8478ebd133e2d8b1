"""Parameters straight onto the mesh, as they are read.

Each distinct shard is read once, and put on every device of this process that holds it; no
process reads what its devices do not hold. Stacked matrices go layer by layer: host memory stays
near one shard of one layer, or of the embedding.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from rmas.parallel.rules import Heads, is_stacked, sharder
from rmas.shapes import Array

Index = tuple[slice, ...]
Read = Callable[[Index], np.ndarray]
Place = Callable[[str, tuple[int, ...], np.dtype, Read], Array]


def placer(mesh: Mesh | None, heads: Heads) -> Place | None:
    """Gives `place(path, shape, dtype, read) -> array` for the parameters of one agent.

    `read(index)` returns one slice of the parameter as numpy; the slices asked for have starts
    and stops. All processes must place the same parameters in the same order. None without a
    mesh: the loader's own placing is right then.

    Raises (when called):
      KeyError: no rule matches the path.
      ValueError: the shape is not what the rule describes.
    """
    if mesh is None:
        return None
    sharding_of = sharder(mesh, heads)

    def place(path: str, shape: tuple[int, ...], dtype: np.dtype, read: Read) -> Array:
        sharding = sharding_of(path, shape)
        if is_stacked(path) and len(shape) > 2:
            return _by_layer(shape, sharding, read)
        return _by_shard(shape, sharding, read)

    return place


def _by_shard(shape: tuple[int, ...], sharding: NamedSharding, read: Read) -> Array:
    holders: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        spans = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        holders.setdefault(spans, []).append(device)
    arrays = []
    for spans, devices in holders.items():
        shard = read(tuple(slice(*span) for span in spans))
        # Waiting keeps shards from queueing up in host memory.
        arrays += jax.block_until_ready([jax.device_put(shard, device) for device in devices])
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _by_layer(shape: tuple[int, ...], sharding: NamedSharding, read: Read) -> Array:
    """Fills a stack row by row; the leading axis is never split, so each write is local."""
    stack, write = None, _writer(sharding)
    for i in range(shape[0]):
        one = functools.partial(_read_layer, read, i)
        row = _by_shard((1, *shape[1:]), sharding, one)
        if stack is None:
            stack = jnp.zeros(shape, row.dtype, device=sharding)
        stack = write(stack, row, i).block_until_ready()
    return stack


def _read_layer(read: Read, i: int, index: Index) -> np.ndarray:
    return read((slice(i, i + 1), *index[1:]))


@functools.cache
def _writer(sharding: NamedSharding) -> Callable[[Array, Array, int], Array]:
    def write(stack: Array, row: Array, i: int) -> Array:
        return lax.dynamic_update_slice_in_dim(stack, row, i, axis=0)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
