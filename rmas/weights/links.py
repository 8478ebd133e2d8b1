"""Trained links on disk: `links.safetensors` and a manifest that says what they belong to."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rmas.errors import InputError
from rmas.shapes import Params

WEIGHTS, MANIFEST = "links.safetensors", "manifest.json"


def save_links(folder: str | Path, links: Params, manifest: dict[str, Any]) -> None:
    """Writes links (any subset of the tree) and their manifest, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {name: np.ascontiguousarray(leaf) for name, leaf in _flat(links).items()}
    for name, write in (
        (WEIGHTS, lambda p: save_file(flat, p)),
        (MANIFEST, lambda p: p.write_text(json.dumps(manifest, indent=2) + "\n")),
    ):
        partial = folder / f".{name}.partial"
        write(partial)
        os.replace(partial, folder / name)


def load_links(folder: str | Path, template: Params) -> tuple[Params, dict[str, Any]]:
    """Reads links with the structure, shapes and types of `template`, and their manifest.

    Raises:
      InputError: a file is missing or damaged, or names, shapes or types differ from the
        template's (another topology, form or base model), naming them.
    """
    folder = Path(folder)
    try:
        flat = load_file(folder / WEIGHTS)
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError as e:
        raise InputError(f"no links in {folder}: {Path(str(e.filename or WEIGHTS)).name}") from e
    except (OSError, SafetensorError, ValueError) as e:
        raise InputError(f"links in {folder} cannot be read: {e}") from e
    if not isinstance(manifest, dict):
        raise InputError(f"links in {folder} cannot be read: {MANIFEST} is not a JSON object")
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
                f"links in {folder}: {name} is {flat[name].dtype}{flat[name].shape}, "
                f"this system needs {leaf.dtype}{tuple(leaf.shape)}"
            )
    structure = jax.tree.structure(template)
    return jax.tree.unflatten(structure, [jax.numpy.asarray(flat[n]) for n in wanted]), manifest


def _flat(links: Params) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(links)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}
