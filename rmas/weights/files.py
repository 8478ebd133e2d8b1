"""The safetensors files of one model folder as a single table of named tensors."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from rmas.errors import InputError

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


class TensorFiles:
    """Named tensors spread over the open files of one folder; nothing is read before it is asked.

    Use `open_files`, which closes them.
    """

    def __init__(self, directory: Path, handles: dict[str, safe_open]):
        self.directory = directory
        self._at: dict[str, safe_open] = {}
        twice = set()
        for handle in handles.values():
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
        """One slice of a tensor, in its stored type and layout."""
        return self._at[name].get_slice(name)[index]


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
    try:
        files = json.loads(path.read_text())["weight_map"]
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path} must be JSON with a weight_map object: {e!r}") from e
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise InputError(f"{path}: weight_map must map tensor names to file names")
    outside = {f for f in files.values() if f != Path(f).name or f in ("", "..") or "\0" in f}
    if outside:
        raise InputError(f"{path}: file names must not leave the folder: {listed(outside)}")
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
