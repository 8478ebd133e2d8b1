"""Parameters from a Hugging Face folder, tensor by tensor.

A parameter is described before it is read: `place` receives its path, shape and type and a
function that reads any slice of it, and returns the array. The default puts one layer at a
time on the default device, so that host memory stays near one tensor; a mesh would hand the
reader to `jax.make_array_from_callback` and read each shard alone.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util

from rmas.errors import InputError
from rmas.models import ModelSpec, abstract_params
from rmas.shapes import Array, Params
from rmas.weights.files import TensorFiles, listed, open_files
from rmas.weights.keys import TRANSPOSE, Source, source_of, table_of

Index = tuple[slice, ...]
Read = Callable[[Index], np.ndarray]
Place = Callable[[str, tuple[int, ...], np.dtype, Read], Array]


def load_params(
    spec: ModelSpec, directory: str | Path, dtype=None, place: Place | None = None
) -> Params:
    """Reads the parameters of `spec` from a folder.

    Args:
      dtype: what all parameters are cast to; None keeps each tensor's stored type, and gives
        a stacked parameter the widest of its layers'. float64 needs x64 mode, as everywhere.
      place: `place(path, shape, dtype, read) -> array`, where `read(index)` gives one slice as
        numpy; None means the default device.

    Returns:
      The tree of `rmas.models.model`.

    Raises:
      InputError: no weights or a damaged file; a tensor that is missing, unexpected, of the
        wrong shape, or (the stored head of a tied model) not what it repeats.
    """
    place = place or on_device
    leaves, tree = tree_util.tree_flatten_with_path(abstract_params(spec))
    sources = [
        source_of(spec, "/".join(key.key for key in path), leaf.shape) for path, leaf in leaves
    ]
    with open_files(directory) as files:
        _check(spec, files, sources)
        arrays = []
        for source in sources:
            stored = functools.reduce(jnp.promote_types, map(files.dtype, source.tensors))
            wanted = np.dtype(stored if dtype is None else dtype)
            read = functools.partial(_read, files, source, wanted)
            arrays.append(place(source.path, source.shape, wanted, read))
    return tree_util.tree_unflatten(tree, arrays)


def on_device(path: str, shape: tuple[int, ...], dtype: np.dtype, read: Read) -> Array:
    """Puts a parameter on the default device, stacked matrices layer by layer."""
    rest = tuple(slice(0, n) for n in shape[1:])
    if len(shape) < 3 or not path.startswith("layers/period/"):
        return jnp.array(read((slice(0, shape[0]), *rest)))
    stack = jnp.zeros(shape, jnp.array(np.zeros((), dtype)).dtype)
    for i in range(shape[0]):
        # Waiting keeps rows from queueing up in host memory.
        stack = _put(stack, read((slice(i, i + 1), *rest)), i).block_until_ready()
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def _put(stack: Array, row: Array, i: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(stack, row.astype(stack.dtype), i, axis=0)


def _read(files: TensorFiles, source: Source, dtype: np.dtype, index: Index) -> np.ndarray:
    """One slice of a parameter in our layout, gathered from its tensors."""
    index = tuple(slice(*s.indices(n)) for s, n in zip(index, source.shape, strict=True))

    def one(tensor: str, part: Index) -> np.ndarray:
        if source.layout == TRANSPOSE:
            return files.read(tensor, part[::-1]).T
        return files.read(tensor, part)

    if not source.stacked:
        return one(source.tensors[0], index).astype(dtype, copy=False)
    tensors = source.tensors[index[0]]
    out = np.empty((len(tensors), *(s.stop - s.start for s in index[1:])), dtype)
    for row, tensor in zip(out, tensors, strict=True):
        row[...] = one(tensor, index[1:])
    return out


def _check(spec: ModelSpec, files: TensorFiles, sources: list[Source]) -> None:
    """Every tensor is a parameter or ignored, every parameter is stored once, sizes agree."""
    table, where = table_of(spec), files.directory
    owner = {tensor: source for source in sources for tensor in source.tensors}
    if len(owner) != sum(len(source.tensors) for source in sources):
        raise AssertionError("the key table maps one tensor to two parameters")
    missing = owner.keys() - files.names
    if missing:
        raise InputError(f"{where}: missing {len(missing)} tensors: {listed(missing)}")
    extra = files.names - owner.keys()
    repeats = extra & table.repeats.keys()
    unexpected = {n for n in extra - repeats if not n.endswith(table.ignored)}
    if unexpected:
        raise InputError(f"{where}: unexpected {len(unexpected)} tensors: {listed(unexpected)}")
    wrong = [
        f"{name} is {files.shape(name)}, not {source.tensor_shape}"
        for name, source in owner.items()
        if files.shape(name) != source.tensor_shape
    ]
    if wrong:
        raise InputError(f"{where}: wrong shape: {listed(wrong)}")
    for name in sorted(repeats):
        _check_repeat(files, name, table.repeats[name])


def _check_repeat(files: TensorFiles, name: str, of: str, rows: int = 4096) -> None:
    """A tied head that is stored all the same must be the embedding, or the model is not tied."""
    shape = files.shape(of)
    same = files.shape(name) == shape
    for start in range(0, shape[0] if same else 0, rows):
        at = (slice(start, min(start + rows, shape[0])), *(slice(0, n) for n in shape[1:]))
        same = same and np.array_equal(files.read(name, at), files.read(of, at))
    if not same:
        raise InputError(
            f"{files.directory}: tie_word_embeddings is true, but {name} differs from {of}; "
            "set it to false to use both"
        )
