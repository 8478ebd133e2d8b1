"""The safetensors files of a model folder, read as one table of named tensors."""

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from rmas.errors import InputError
from rmas.files import open_file, read_json

BLOCK = 4 << 20
"""Bytes that are read at a time where only parts of rows are needed."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes that can be read, by their name in the files."""


_EXPONENTS = {
    np.dtype(np.float64): (np.uint64, 0x7FF0_0000_0000_0000),
    np.dtype(np.float32): (np.uint32, 0x7F80_0000),
    np.dtype(np.float16): (np.uint16, 0x7C00),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0x7F80),
}
"""An unsigned type of each dtype's size, and the bits of its exponent."""
_BITS = 1 << 16
"""Values that `is_finite` looks at at a time: they stay in the processor's cache."""


def is_finite(array: np.ndarray) -> bool:
    """Whether an array of one of `DTYPES` holds neither nan nor inf, with little extra memory.

    Those are the values with all bits of the exponent set. numpy's own test of bfloat16 takes
    each value for itself, and an array of the same size.
    """
    unsigned, exponent = _EXPONENTS[array.dtype]
    bits = array.ravel("K").view(unsigned)
    mask = unsigned(exponent)
    return all(
        (bits[i : i + _BITS] & mask).max(initial=0) != mask for i in range(0, bits.size, _BITS)
    )


def listed(names: Iterable[str], most: int = 8) -> str:
    """Sorted names in one line; of more than `most`, the number of the others."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def inside(directory: Path, name: str, where: str | Path) -> Path:
    """The path of a file that a manifest names, which must be in the folder itself.

    Only the name is checked: snapshot folders of the Hub's cache hold symbolic links to blobs.

    Raises:
      InputError: the name is empty or leads out of the folder; the message starts with `where`.
    """
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise InputError(f"{where}: file names must not leave the folder: {name[:80]!r}")
    return directory / name


class TensorFiles:
    """The named tensors in the open files of one folder; each is read on demand.

    `open_files` makes it and closes the files.
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
        """The names of all tensors."""
        return set(self._at)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._at[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        """The dtype of a tensor.

        Raises:
          InputError: not one of `DTYPES`.
        """
        code = self._at[name].get_slice(name).get_dtype()
        if code not in DTYPES:
            raise InputError(
                f"{self.directory}: {name} is stored as {code}; supported: {', '.join(DTYPES)} "
                "(quantized weights are not read)"
            )
        return DTYPES[code]

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """One slice of a tensor as a new array, in its stored dtype and layout.

        The file is not memory-mapped, because pages of a mapped file count as memory of this
        process while it is open.

        Raises:
          InputError: the file cannot be read or is too short.
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


def _fill(file: io.FileIO, array: np.ndarray) -> None:
    """Fills a contiguous array from the file's current position."""
    rest = array.view(np.uint8).reshape(-1).data
    while rest:
        n = file.readinto(rest)
        if not n:
            raise InputError(f"{file.name} is damaged: it ends too early")
        rest = rest[n:]


def _data_starts(path: Path) -> dict[str, int]:
    """The offset of each tensor's bytes in a file whose header `_open` has checked."""
    with open_file(path) as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}


def _open(path: Path) -> safe_open:
    try:
        open_file(path).close()  # a pipe in its place would block the reader
        return safe_open(path, framework="numpy")
    except FileNotFoundError as e:
        raise InputError(f"cannot read {path}: no such file") from e
    except (SafetensorError, OSError) as e:
        reason = " ".join(str(e).split())
        raise InputError(f"{path} is damaged or not a safetensors file: {reason}") from e


def _shards(directory: Path) -> dict[str, str]:
    """The index, tensor name -> file name; all files are checked to be in the folder itself."""
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
      InputError: there are no weights, a file is damaged, or the index does not fit its files.
    """
    directory = Path(directory)
    with contextlib.ExitStack() as stack:
        if (directory / WEIGHTS).exists():
            expected: dict[str, str] = {}
            names = [WEIGHTS]
        elif (directory / INDEX).exists():
            expected = _shards(directory)
            names = sorted(set(expected.values()))
        elif others := [file.name for file in directory.glob("*.safetensors")]:
            raise InputError(
                f"{directory} holds {listed(others)}, but neither {WEIGHTS} nor {INDEX}, which "
                "says what is in which file; fetch it, too"
            )
        else:
            raise InputError(
                f"{directory} holds no weights; expected {WEIGHTS} or {INDEX} (other formats, as "
                "GGUF or pytorch_model.bin, are neither read nor downloaded)"
            )
        handles = {n: stack.enter_context(_open(directory / n)) for n in names}
        files = TensorFiles(directory, handles)
        for name, file in expected.items():
            if name not in handles[file].keys():  # noqa: SIM118 (not a dict)
                raise InputError(f"{directory / INDEX}: {name} is not in {file}")
        yield files
