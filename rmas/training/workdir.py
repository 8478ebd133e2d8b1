"""A run's folder, which records what made it, so that no run resumes another's work."""

import atexit
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmas.checksums import read_checked, write_checked
from rmas.errors import BusyError, InputError
from rmas.files import remove_leftovers
from rmas.parallel import barrier, is_first
from rmas.places import expanded, has_file

CONFIG = "config.json"
"""The file that says what made a folder."""
PREPARED = "data"
"""The folder in a workdir with prepared rows, which are named by content and serve any run."""
_held: dict[Path, int] = {}
_SHOWN = 6  # differing keys that one message names


def open_workdir(path: str | os.PathLike, identity: Mapping[str, Any]) -> Path:
    """Makes the folder, or opens it if the same `identity` made it; returns it as a Path.

    `identity` is what must be equal for a run to be resumed: JSON values in nested dicts (tuples
    count as lists). It is written to `config.json` in the folder, at once or not at all, with its
    checksum; of the processes of a run the first one does it, and the others check.

    The folder is locked until the process ends (or `unlocking` does). One in which nothing but
    prepared rows was written yet, as after a command that was refused, may be opened with another
    identity.

    Raises InputError where the folder cannot be made or written, where another identity made it,
    naming the keys that differ with both values, and where it has files but nothing says what made
    them; BusyError where another run is using it.
    """
    path = expanded(path)
    if is_first():
        _make(path)
        _hold(path)
        remove_leftovers(path, deep=True)
        _open(path, identity)
    barrier(f"workdir {path.name}")
    if not is_first():
        _open(path, identity)
    return path


@contextlib.contextmanager
def unlocking() -> Iterator[None]:
    """Unlocks at its end the folders that are opened within, for processes that open very many."""
    before = set(_held)
    try:
        yield
    finally:
        for folder in set(_held) - before:
            os.close(_held.pop(folder))


@atexit.register
def _unlock_all() -> None:
    while _held:
        os.close(_held.popitem()[1])


def read_identity(path: Path) -> dict[str, Any]:
    """What made a folder; empty where no file says so. Raises InputError for a damaged one."""
    if not has_file(path / CONFIG):
        return {}
    found = read_checked(path / CONFIG)
    if not isinstance(found, dict):
        raise InputError(f"{path / CONFIG} is not a JSON object")
    return found


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"workdir {path} is a file or lies in one; name a folder") from None
    except OSError as error:
        raise InputError(f"workdir {path} cannot be made: {error.strerror}") from None


def _open(path: Path, identity: Mapping[str, Any]) -> None:
    file = path / CONFIG
    here = json.loads(json.dumps(identity))
    if not has_file(file):
        if not _is_bare(path):
            raise InputError(
                f"workdir {path} has files, but its {CONFIG} is missing, so what made them is "
                "unknown; restore that file, or use another --workdir"
            )
        _write(path, file, here)
        return
    try:
        there = read_identity(path)
    except InputError as error:
        raise InputError(
            f"workdir {path}: {error}, so what made the folder is unknown; restore the file, or "
            "use another --workdir"
        ) from None
    differences = _differences(_flat(there), _flat(here))
    if differences and is_first() and there.keys() & here.keys() and _is_bare(path):
        _write(path, file, here)
        return
    if differences:
        more = len(differences) - _SHOWN
        listed = ", ".join(differences[:_SHOWN]) + (f", and {more} more" if more > 0 else "")
        raise InputError(
            f"workdir {path} was made by another config: {listed}; "
            "use another --workdir, or the same config and flags (leave out --config to use the "
            "settings stored in the workdir)"
        )
    if not os.access(path, os.W_OK):
        raise InputError(f"workdir {path} cannot be written: Permission denied")


def _is_bare(path: Path) -> bool:
    """Whether a folder holds only its identity and rows: that run was refused, or never began."""
    own = (entry for entry in path.iterdir() if entry.name not in (CONFIG, PREPARED))
    files = (file for entry in own for file in (entry, *entry.rglob("*")))
    return not any(file.is_file() and file.stat().st_size for file in files)


def _hold(folder: Path) -> None:
    """Locks a folder, where its file system has such locks."""
    if folder in _held:
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # a folder that cannot be read cannot be written, which `_open` reports
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise BusyError(
            f"workdir {folder} is in use by another run; wait for its end, or use another --workdir"
        ) from None
    except OSError:
        os.close(opened)
        return
    _held[folder] = opened


def _write(path: Path, file: Path, identity: dict) -> None:
    try:
        write_checked(file, identity)
    except OSError as error:
        raise InputError(f"workdir {path} cannot be written: {error.strerror}") from None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted keys; an empty dict is a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    missing = object()
    lines = []
    for key in [*here, *(k for k in there if k not in here)]:
        old, new = there.get(key, missing), here.get(key, missing)
        # As JSON text, so that true is not 1 and NaN equals itself; yet 1 equals 1.0.
        same = json.dumps(old) == json.dumps(new) if missing not in (old, new) else False
        numbers = type(old) in (int, float) and type(new) in (int, float)
        if same or (numbers and old == new):
            continue
        shown = ["absent" if v is missing else json.dumps(v) for v in (old, new)]
        lines.append(f"{key} is {shown[0]} there and {shown[1]} here")
    return lines
