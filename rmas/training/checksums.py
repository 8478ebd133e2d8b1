"""Checksums of a checkpoint's files: damage is found before any process reads its arrays.

With several processes a damaged file may be read by one of them only, and the others would wait
for it for ever. So each checks all files first, and they agree on the result.
"""

import json
import zlib
from pathlib import Path

from rmas.files import atomic_write_json

_PREFIX = "files-"


def record(folder: Path, step: int) -> None:
    """Writes sizes and checksums of a finished step's files next to it, unless they are there."""
    path, found = _path(folder, step), folder / str(step)
    if not path.is_file() and found.is_dir():
        atomic_write_json(path, _sums(found))


def find_damage(folder: Path, step: int) -> str:
    """What is wrong with a step's files; empty if nothing is, or nothing was recorded."""
    try:
        recorded = json.loads(_path(folder, step).read_text(encoding="utf-8"))
        found = _sums(folder / str(step))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    if not isinstance(recorded, dict):
        return ""
    wrong = [name for name in recorded if found.get(name) != recorded[name]]
    return f"{wrong[0]} is not what was written" if wrong else ""


def delete_others(folder: Path, steps: set[int]) -> None:
    """Deletes what was recorded of other steps than these."""
    for path in folder.glob(f"{_PREFIX}*.json"):
        number = path.stem.removeprefix(_PREFIX)
        if number.isdecimal() and int(number) not in steps:
            path.unlink(missing_ok=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step}.json"


def _sums(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file, by its path in the folder."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total, size = 0, 0
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total, size = zlib.crc32(block, total), size + len(block)
        found[str(path.relative_to(folder))] = [size, total]
    return found
