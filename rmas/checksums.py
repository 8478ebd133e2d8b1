"""Checksums of what a run writes and reads again, so that damage is found before it is used.

A JSON object carries the checksum of itself as its last entry; those that earlier versions wrote
have none, and are taken as they are. Of other files in a folder a list is kept.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import atomic_write_json, open_file, parse_json, read_bytes, read_json
from rmas.places import has_file

CHECKSUM = "checksum"
"""The entry of a JSON object that holds its checksum."""
_SUM = re.compile(r"crc32:[0-9a-f]{8}")


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the checksum of its other entries as the last one."""
    rest = {name: own for name, own in value.items() if name != CHECKSUM}
    text = json.dumps(rest, sort_keys=True)
    return rest | {CHECKSUM: f"crc32:{zlib.crc32(text.encode()):08x}"}


def without_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `with_checksum`; an object that has no checksum is returned as it is.

    Raises ValueError where the checksum is that of something else, or stands under another name.
    """
    for name, own in value.items():
        if name != CHECKSUM and isinstance(own, str) and _SUM.fullmatch(own):
            raise ValueError(f"it is damaged: its {CHECKSUM} stands under the name {name[:40]!r}")
    if CHECKSUM in value and value[CHECKSUM] != with_checksum(value)[CHECKSUM]:
        raise ValueError(
            f"it is not what was written: its {CHECKSUM} is that of something else; restore it, "
            f'or, if you changed it yourself, take out its entry "{CHECKSUM}"'
        )
    return {name: own for name, own in value.items() if name != CHECKSUM}


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object with its checksum, atomically."""
    atomic_write_json(path, with_checksum(value))


def read_checked(path: Path) -> Any:
    """Reads a JSON file, and takes off the checksum of an object that has one.

    Raises InputError, naming the file, where it cannot be read or is not what was written.
    """
    try:
        value = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; restore it, or give the command that wrote it again") from None
    try:
        return without_checksum(value) if isinstance(value, dict) else value
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def list_files(folder: Path, listed: Path) -> None:
    """Writes sizes and checksums of the files in `folder` to `listed`."""
    atomic_write_json(listed, _sums(folder))


def find_damage(folder: Path, listed: Path, which: Callable[[str], bool] = lambda _: True) -> str:
    """What is wrong with the files of a folder; empty if nothing is.

    Without a list nothing can be wrong but that something is no file.

    Args:
      listed: the list that `list_files` wrote.
      which: whether a file, by its path in the folder, is looked at.
    """
    try:
        recorded = parse_json(read_bytes(listed)) if has_file(listed) else {}
        found = _sums(folder, which)
    except OSError as error:
        return f"it cannot be read: {error}"
    except ValueError as error:  # an InputError, too
        return f"it cannot be checked: {error}"
    if not isinstance(recorded, dict):
        return f"{listed.name} is not a list of files"
    for name, facts in recorded.items():
        if which(name) and found.get(name) != facts:
            return f"{name} is {'not what was written' if name in found else 'missing'}"
    return ""


def _sums(folder: Path, which: Callable[[str], bool] = lambda _: True) -> dict[str, list[int]]:
    """Size and CRC-32 of every file, by its path in the folder."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not which(name) or (path.is_dir() and not path.is_symlink()):
            continue
        total, size = 0, 0
        with open_file(path) as file:
            while block := file.read(1 << 22):
                total, size = zlib.crc32(block, total), size + len(block)
        found[name] = [size, total]
    return found
