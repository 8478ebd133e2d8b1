"""Archives in the format of torch.save, made by hand: honest ones and hostile ones, no torch.

`state` gives the pickle of a dict, `tensor` that of one tensor, `pack` the zip around them.
"""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

HOOKS = b"ccollections\nOrderedDict\n)R"


def opcodes(value) -> bytes:
    """The instructions that push a value, without start and end."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    shape, strides, offset=0, numel=None, key="0", kind="torch\nFloatStorage", tail=b""
) -> bytes:
    """A tensor on the storage `key` of `numel` numbers (as many as the shape has, as a rule)."""
    numel = int(np.prod(shape)) if numel is None else numel
    storage = b"(" + opcodes("storage") + b"c" + kind.encode() + b"\n"
    storage += b"".join(map(opcodes, (key, "cpu", numel))) + b"tQ"
    views = b"".join(map(opcodes, (offset, shape, strides)))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + views + b"\x89" + HOOKS + tail + b"tR"
    )


def state(**tensors: bytes) -> bytes:
    """A dict from names to whatever the given instructions push."""
    items = b"".join(opcodes(name) + pushed for name, pushed in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def pack(
    path: Path,
    pickled: bytes,
    *storages: bytes,
    compress: int = zipfile.ZIP_STORED,
    members: tuple[tuple[str, bytes], ...] = (("byteorder", b"little"), ("version", b"3\n")),
) -> Path:
    """Writes an archive with `data.pkl`, the storages `data/0`, ... and other members."""
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("x/data.pkl", pickled)
        for i, data in enumerate(storages):
            file.writestr(f"x/data/{i}", data)
        for name, data in members:
            file.writestr(f"x/{name}", data)
    return path


def floats(n: int) -> bytes:
    """The numbers 0 .. n-1."""
    return np.arange(n, dtype="<f4").tobytes()


def claim(path: Path, name: str, size: int) -> Path:
    """Changes the size that the directory of an archive gives for a member."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    data[entry + 20 : entry + 28] = struct.pack("<II", size, size)
    path.write_bytes(data)
    return path
