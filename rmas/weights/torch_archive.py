"""State dicts in torch's file format (`torch.save`), read and written without torch.

The format is a zip archive of uncompressed members under one folder: `data.pkl` (see
`torch_pickle.py`), `byteorder`, `version`, and one member `data/<key>` of plain numbers for each
storage. Files are untrusted: nothing in them is executed, and memory is limited to a small multiple
of the file's size, whatever its headers say.
"""

import contextlib
import io
import os
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rmas.errors import InputError
from rmas.files import replacing
from rmas.models.unsupported import refuse_pointer
from rmas.weights import torch_pickle
from rmas.weights.torch_pickle import Storage, View

MAX_FILE, MAX_PICKLE = 8 << 30, 1 << 20
"""Bytes of the largest file, and of the largest `data.pkl`, that are read."""
MAX_GROWTH = 8
"""Tensors may share storages: their copies may be this many times as large as the file."""
_CHUNK = 1 << 19
_MAGIC = b"PK\x03\x04"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ORDERS = {b"little": "<", b"big": ">"}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a dict of float tensors (or parameters), such as a module's state dict.

    Returns:
      Contiguous arrays by name, in the file's order and in their stored dtypes (float32, float64,
      float16, bfloat16); none share memory.

    Raises:
      InputError: the file is missing, damaged or not a zip archive; it holds anything but float
        tensors by name; a tensor reaches outside of its storage; or sizes are larger than the
        file allows.
    """
    path = Path(path)
    refuse_pointer(path)
    with _opened(path) as archive:
        pickled = archive.read("data.pkl", MAX_PICKLE).tobytes()
        state = torch_pickle.loads(pickled, str(path))
        if sum(view.nbytes for view in state.values()) > MAX_GROWTH * archive.size:
            raise InputError(f"{path}: its tensors claim more numbers than the file can hold")
        order = _byte_order(archive)
        tensors: dict[str, np.ndarray] = {}
        storage: Storage | None = None
        raw = np.empty(0, np.uint8)
        # Sorted by storage, so that each is read once and only one is in memory at a time.
        for name, view in sorted(state.items(), key=lambda item: item[1].storage.key):
            if view.storage != storage:
                storage = view.storage
                raw = archive.read(f"data/{storage.key}")
                if len(raw) != storage.size * storage.dtype.itemsize:
                    raise InputError(
                        f"{path}: storage {storage.key!r} has {len(raw)} bytes, not "
                        f"{storage.size} numbers of type {storage.dtype}"
                    )
            tensors[name] = _copy(view, raw, order)
    return {name: tensors[name] for name in state}


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name, for `torch.load(path, weights_only=True)` to read.

    The file is written atomically; the same tensors give the same bytes.

    Raises:
      ValueError: a tensor is not float32, float64, float16 or bfloat16.
      OSError: as `open`.
    """
    members = {
        "data.pkl": torch_pickle.dumps(tensors),
        "byteorder": sys.byteorder.encode(),
        "version": b"3\n",
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}", _EPOCH), data)
        for i, array in enumerate(tensors.values()):
            file.writestr(zipfile.ZipInfo(f"archive/data/{i}", _EPOCH), array.tobytes())


class _Archive:
    """The members of an open archive, by their path below its one folder."""

    def __init__(self, path: Path, file: zipfile.ZipFile, size: int):
        self.path, self.size, self._file = path, size, file
        members = file.infolist()
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise InputError(f"{path} holds a member twice")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or (
                member.compress_size != member.file_size
            ):
                raise InputError(
                    f"{path}: member {member.filename[:80]!r} is compressed, which torch.save "
                    "never does; save the file again"
                )
        if sum(member.file_size for member in members) > size:
            raise InputError(f"{path}: its members claim more bytes than the file has")
        folders = [n.removesuffix("data.pkl") for n in names if n.split("/")[1:] == ["data.pkl"]]
        if len(folders) != 1:
            raise InputError(f"{path} is not an archive of torch.save: it holds no data.pkl")
        self._members = dict(zip(names, members, strict=True))
        self._folder = folders[0]

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._members

    def read(self, name: str, most: int = MAX_FILE) -> np.ndarray:
        """The bytes of a member, checked against its checksum."""
        member = self._members.get(self._folder + name)
        if member is None:
            raise InputError(f"{self.path} is damaged: it holds no {name[:80]!r}")
        if member.file_size > most:
            raise InputError(
                f"{self.path}: {name[:80]!r} has {member.file_size} bytes; at most {most} are read"
            )
        data = np.empty(member.file_size, np.uint8)
        with self._file.open(member) as file:
            done = 0
            while part := file.read(_CHUNK):
                data[done : done + len(part)] = np.frombuffer(part, np.uint8)
                done += len(part)
        if done != len(data):
            raise InputError(f"{self.path} is damaged: {name[:80]!r} is cut short")
        return data


class _Chunks(io.FileIO):
    """A file whose reads return at most one chunk, to limit the directory that zipfile reads."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_CHUNK if size is None or size < 0 else min(size, _CHUNK))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    try:
        if not os.path.isfile(path):
            raise InputError(f"cannot read {path}: no such file")
        with _Chunks(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE:
                raise InputError(f"{path} has {size} bytes; at most {MAX_FILE} are read")
            if file.read(len(_MAGIC)) != _MAGIC:
                raise InputError(
                    f"{path} is not a zip archive; a file in torch's older format must be saved "
                    "again with torch.save, whose default format is zip"
                )
            with zipfile.ZipFile(file) as archive:
                yield _Archive(path, archive, size)
    except InputError:
        raise
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error) as e:
        reason = " ".join(str(e).split())[:200]
        raise InputError(f"{path} is damaged or not an archive of torch.save: {reason}") from e


def _byte_order(archive: _Archive) -> str:
    # torch before 2.0 does not store it, and ran on little-endian machines.
    name = archive.read("byteorder", 16).tobytes() if "byteorder" in archive else b"little"
    if name not in _ORDERS:
        raise InputError(f"{archive.path}: byteorder must be little or big, not {name!r}")
    return _ORDERS[name]


def _copy(view: View, raw: np.ndarray, order: str) -> np.ndarray:
    """The tensor as a contiguous array in this machine's byte order."""
    dtype = view.storage.dtype
    if 0 in view.shape:
        return np.zeros(view.shape, dtype)
    # As integers, because bfloat16 has no byte order.
    numbers = raw.view(f"{order}u{dtype.itemsize}")[view.offset :]
    # The stride of an axis of size one has no effect, and may be any number.
    steps = [
        s * dtype.itemsize if n > 1 else 0 for n, s in zip(view.shape, view.strides, strict=True)
    ]
    strided = as_strided(numbers, view.shape, steps, writeable=False)
    return strided.astype(f"=u{dtype.itemsize}", order="C").view(dtype)
