"""A run's folder, which records what made it, so that no run resumes another's work."""

import atexit
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmas.errors import BusyError, InputError
from rmas.files import atomic_write_json, read_json, remove_leftovers
from rmas.parallel import barrier, is_first
from rmas.places import has_file

_held: dict[Path, int] = {}
_SHOWN = 6  # differing keys that one message names


def open_workdir(
    path: str | os.PathLike, identity: Mapping[str, Any], name: str = "config.json"
) -> Path:
    """Makes the folder, or opens it if the same `identity` made it; returns it as a Path.

    `identity` is what must be equal for a run to be resumed: JSON values in nested dicts (tuples
    count as lists). It is written to `name` in the folder, at once or not at all; of the processes
    of a run the first one does it, and the others check.

    The folder is locked until the process ends. One in which nothing else was written yet, as after
    a command that was refused, may be opened with another identity.

    Raises InputError where the folder cannot be made or written, where another identity made it,
    naming the keys that differ with both values; BusyError where another run is using it.
    """
    path = Path(path).expanduser()
    if is_first():
        _make(path)
        _hold(path)
        remove_leftovers(path, deep=True)
        _open(path, identity, name)
    barrier(f"workdir {path.name}")
    if not is_first():
        _open(path, identity, name)
    return path


def read_identity(path: Path, name: str = "config.json") -> dict[str, Any]:
    """What made a folder; empty where no file says so. Raises InputError for a damaged one."""
    if not has_file(path / name):
        return {}
    found = read_json(path / name)
    if not isinstance(found, dict):
        raise InputError(f"{path / name} is not a JSON object")
    return found


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"workdir {path} is a file or lies in one; name a folder") from None
    except OSError as error:
        raise InputError(f"workdir {path} cannot be made: {error.strerror}") from None


def _open(path: Path, identity: Mapping[str, Any], name: str) -> None:
    file = path / name
    here = json.loads(json.dumps(identity))
    if not has_file(file):
        _write(path, file, here)
        return
    try:
        there = read_identity(path, name)
    except InputError as error:
        raise InputError(
            f"workdir {path}: {error}, so what made the folder is unknown; restore the file, or "
            "use another --workdir"
        ) from None
    differences = _differences(_flat(there), _flat(here))
    if differences and is_first() and there.keys() & here.keys() and _is_bare(path, name):
        _write(path, file, here)
        return
    if differences:
        more = len(differences) - _SHOWN
        listed = ", ".join(differences[:_SHOWN]) + (f", and {more} more" if more > 0 else "")
        raise InputError(
            f"workdir {path} was made by another config: {listed}; "
            "use another --workdir, or the same config (leave out --config to use the settings "
            "stored in the workdir)"
        )
    if not os.access(path, os.W_OK):
        raise InputError(f"workdir {path} cannot be written: Permission denied")


def _is_bare(path: Path, name: str) -> bool:
    """Whether a folder holds only `name`: that run was refused, or never began."""
    files = (file for file in path.rglob("*") if file != path / name)
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
    atexit.register(os.close, opened)


def _write(path: Path, file: Path, identity: dict) -> None:
    try:
        atomic_write_json(file, identity)
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
