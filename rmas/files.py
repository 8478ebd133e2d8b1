"""Atomic writing of files, and reading of small JSON files from outside.

A process that is killed while it writes leaves either the old content or the new, never a part.
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
"""Bytes of the largest JSON file that `read_json` accepts."""
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


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file of at most `MAX_JSON` bytes.

    Numbers beyond the range of a float, integers of hundreds of digits among them, are infinite.

    Raises:
      InputError: the file cannot be read, is too large, or is not valid JSON.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > MAX_JSON:
        raise InputError(f"{path} is larger than the limit of {MAX_JSON >> 20} MiB")
    try:
        text = data.decode("utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of more digits than Python reads
            return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is not valid JSON: {str(e)[:200]}") from e


def _integer(text: str) -> int | float:
    """An integer; one that no field could hold is infinite, as 1e400 is."""
    return int(text) if len(text) < 400 else float(text)
