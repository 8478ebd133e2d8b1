"""Reads parameters from a Hugging Face folder, one tensor at a time.

Each parameter is handed to a function `place` with its path, shape and dtype and a function that
reads any slice of it (see `parallel.placer`).
"""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import tree_util
from jax.sharding import Mesh

from rmas.errors import InputError
from rmas.models import Model, ModelSpec, abstract_params, read_spec
from rmas.models.unsupported import told_by_tensors
from rmas.parallel import Place, placer, single_device_mesh
from rmas.shapes import Params
from rmas.weights import hub
from rmas.weights.files import TensorFiles, is_finite, listed, open_files
from rmas.weights.keys import (
    CONV,
    COPY,
    EMBEDDING,
    HEAD,
    TRANSPOSE,
    Layout,
    Source,
    layout_of,
    source_of,
    table_of,
)
from rmas.weights.placement import choose_mesh, heads_of, weight_dtype
from rmas.weights.quantize import is_quantized, quantize_kernel

Index = tuple[slice, ...]


def load_model(
    path: str | Path, dtype=None, mesh: Mesh | str | None = None, quantize: bool = False
) -> tuple[Model, Params]:
    """Loads a frozen model: `model, params = load_model(path)`.

    Args:
      path: a local folder, or `owner/name[@revision]` (see `hub.resolve`).
      dtype: of the weights; None means bfloat16 on accelerators, float32 on CPU.
      mesh: where parameters are put: a mesh with the axes data, fsdp and tensor, or text such as
        `data=2,tensor=4` or `auto`; None means one device.
      quantize: hold matrices as int8 (`rmas.weights.quantize`).

    Returns:
      The `Model`, which is static and hashable, and its parameters.

    Raises:
      InputError: no such folder or repository, an unsupported architecture, or weights that
        do not fit it.
    """
    directory = hub.resolve(str(path)).path
    spec = read_spec(directory)
    dtype = weight_dtype(dtype)
    mesh = choose_mesh(mesh, [spec], dtype, quantize)
    place = placer(mesh, heads_of(spec))
    params = load_params(spec, directory, dtype=dtype, place=place, quantize=quantize)
    return Model(spec, mesh), params


def load_params(
    spec: ModelSpec,
    directory: str | Path,
    dtype=None,
    place: Place | None = None,
    quantize: bool = False,
) -> Params:
    """Reads the parameters of a model from a folder.

    Args:
      dtype: of all parameters; None keeps each tensor's stored dtype, and gives a stacked
        parameter the widest dtype of its layers. float64 needs JAX's x64 mode.
      place: puts one parameter on devices (see `parallel.Place`); None puts it on the mesh of one
        device.
      quantize: convert matrices to int8 as they are read, one at a time.

    Returns:
      The tree that `rmas.models.model` describes.

    Raises:
      InputError: there are no weights or a file is damaged; a tensor is missing, unexpected or of
        the wrong shape; or a tied model stores a head that differs from its embedding.
    """
    place = place or placer(single_device_mesh(), heads_of(spec))
    leaves = tree_util.tree_leaves_with_path(abstract_params(spec))
    with open_files(directory) as files:
        layout = layout_of(spec, files.names)
        sources = [
            source_of(spec, "/".join(key.key for key in path), leaf.shape, layout)
            for path, leaf in leaves
        ]
        _check(spec, files, sources, layout)
        params: Params = {"layers": {"period": {}, "rest": {}}}
        for source in sources:
            stored = functools.reduce(jnp.promote_types, map(files.dtype, source.tensors))
            wanted = np.dtype(stored if dtype is None else dtype)
            read = functools.partial(_read, files, source, wanted)
            *above, name = source.path.split("/")
            owner = functools.reduce(lambda tree, key: tree.setdefault(key, {}), above, params)
            if quantize and is_quantized(source.path):
                owner |= quantize_kernel(place(source.path, source.shape, wanted, read))
            else:
                owner[name] = place(source.path, source.shape, wanted, read)
    return params


