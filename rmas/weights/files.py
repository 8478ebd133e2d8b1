"""The safetensors files of one model folder as a single table of named tensors."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from rmas.errors import InputError
from rmas.files import read_json

BLOCK = 4 << 20
"""Bytes that are read at a time where only parts of rows are wanted."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def listed(names, most: int = 8) -> str:
    """Names in one line, the rest counted."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def inside(directory: Path, name: str, where: str | Path) -> Path:
    """The path of a file that a manifest names, which must lie in the folder itself.

    Only the name is judged: the snapshot folders of the hub's cache hold links to elsewhere.

    Raises:
      InputError: the name is empty or leads out of the folder; the line starts with `where`.
    """
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise InputError(f"{where}: file names must not leave the folder: {name[:80]!r}")
    return directory / name


class TensorFiles:
    """Named tensors spread over the open files of one folder; nothing is read before it is asked.

    Use `open_files`, which closes them.
    """

    def __init__(self, directory: Path, handles: dict[str, safe_open]):
        self.directory = directory
        self._at: dict[str, safe_open] = {}
        self._starts: dict[str, tuple[Path, int]] = {}
        twice = set()
        for file, handle in handles.items():
            starts = _data_starts(directory / file)
            self._starts |= {name: (directory / file, at) for name, at in starts.items()}
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                if name in self._at:
                    twice.add(name)
                self._at[name] = handle
        if twice:
            raise InputError(f"{directory}: stored more than once: {listed(twice)}")

    @property
    def names(self) -> set[str]:
        """All stored names."""
        return set(self._at)

    def shape(self, name: str) -> tuple[int, ...]:
        """The stored shape."""
        return tuple(self._at[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        """The stored type.

        Raises:
          InputError: not a floating-point type that can be read.
        """
        code = self._at[name].get_slice(name).get_dtype()
        if code not in DTYPES:
            raise InputError(
                f"{self.directory}: {name} is stored as {code}; supported: {', '.join(DTYPES)}"
            )
        return DTYPES[code]

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """One slice of a tensor, in its stored type and layout, in memory of its own.

        The file is read, not mapped: pages of a mapped file count as this process's memory for
        as long as it is open.

        Raises:
          InputError: the file cannot be read, or has become shorter.
        """
        shape, dtype = self.shape(name) or (1,), self.dtype(name)
        index = tuple(
            slice(*s.indices(n)) for s, n in zip(index or (slice(1),), shape, strict=True)
        )
        rows, rest = index[0], index[1:]
        out = np.empty([len(range(s.start, s.stop)) for s in index], dtype)
        row = math.prod(shape[1:]) * dtype.itemsize
        whole = out.shape[1:] == shape[1:]
        step = len(out) if whole else max(1, BLOCK // row)
        path, start = self._starts[name]
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start + rows.start * row)
                for i in range(0, len(out), step or 1):
                    part = out[i : i + step]
                    block = part if whole else np.empty((len(part), *shape[1:]), dtype)
                    _fill(file, block)
                    if not whole:
                        part[...] = block[(slice(None), *rest)]
        except OSError as e:
            raise InputError(f"cannot read {path}: {e.strerror}") from e
        return out if self.shape(name) else out[0]


def _fill(file: IO[bytes], array: np.ndarray) -> None:
    """Reads a contiguous array from where the file stands."""
    rest = memoryview(array.view(np.uint8).reshape(-1))
    while rest:
        n = file.readinto(rest)
        if not n:
            raise InputError(f"{file.name} is damaged: it ends too early")
        rest = rest[n:]


def _data_starts(path: Path) -> dict[str, int]:
    """Where each tensor's bytes begin in a file that `_open` found to be sound."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as e:
        raise InputError(f"cannot read {path}: no such file") from e
    except (SafetensorError, OSError) as e:
        reason = " ".join(str(e).split())
        raise InputError(f"{path} is damaged or not a safetensors file: {reason}") from e


def _shards(directory: Path) -> dict[str, str]:
    """The index: tensor name -> file name, each checked to lie in the folder itself."""
    path = directory / INDEX
    index = read_json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise InputError(f"{path}: weight_map must be an object of tensor names and file names")
    for name in files.values():
        inside(directory, name, path)
    return files


@contextlib.contextmanager
def open_files(directory: str | Path) -> Iterator[TensorFiles]:
    """Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.

    Raises:
      InputError: no weights, a damaged file, or an index that does not fit its files.
    """
    directory = Path(directory)
    with contextlib.ExitStack() as stack:
        if (directory / WEIGHTS).exists():
            expected, names = None, [WEIGHTS]
        elif (directory / INDEX).exists():
            expected = _shards(directory)
            names = sorted(set(expected.values()))
        else:
            raise InputError(f"{directory} holds no weights; expected {WEIGHTS} or {INDEX}")
        handles = {n: stack.enter_context(_open(directory / n)) for n in names}
        files = TensorFiles(directory, handles)
        for name, file in (expected or {}).items():
            if name not in handles[file].keys():  # noqa: SIM118 (not a dict)
                raise InputError(f"{directory / INDEX}: {name} is not in {file}")
        yield files
