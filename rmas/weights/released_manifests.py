"""The manifests of released links: which file holds which link, and the link's form.

`innerlink_config.json` is in an agent's folder, `outerlink_config.json` in the folder of the outer
links. Each has one entry per task (under `tasks`), or one for all tasks. An agent's
`adapter_config.json` names the form of its inner link (it is not a PEFT config).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import open_file, parse_json
from rmas.links import Form, parse_form
from rmas.weights.files import inside, listed

INNER, OUTER, ADAPTER = "innerlink_config.json", "outerlink_config.json", "adapter_config.json"
INNER_TYPE, OUTER_TYPE = "ln_res_adapter", "outer_ln_res_adapter"
"""The default `adapter_type` of inner and of outer links."""
MAX_MANIFEST = 1 << 20
"""Bytes of the largest manifest that is read."""
Edge = tuple[str, str]
Manifest = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of one released system's links in its manifests; agents are named as their folders.

    Attributes:
      style: the system in inner manifests (`sequential_light`).
      paradigm: the system in the outer manifest (`sequential`).
      labels: agent -> its label in outer file names (`planner` -> `Planner`).
      keys: edge (src, dst) -> `legacy_key` (`outer_12`).
      by_task: whether manifests have one entry per task.
    """

    style: str
    paradigm: str
    labels: Mapping[str, str]
    keys: Mapping[Edge, str]
    by_task: bool


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
      InputError: the file cannot be read, is larger than `MAX_MANIFEST`, or does not hold a JSON
        object.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_MANIFEST + 1)
    except FileNotFoundError as e:
        raise InputError(f"cannot read {path}: no such file") from e
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > MAX_MANIFEST:
        raise InputError(f"{path} is larger than {MAX_MANIFEST} bytes: not a manifest of links")
    try:
        manifest = parse_json(data)
    except ValueError as e:
        raise InputError(f"{path} is not valid JSON: {str(e)[:200]}") from e
    if not isinstance(manifest, dict):
        raise InputError(f"{path} must hold a JSON object")
    return manifest


def tasks_of(manifest: Manifest, path: Path) -> dict[str, Manifest] | None:
    """The entries of a manifest by task; None if it has one entry for all tasks.

    `path` names the manifest in errors.
    """
    tasks = manifest.get("tasks")
    if tasks is None:
        return None
    if not isinstance(tasks, dict) or not all(isinstance(entry, dict) for entry in tasks.values()):
        raise InputError(f"{path}: tasks must map each task to an object")
    return tasks


def inner_files(directory: Path, task: str) -> tuple[Path, Path | None]:
    """The file of an agent's inner link, and the file that names its form, if there is one.

    Raises:
      InputError: there is no link, the task is unknown, the manifest is invalid, or a file name
        leads out of the folder.
    """
    path, config = directory / INNER, directory / ADAPTER
    manifest = read_manifest(path) if path.exists() else {}
    tasks = tasks_of(manifest, path)
    if tasks is not None:
        entry = _of_task(tasks, task, path)
        weights = inside(directory, text(entry, "adapter.pt", path), path)
        if ADAPTER in entry:
            return weights, inside(directory, text(entry, ADAPTER, path), path)
    elif "adapter" in manifest:
        weights = inside(directory, text(manifest, "adapter", path), path)
    else:
        by_task = inside(directory, f"adapter({task}).pt", f"task {task!r}")
        usual = [by_task, directory / "adapter.pt"]
        found = [file for file in usual if file.exists()]
        if not found:
            expected = f"{INNER}, {by_task.name} or adapter.pt"
            raise InputError(f"{directory} holds no inner link: expected {expected}")
        weights = found[0]
    return weights, config if config.exists() else None


def outer_entries(directory: Path, task: str) -> dict[str, Manifest]:
    """The entries of the outer manifest for a task, by legacy key.

    Raises:
      InputError: the manifest is missing or invalid, or the task is unknown.
    """
    path = directory / OUTER
    manifest = read_manifest(path)
    tasks = tasks_of(manifest, path)
    adapters = (manifest if tasks is None else _of_task(tasks, task, path)).get("adapters")
    if not isinstance(adapters, list) or not all(isinstance(entry, dict) for entry in adapters):
        raise InputError(f"{path}: adapters must be a list of objects")
    entries = {text(entry, "legacy_key", path): entry for entry in adapters}
    if len(entries) != len(adapters):
        raise InputError(f"{path}: a legacy_key is used twice: {quoted(entries)}")
    return entries


def form_of(entry: Manifest, default: str, path: Path | None) -> Form:
    """The form that the entry's `adapter_type` names.

    Args:
      default: the `adapter_type` of an entry without one.
      path: names the file in errors.

    Raises:
      InputError: the `adapter_type` is unknown.
    """
    name = text({"adapter_type": default} | entry, "adapter_type", path)
    try:
        return parse_form(name)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def text(entry: Manifest, key: str, path: Path | None) -> str:
    """A string of an entry; raises `InputError` if it is missing or not a string."""
    if not isinstance(entry.get(key), str):
        raise InputError(f"{path}: {key} must be a string")
    return entry[key]


def quoted(names: Iterable[str]) -> str:
    """Names that come from a file, quoted and shortened for a message of one line."""
    return listed(repr(name[:80]) for name in names)


def _of_task(tasks: dict[str, Manifest], task: str, path: Path) -> Manifest:
    if task not in tasks:
        raise InputError(f"{path}: no links for task {task!r}; known: {quoted(tasks) or 'none'}")
    return tasks[task]
