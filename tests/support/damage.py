"""What can happen to a file: damaged contents, what may stand in its place, no permission."""

import contextlib
import ctypes
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

FLIPS = 20
"""Places at which one byte is flipped."""
OTHER_KINDS: Mapping[str, bytes] = {
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x00\x00" + bytes(64),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\x4b\x04\x00" * 9,
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(64)),
    "html": b"<!doctype html><html><body>404: not found</body></html>\n",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
    "json": b'{"a": [1, null, "x"]}',
    "json_list": b"[]",
    "json_number": b"7",
    "deep_json": b"[" * 100_000,
    "nan": b'{"a": NaN, "a": 1e999, "b": "\\ud800"}',
    "zeros": bytes(4096),
    "utf16": "hello, world\n".encode("utf-16"),
}
"""Files of other kinds, by name."""


def damages(data: bytes, seed: int = 0) -> dict[str, bytes]:
    """Damaged contents of a file that holds `data`, by name of the damage.

    Cut at several lengths, one byte flipped at each of `FLIPS` places (the ends among them),
    emptied, doubled, with a block of zeros in it, and replaced by files of other kinds.
    """
    size = len(data)
    cuts = sorted({1, size // 4, size // 2, size - 2, size - 1} & set(range(1, size)))
    found = {f"cut at {n}": data[:n] for n in cuts}
    places = set(range(size))
    if size > FLIPS:
        rest = random.Random(seed).sample(range(1, size - 1), FLIPS - 2)
        places = {0, size - 1, *rest}
    for at in sorted(places):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        found[f"flipped at {at}"] = bytes(flipped)
    found["emptied"] = b""
    found["doubled"] = data + data
    found["zeros inside"] = data[: size // 3] + bytes(size // 3) + data[2 * (size // 3) :]
    found |= {f"replaced by {name}": other for name, other in OTHER_KINDS.items()}
    return {name: content for name, content in found.items() if content != data}


def replacements(path: Path) -> dict[str, Callable[[], None]]:
    """What may stand in the place of the file `path`: name -> a function that puts it there.

    Each removes what is there before.
    """

    def put(make: Callable[[], object]) -> Callable[[], None]:
        def replace() -> None:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            make()

        return replace

    return {
        "gone": put(lambda: None),
        "folder": put(path.mkdir),
        "fifo": put(lambda: os.mkfifo(path)),
        "dangling link": put(lambda: path.symlink_to(path.with_name("nowhere"))),
        "loop of links": put(lambda: path.symlink_to(path)),
        "device without end": put(lambda: path.symlink_to("/dev/zero")),
    }


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Takes away the permission to read a file, from root too (from this thread of it)."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with _bound_by_permissions():
            if os.access(path, os.R_OK, effective_ids=True):
                raise RuntimeError(f"{path} can still be read")
            yield
    finally:
        path.chmod(mode)


@contextlib.contextmanager
def _bound_by_permissions() -> Iterator[None]:
    """Gives up the capabilities by which root reads every file, for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities(7): version 3, this thread
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; their upper halves

    def call(function: Callable[..., int]) -> None:
        if function(header, data):
            raise OSError(ctypes.get_errno(), "capabilities cannot be changed")

    call(libc.capget)
    before = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    call(libc.capset)
    try:
        yield
    finally:
        data[0] = before
        call(libc.capset)
