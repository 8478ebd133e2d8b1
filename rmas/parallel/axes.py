"""What the axes of arrays mean, and over which axes of the mesh each meaning is split.

Model code names meanings (`constrain(h_BTD, "batch", None, None)`); only this table knows the
mesh.
"""

import dataclasses
import functools
import math
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
"""Meanings of array axes. `delta_heads` counts the heads of a delta-net's keys and of its state,
`delta_value_heads` those of its values."""


def parts(mesh: Mesh | AbstractMesh, meaning: str) -> int:
    """Into how many pieces an axis of this meaning is split."""
    names = AXES_OF[meaning]
    return math.prod(mesh.shape[name] for name in ([names] if isinstance(names, str) else names))


def constrain(x: Array, *meanings: str | None) -> Array:
    """Fixes how an array inside a jitted function lies on the mesh that `use` has set.

    One entry per axis: a meaning of `AXES_OF`, or None (every device has all of it).
    An axis that its part of the mesh does not divide counts as None: where KV heads are
    replicated, so are caches, whatever the compiler would guess. Entries of axes that hold
    heads want the axis that counts them, so that none is cut in two. Without a mesh, or under
    one of a single device or with other axes, `x` comes back as it is.

    Raises:
      ValueError: not one entry per axis, or an unknown meaning.
    """
    if len(meanings) != x.ndim:
        raise ValueError(f"{len(meanings)} entries for the axes of {x.shape}")
    if unknown := {m for m in meanings if m is not None} - AXES_OF.keys():
        raise ValueError(f"no meanings of axes: {', '.join(sorted(unknown))}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == 1 or not set(AXES) <= set(mesh.axis_names):
        return x

    def entry(meaning: str | None, size: int):
        return None if meaning is None or size % parts(mesh, meaning) else AXES_OF[meaning]

    spec = P(*(entry(m, n) for m, n in zip(meanings, x.shape, strict=True)))
    return jax.lax.with_sharding_constraint(x, spec)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device has everything: links, optimizer state, metrics."""
    return NamedSharding(mesh, P())


def batch_multiple(mesh: Mesh) -> int:
    """The number of rows of a batch must be a multiple of this."""
    return parts(mesh, "batch")


def whole_batch(mesh: Mesh, rows: int) -> int:
    """The smallest batch of at least `rows` that the mesh divides; the rest are empty rows."""
    multiple = batch_multiple(mesh)
    return -(-rows // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of every batch that a process feeds: block `index` of `count` equal ones."""

    index: int = 0
    count: int = 1

    def of(self, rows: int) -> slice:
        """Where they lie in a batch."""
        size = rows // self.count
        return slice(self.index * size, (self.index + 1) * size)


def batch_share(mesh: Mesh) -> Share:
    """The rows that this process's devices hold, where those of every process are one block.

    Else, as where a pod's devices are laid out by how they are wired, every process feeds all rows,
    and its devices take theirs. All processes call it together.
    """
    if not mesh.is_multi_process:
        return Share()
    rows = batch_multiple(mesh)
    spans = NamedSharding(mesh, P(AXES_OF["batch"])).addressable_devices_indices_map((rows,))
    held = sorted({i for (span,) in spans.values() for i in range(*span.indices(rows))})
    block = len(held)
    whole = held == list(range(held[0], held[0] + block)) and held[0] % block == rows % block == 0
    blocks = rows // block if whole else 1
    # The fewest and the most of all processes; alike where both are the same.
    if not all_reduce_max(blocks) == -all_reduce_max(-blocks) == blocks:
        return Share()
    return Share(held[0] // block if whole else 0, blocks)


def put_batch(mesh: Mesh, tree: Any, axis: Any = 0, share: Share = Share()) -> Any:
    """Puts a batch on the devices, its rows split.

    Args:
      tree: numpy arrays with this process's rows along `axis`.
      axis: 1 for `[R, B, ...]`; or a tree of such numbers above the arrays, as `jax.vmap` takes.
      share: which rows of the whole batch they are.

    Raises:
      ValueError: the rows do not divide; pad them to a multiple of `batch_multiple(mesh)`.
    """

    def put(axis: int, x: np.ndarray) -> Array:
        x = np.asarray(x)
        own = x.shape[axis] if x.ndim > axis else 0
        if not own or own * share.count % batch_multiple(mesh):
            need = f"a multiple of {batch_multiple(mesh)} rows along axis {axis}"
            raise ValueError(f"a batch array is {x.shape}; the mesh needs {need}")
        shape = (*x.shape[:axis], own * share.count, *x.shape[axis + 1 :])
        sharding = NamedSharding(mesh, P(*[None] * axis, AXES_OF["batch"]))
        first = share.index * own

        def rows_of(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[axis].indices(shape[axis])
            return x[(*index[:axis], slice(start - first, stop - first), *index[axis + 1 :])]

        return jax.make_array_from_callback(shape, sharding, rows_of)

    return jax.tree.map(lambda n, part: jax.tree.map(functools.partial(put, n), part), axis, tree)


def put_whole(tree: Any, shardings: Any) -> Any:
    """Puts arrays that every process has alike where `shardings` (a tree, or one for all) say."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(x: Any, sharding: jax.sharding.Sharding) -> Array:
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            raise ValueError("random keys are made inside programs")
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree, shardings)
