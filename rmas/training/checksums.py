"""What the files of a checkpoint were when it was done: told before anybody reads their arrays.

With several processes a damaged file may meet only the one that reads it, and others would wait
for that one for ever. So each looks at all files first, and they agree.
"""

import json
import zlib
from pathlib import Path

from rmas.files import atomic_write_json

_PREFIX = "files-"


def note(folder: Path, step: int) -> None:
    """Writes sizes and checksums of a finished step's files beside it, unless they are there."""
    path, found = _path(folder, step), folder / str(step)
    if not path.is_file() and found.is_dir():
        atomic_write_json(path, _sums(found))


def fault(folder: Path, step: int) -> str:
    """What is wrong with a step's files; empty where nothing is, or nothing was noted."""
    try:
        noted = json.loads(_path(folder, step).read_text(encoding="utf-8"))
        found = _sums(folder / str(step))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    if not isinstance(noted, dict):
        return ""
    wrong = [name for name in noted if found.get(name) != noted[name]]
    return f"{wrong[0]} is not what was written" if wrong else ""


def forget(folder: Path, steps: set[int]) -> None:
    """Removes the notes of other steps than these."""
    for path in folder.glob(f"{_PREFIX}*.json"):
        number = path.stem.removeprefix(_PREFIX)
        if number.isdecimal() and int(number) not in steps:
            path.unlink(missing_ok=True)
    for path in folder.glob(f".{_PREFIX}*.tmp"):  # a kill left it
        path.unlink(missing_ok=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step}.json"


def _sums(folder: Path) -> dict[str, list[int]]:
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total, size = 0, 0
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total, size = zlib.crc32(block, total), size + len(block)
        found[str(path.relative_to(folder))] = [size, total]
    return found
