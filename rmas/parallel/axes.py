"""The meanings of array axes, and the axes of the mesh that each meaning is split over.

Model code names meanings (`constrain(h_BTD, "batch", None, None)`); `AXES_OF` maps them to the
mesh.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.parallel.mesh import AXES
from rmas.parallel.processes import all_reduce_max
from rmas.shapes import Array

AXES_OF: dict[str, str | tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "width": "fsdp",  # of weights; activations keep theirs whole
    "mlp": "tensor",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "delta_heads": "tensor",
    "delta_value_heads": "tensor",
}
"""The axes of the mesh by meaning. `delta_heads` are the key heads of gated delta-net layers, and
the heads of their state; `delta_value_heads` are their value heads."""


def parts(mesh: Mesh | AbstractMesh, meaning: str) -> int:
    """The number of pieces that an axis of this meaning is split into."""
    names = AXES_OF[meaning]
    return math.prod(mesh.shape[name] for name in ([names] if isinstance(names, str) else names))


def constrain(x: Array, *meanings: str | None) -> Array:
    """Constrains the sharding of an array inside a jitted function, on the mesh that `use` set.

    Returns `x` itself if there is no mesh, or one of a single device or with other axes.

    Args:
      meanings: one entry per axis of `x`: a key of `AXES_OF`, or None for an axis that every
        device holds whole. Where heads are split, pass `x` with an axis that counts them, so that
        no head is cut. An axis whose size the mesh does not divide counts as None: where
        key/value heads are replicated, so are caches.

    Raises:
      ValueError: not one entry per axis, or an unknown meaning.
    """
    if len(meanings) != x.ndim:
        raise ValueError(f"{len(meanings)} meanings for an array of shape {x.shape}")
    if unknown := {m for m in meanings if m is not None} - AXES_OF.keys():
        raise ValueError(f"unknown meanings of axes: {', '.join(sorted(unknown))}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == 1 or not set(AXES) <= set(mesh.axis_names):
        return x

    def entry(meaning: str | None, size: int):
        return None if meaning is None or size % parts(mesh, meaning) else AXES_OF[meaning]

    spec = P(*(entry(m, n) for m, n in zip(meanings, x.shape, strict=True)))
    return jax.lax.with_sharding_constraint(x, spec)


def current_parts(meaning: str) -> int:
    """`parts` of the mesh that `use` set, inside a jitted function too; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return parts(mesh, meaning) if set(AXES) <= set(mesh.axis_names) else 1


def on_one_cpu() -> bool:
    """Whether the mesh that `use` set is one CPU device, inside a jitted function too."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    return mesh.size == 1 and device is not None and device.platform == "cpu"


def row_blocks(rows: int) -> int:
    """How many equal blocks of a batch's rows lie on devices of their own (see `current_parts`)."""
    count = current_parts("batch")
    return 1 if rows % count else count


def take_rows(x: Array, index_B: Array, axis: int = 0) -> Array:
    """Rows of `x` along `axis`, in the order of `index_B`, on the devices that they lie on.

    Devices exchange nothing: `index_B[b]` must be in the same one of the `row_blocks` as `b`.
    """
    blocks = row_blocks(x.shape[axis])
    rows = x.shape[axis] // blocks
    split = x.reshape(*x.shape[:axis], blocks, rows, *x.shape[axis + 1 :])
    take = jax.vmap(functools.partial(jnp.take, axis=axis), (axis, 0), axis)
    return take(split, index_B.reshape(blocks, rows) % rows).reshape(x.shape)


