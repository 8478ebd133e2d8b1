"""Writing files so that a kill at any moment leaves the old content or the new, never a half."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes beside `path` under a temporary name, then renames over it; OSError as `open`."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; give the file the mode that `open` would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write_bytes` of the text in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike, obj: Any) -> None:
    """`obj` as indented JSON with a final newline; key order is kept."""
    atomic_write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


def append_lines(file: IO[str], lines: Iterable[str]) -> None:
    """Appends the lines, each with a newline, in one write, and waits until they are on disk."""
    file.write("".join(line + "\n" for line in lines))
    file.flush()
    os.fsync(file.fileno())