def _read(files: TensorFiles, source: Source, dtype: np.dtype, index: Index) -> np.ndarray:
    """One slice of a parameter, assembled from its stored tensors."""
    index = tuple(slice(*s.indices(n)) for s, n in zip(index, source.shape, strict=True))

    def one(tensor: str, part: Index) -> np.ndarray:
        """A slice of one tensor; its axes are in reverse order unless the layout is `COPY`."""
        first, *others = part if source.layout == COPY else part[::-1]
        at = slice(first.start + source.start, first.stop + source.start)
        if source.layout == CONV:
            return files.read(tensor, (at, slice(0, 1), *others))[:, 0].T
        stored = files.read(tensor, (at, *others))
        return stored.T if source.layout == TRANSPOSE else stored

    def check(tensor: str, values: np.ndarray) -> None:
        if not is_finite(values):
            raise InputError(
                f"{files.directory}: {tensor} holds nan or inf, or values beyond the range of "
                f"{dtype}; the weights are damaged or need a wider dtype"
            )

    if not source.stacked:
        # A value that the cast overflows becomes inf, which is told by name.
        with np.errstate(over="ignore"):
            values = one(source.tensors[0], index).astype(dtype, copy=False)
        check(source.tensors[0], values)
        return values
    tensors = source.tensors[index[0]]
    out = np.empty((len(tensors), *(s.stop - s.start for s in index[1:])), dtype)
    for row, tensor in zip(out, tensors, strict=True):
        with np.errstate(over="ignore"):
            row[...] = one(tensor, index[1:])
        check(tensor, row)
    return out


def _check(spec: ModelSpec, files: TensorFiles, sources: list[Source], layout: Layout) -> None:
    """Checks that tensors are known, complete and of the right shapes."""
    table, where = table_of(spec), files.directory
    owners: dict[str, list[Source]] = {}
    for source in sources:
        for tensor in source.tensors:
            owners.setdefault(tensor, []).append(source)
    for tensor, parts in owners.items():
        spans = sorted((source.part.start, source.part.stop) for source in parts)
        edges = [0, *(stop for _, stop in spans)]
        if [start for start, _ in spans] != edges[:-1] or edges[-1] != parts[0].whole:
            raise AssertionError(f"the key table does not use each row of {tensor} once")
    hint = told_by_tensors(files.names)
    missing = owners.keys() - files.names
    if missing:
        raise InputError(f"{where}: missing {len(missing)} tensors: {listed(missing)}{hint}")
    extra = files.names - owners.keys()
    head = layout.head + HEAD
    repeated = head in extra and spec.tied
    unexpected = {
        n
        for n in extra
        if not (n.endswith(table.ignored) or n.startswith(table.others))
        and not (repeated and n == head)
    }
    if unexpected:
        raise InputError(
            f"{where}: unexpected {len(unexpected)} tensors: {listed(unexpected)}{hint}"
        )
    wrong = [
        f"{name} is {files.shape(name)}, not {parts[0].tensor_shape}"
        for name, parts in owners.items()
        if files.shape(name) != parts[0].tensor_shape
    ]
    if wrong:
        raise InputError(f"{where}: wrong shape: {listed(wrong)}")
    if repeated:
        _check_repeat(files, head, layout.body + EMBEDDING)


def _check_repeat(files: TensorFiles, name: str, of: str, rows: int = 4096) -> None:
    """Checks that the stored head of a tied model equals its embedding."""
    shape = files.shape(of)
    same = files.shape(name) == shape
    for start in range(0, shape[0] if same else 0, rows):
        at = (slice(start, min(start + rows, shape[0])), *(slice(0, n) for n in shape[1:]))
        same = same and np.array_equal(files.read(name, at), files.read(of, at))
    if not same:
        raise InputError(
            f"{files.directory}: tie_word_embeddings is true, but {name} differs from {of}; "
            "set tie_word_embeddings to false to use both"
        )