def rotate_rows(x: Array, axis: int = 0) -> Array:
    """Each of the `row_blocks` along `axis` goes to the devices of the next one."""
    return jnp.roll(x, x.shape[axis] // row_blocks(x.shape[axis]), axis)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device holds whole: links in a step, and metrics."""
    return NamedSharding(mesh, P())


def batch_multiple(mesh: Mesh | AbstractMesh) -> int:
    """The number that must divide the rows of a batch."""
    return parts(mesh, "batch")


def whole_batch(mesh: Mesh, rows: int) -> int:
    """The smallest batch size that is at least `rows` and that the mesh divides."""
    multiple = batch_multiple(mesh)
    return -(-rows // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of each batch that a process loads: block `index` of `count` equal blocks."""

    index: int = 0
    count: int = 1

    def of(self, rows: int) -> slice:
        """Their place in a batch of `rows` rows."""
        size = rows // self.count
        return slice(self.index * size, (self.index + 1) * size)


def batch_share(mesh: Mesh) -> Share:
    """The rows of each batch that this process must load.

    If every process's devices hold one contiguous block of rows, and these blocks are equal, it
    is the process's own block. Otherwise (a mesh of the caller's own may have any order of devices)
    every process loads all rows, and its devices keep what they hold of them.

    Collective: all processes of a run must call it.
    """
    if not mesh.is_multi_process:
        return Share()
    rows = batch_multiple(mesh)
    sharding = NamedSharding(mesh, P(AXES_OF["batch"]))
    spans = [span for _, (span,) in indices_of(sharding, (rows,))]
    held = sorted({i for span in spans for i in range(*span.indices(rows))})
    block = len(held)
    whole = held == list(range(held[0], held[0] + block)) and held[0] % block == rows % block == 0
    blocks = rows // block if whole else 1
    # The maximum and the minimum over processes: all agree if both equal the own number.
    if not all_reduce_max(blocks) == -all_reduce_max(-blocks) == blocks:
        return Share()
    return Share(held[0] // block if whole else 0, blocks)


Index = tuple[slice, ...]


def indices_of(
    sharding: NamedSharding, shape: tuple[int, ...]
) -> Iterator[tuple[jax.Device, Index]]:
    """Each device of this process with the part of an array of this shape that it holds."""
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # a NamedSharding has one for every device
        yield device, index


def put_batch(mesh: Mesh, tree: Any, axis: Any = 0, share: Share = Share()) -> Any:
    """Puts a batch on the devices with its rows split over them.

    Args:
      tree: numpy arrays with this process's rows along `axis`.
      axis: the axis of the rows: 0 for `[B, ...]`, 1 for `[R, B, ...]`; or a prefix of `tree`
        with such numbers, like `in_axes` of `jax.vmap`.
      share: which rows of the whole batch they are (see `batch_share`).

    Raises:
      ValueError: the number of rows is not a multiple of `batch_multiple(mesh)`.
    """

    def put(axis: int, x: np.ndarray) -> Array:
        x = np.asarray(x)
        own = x.shape[axis] if x.ndim > axis else 0
        if not own or own * share.count % batch_multiple(mesh):
            need = f"a multiple of {batch_multiple(mesh)} rows along axis {axis}"
            raise ValueError(f"a batch array has shape {x.shape}; the mesh needs {need}")
        shape = (*x.shape[:axis], own * share.count, *x.shape[axis + 1 :])
        sharding = NamedSharding(mesh, P(*[None] * axis, AXES_OF["batch"]))
        first = share.index * own

        def rows_of(index: Index | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[axis].indices(shape[axis])
            return x[(*index[:axis], slice(start - first, stop - first), *index[axis + 1 :])]

        return jax.make_array_from_callback(shape, sharding, rows_of)

    return jax.tree.map(lambda n, part: jax.tree.map(functools.partial(put, n), part), axis, tree)


def put_whole(tree: Any, shardings: Any) -> Any:
    """Puts arrays on devices. Every process must pass the same whole arrays.

    Args:
      tree: of arrays.
      shardings: a tree of shardings like it, or one sharding for all.

    Raises:
      ValueError: random keys, where there are several processes.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(x: Any, sharding: jax.sharding.Sharding) -> Array:
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            raise ValueError("random keys cannot be put on a mesh of several processes")
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree, shardings)
