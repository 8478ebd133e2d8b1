"""Writing files so that a kill at any moment leaves the old content or the new, never a half.

And reading small JSON files that somebody else wrote.
"""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rmas.errors import InputError

MAX_JSON = 64 << 20
_FULL = ("No space left", "ENOSPC", "Disk quota exceeded", "File too large")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` for the block to write a file to, which then becomes `path`.

    The file takes the place of `path` in one step, once all of it is on disk and with the mode
    that `open` gives; if the block fails, `path` is untouched and nothing is left behind.

    Raises:
      OSError: as `open`, and whatever the block raises.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # The writer may have put a file of its own there: safetensors makes a private one.
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """`data` as the whole content of `path`; OSError as `open`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write_bytes` of the text in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike, obj: Any) -> None:
    """`obj` as indented JSON with a final newline; key order is kept."""
    atomic_write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def report_full_disk(what: str) -> Iterator[None]:
    """Ends with one line where the block finds the disk full, whatever its writer makes of that.

    Raises InputError naming `what` cannot be written; other errors go through.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # array_record, safetensors and tensorstore have errors of their own
        if not any(word in str(error) for word in _FULL):
            raise
        raise InputError(
            f"{what} cannot be written: the disk is full; make room, and give the same command "
            "again: what was written before is whole"
        ) from error


def append_lines(file: IO[str], lines: Iterable[str]) -> None:
    """Appends the lines, each with a newline, in one write, and waits until they are on disk."""
    file.write("".join(line + "\n" for line in lines))
    file.flush()
    os.fsync(file.fileno())


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file from outside holds, at most 64 MiB of it.

    Raises `InputError` naming the file: it cannot be read, is too large, or is not JSON.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > MAX_JSON:
        raise InputError(f"{path} is larger than {MAX_JSON >> 20} MiB")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is not valid JSON: {str(e)[:200]}") from e
