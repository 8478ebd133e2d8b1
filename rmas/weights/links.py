"""Trained links on disk: `links.safetensors`, and a manifest of the system that they belong to."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rmas.checksums import CHECKSUM, with_checksum, without_checksum
from rmas.errors import InputError
from rmas.files import open_file, read_json, replacing_folder, write_json
from rmas.models.unsupported import refuse_pointer
from rmas.places import has_file
from rmas.shapes import Params
from rmas.weights.files import is_finite

WEIGHTS, MANIFEST, DIGEST = "links.safetensors", "manifest.json", "sha256"


def save_links(folder: str | Path, links: Params, manifest: dict[str, Any]) -> None:
    """Writes links (any subset of the tree) and their manifest: both, or on an error none.

    In a folder that has files, the links are replaced first, then the manifest. It holds a digest
    of the links, so that a manifest of other links, which a kill between the two leaves, is
    detected.

    Args:
      manifest: a JSON object.

    Raises:
      InputError: the disk is full.
      OSError: as `open`.
    """
    flat = {name: np.ascontiguousarray(leaf) for name, leaf in _flat(links).items()}
    with replacing_folder(folder, last=(MANIFEST,)) as made:
        save_file(flat, made / WEIGHTS)
        own = manifest | {DIGEST: _digest(made / WEIGHTS)}
        write_json(made / MANIFEST, with_checksum(own))


def load_links(
    folder: str | Path,
    template: Params | None = None,
    accept: Callable[[dict[str, Any]], None] | None = None,
    parts: bool = False,
) -> tuple[Params, dict[str, Any]]:
    """Reads links and their manifest.

    Args:
      template: the expected structure, shapes and dtypes; None accepts any.
      accept: called with the manifest before names and shapes are compared; may raise.
      parts: whether the links may be the `inner` or the `outer` part of the template alone.

    Raises:
      InputError: a file is missing or damaged, or names, shapes or dtypes differ from the
        template's (another topology, form or base model); the message names them.
    """
    folder = Path(folder)
    for name in (WEIGHTS, MANIFEST):
        if not has_file(folder / name):
            raise InputError(f"no links in {folder}: {name} is missing")
    refuse_pointer(folder / WEIGHTS)
    try:
        flat = load_file(folder / WEIGHTS)
        written = read_json(folder / MANIFEST)
    except (OSError, SafetensorError, ValueError) as e:
        raise InputError(
            f"links in {folder} cannot be read: {e}; give the command that wrote them again"
        ) from e
    if not isinstance(written, dict):
        raise InputError(f"links in {folder} cannot be read: {MANIFEST} is not a JSON object")
    manifest = {name: value for name, value in written.items() if name != CHECKSUM}
    if manifest.pop(DIGEST, None) not in (None, _digest(folder / WEIGHTS)):
        raise InputError(
            f"links in {folder}: {WEIGHTS} does not match the digest in {MANIFEST}; "
            "write both again, by the command that wrote them"
        )
    if accept is not None:
        accept(manifest)
    if template is None:
        _check(folder, written)
        return _nested(flat), manifest
    if parts:
        found = {name.partition("/")[0] for name in flat}
        template = {part: tree for part, tree in template.items() if part in found} or template
    wanted = _flat(template)
    missing, unknown = sorted(wanted.keys() - flat.keys()), sorted(flat.keys() - wanted.keys())
    if missing or unknown:
        raise InputError(
            f"links in {folder} belong to another system: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}"
        )
    for name, leaf in wanted.items():
        if flat[name].shape != leaf.shape or flat[name].dtype != leaf.dtype:
            raise InputError(
                f"links in {folder}: {name} is {flat[name].dtype}{flat[name].shape}; "
                f"this system needs {leaf.dtype}{tuple(leaf.shape)}"
            )
        if not is_finite(flat[name]):
            raise InputError(f"links in {folder}: {name} is damaged, since it holds nan or inf")
    _check(folder, written)
    structure = jax.tree.structure(template)
    return jax.tree.unflatten(structure, [jax.device_put(flat[n]) for n in wanted]), manifest


def _check(folder: Path, manifest: dict[str, Any]) -> None:
    """Checks the manifest's checksum, last: an error in what it says tells more."""
    try:
        without_checksum(manifest)
    except ValueError as error:
        raise InputError(f"links in {folder}: {MANIFEST}: {error}") from None


def _digest(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flat(links: Params) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(links)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def _nested(flat: dict[str, Any]) -> Params:
    links: Params = {}
    for name, leaf in flat.items():
        *above, last = name.split("/")
        owner = links
        for key in above:
            owner = owner.setdefault(key, {})
            if not isinstance(owner, dict):
                raise InputError(f"links: a part of the name {name!r} is itself a tensor")
        owner[last] = jax.device_put(leaf)
    return links
