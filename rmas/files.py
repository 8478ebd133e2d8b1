"""Atomic writing of files, and reading of small JSON files from outside.

A process that is killed while it writes leaves either the old content or the new, never a part.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from rmas.errors import InputError

MAX_JSON = 64 << 20
"""Bytes of the largest JSON file that `read_json` accepts."""
MAX_DEPTH = 100
"""Levels of objects and lists that a JSON text may have; what reads them is recursive."""
_FULL = ("No space left", "ENOSPC", "Disk quota exceeded", "File too large")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; what the block writes there becomes `path`.

    The file is flushed to disk and then replaces `path` in one step, with the permissions of a
    file made by `open`. If the block fails, `path` is unchanged and the temporary file is removed.

    Raises:
      OSError: as `open`, and whatever the block raises.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # The writer may have replaced the file: safetensors makes one that only its owner reads.
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Makes `data` the whole content of `path`. Raises OSError as `open` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Makes `text`, encoded in UTF-8, the whole content of `path`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike, obj: Any) -> None:
    """Writes `obj` to `path` as indented JSON with a final newline; key order is kept."""
    atomic_write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def report_full_disk(what: str) -> Iterator[None]:
    """Turns any error of the block that means a full disk into one `InputError`.

    Libraries report a full disk by exceptions of various types. Other errors pass through.

    Args:
      what: names what is written, as the start of the message.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # array_record, safetensors and tensorstore raise their own types
        if not any(word in str(error) for word in _FULL):
            raise
        raise InputError(
            f"{what} cannot be written: the disk is full; free some space and run the same "
            "command again: files written before are complete"
        ) from error


def append_lines(file: IO[str], lines: Iterable[str]) -> None:
    """Appends the lines, each with a newline, in one write, and returns when they are on disk."""
    file.write("".join(line + "\n" for line in lines))
    file.flush()
    os.fsync(file.fileno())


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Opens a file from outside for reading, as bytes.

    Raises:
      OSError: as `open`; also for a name with a null character, for a folder, and for a pipe or a
        device, which could block or have no end.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "Null character in the name", str(path))
    # Without waiting for the writer of a pipe.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(opened, "rb")
    os.close(opened)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file from outside. Raises OSError as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8 of at most `MAX_DEPTH` levels; else raises ValueError."""
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file of at most `MAX_JSON` bytes.

    Raises:
      InputError: the file cannot be read, is too large, or is not valid JSON.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_JSON + 1)
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > MAX_JSON:
        raise InputError(f"{path} is larger than the limit of {MAX_JSON >> 20} MiB")
    try:
        return parse_json(data)
    except ValueError as e:
        raise InputError(f"{path} is not valid JSON: {str(e)[:200]}") from e
