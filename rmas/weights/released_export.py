"""Writes links in the layout of released systems; `released_links.py` reads them."""

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmas.errors import InputError
from rmas.files import replacing_folder, write_json
from rmas.links import Form, InnerLink, OuterLink, edge_name
from rmas.shapes import Params
from rmas.weights import torch_archive
from rmas.weights.files import inside, listed
from rmas.weights.released_links import link_template, to_state_dict
from rmas.weights.released_manifests import (
    ADAPTER,
    INNER,
    INNER_TYPE,
    OUTER,
    OUTER_TYPE,
    Layout,
    Manifest,
    form_of,
    read_manifest,
    tasks_of,
)

OUTER_FOLDER = "outer"
"""The folder of the outer links."""
States = dict[Path, dict[str, np.ndarray]]
Manifests = dict[Path, Manifest]
INNER_TYPES: Mapping[Form, str] = {
    "linear": "1layer",
    "linear_res": "1layer_res",
    "mlp": "2layer",
    "mlp_res": "2layer_res",
    "ln_res": INNER_TYPE,
}
OUTER_TYPES: Mapping[Form, str] = {**INNER_TYPES, "ln_res": OUTER_TYPE}
"""The `adapter_type` of each form, for inner and for outer links."""


def write_released(
    root: str | Path, layout: Layout, links: Params, form: Form, task: str = "math"
) -> None:
    """Writes all links of a system with their manifests.

    Inner links go to `root/<agent>/`, outer links to `root/outer/`. A new or empty `root` gets all
    files at once, or on an error none. In one that has files, links of other tasks are kept, files
    of links are never overwritten, and the manifests come last; where a process was killed amid
    that, the same call finishes its work.

    Args:
      layout: names the system's agents and edges.
      links: `{"inner": {agent: ...}, "outer": {"src->dst": ...}}`.
      form: of all links.
      task: that the links are for; not used where the layout has one entry for all tasks.

    Raises:
      InputError: the links are not those of the layout or not of this form; links for this task
        exist; the folders belong to another system; or the disk is full.
      OSError: as `open`.
    """
    root = Path(root)
    _check_names(layout, links)
    states, manifests = _inner_files(root, layout, links["inner"], form=form, task=task)
    outer_states, outer_manifest = _outer_files(root, layout, links["outer"], form=form, task=task)
    states |= outer_states
    manifests |= outer_manifest
    with replacing_folder(root, last=(ADAPTER, INNER, OUTER)) as made:
        for file, state in states.items():
            new = made / file.relative_to(root)
            new.parent.mkdir(exist_ok=True)
            torch_archive.write(new, state)
            if file.exists() and not filecmp.cmp(file, new, shallow=False):
                raise InputError(f"{file} exists; write the links to another folder")
        for file, manifest in manifests.items():
            write_json(made / file.relative_to(root), manifest)
        if all(file.is_file() for file in (*states, *manifests)) and not _changes(made, root):
            what = f"has links for task {task!r}" if layout.by_task else "exists"
            raise InputError(f"{root / OUTER_FOLDER / OUTER} {what}; write to another folder")


def _changes(made: Path, root: Path) -> bool:
    files = [file.relative_to(made) for file in made.rglob("*") if file.is_file()]
    return any(not filecmp.cmp(made / file, root / file, shallow=False) for file in files)


def _inner_files(
    root: Path, layout: Layout, inner: Params, form: Form, task: str
) -> tuple[States, Manifests]:
    states: States = {}
    manifests: Manifests = {}
    for agent in layout.labels:
        params = inner[agent]
        _check_form(params, InnerLink(form, params["proj1"]["kernel"].shape[0]), agent)
        folder = inside(root, agent, "agent")
        file = inside(folder, f"adapter{_suffix(layout, task)}.pt", f"task {task!r}")
        states[file] = to_state_dict(params)
        config = folder / ADAPTER
        if not config.exists():
            manifests[config] = {"adapter_type": INNER_TYPES[form]}
        elif (other := form_of(read_manifest(config), INNER_TYPE, config)) != form:
            raise InputError(f"{config}: the folder holds links of form {other}, not {form}")
        header = {"format_version": 1, "role": agent, "style": layout.style}
        entry = {"adapter": file.name}
        if layout.by_task:
            entry = {"adapter.pt": file.name, ADAPTER: ADAPTER}
        manifests[folder / INNER] = _merged(folder / INNER, header, layout, task=task, entry=entry)
    return states, manifests


def _outer_files(
    root: Path, layout: Layout, outer: Params, form: Form, task: str
) -> tuple[States, Manifests]:
    folder = root / OUTER_FOLDER
    states: States = {}
    adapters = []
    for (src, dst), key in layout.keys.items():
        params = outer[edge_name(src, dst)]
        last = params.get("proj2", params["proj1"])
        d_src, d_dst = params["proj1"]["kernel"].shape[0], last["bias"].shape[0]
        _check_form(params, OuterLink(form, d_src, d_dst), edge_name(src, dst))
        labels = layout.labels[src], layout.labels[dst]
        file = inside(
            folder, f"{'-'.join(labels)}-Outerlink{_suffix(layout, task)}.pt", f"task {task!r}"
        )
        states[file] = to_state_dict(params)
        adapters.append(
            {
                "legacy_key": key,
                "filename": file.name,
                "source_role": labels[0],
                "target_role": labels[1],
                "adapter_type": OUTER_TYPES[form],
                "in_dim": d_src,
                "out_dim": d_dst,
            }
        )
    header = {"format_version": 1, "paradigm": layout.paradigm}
    path = folder / OUTER
    return states, {path: _merged(path, header, layout, task=task, entry={"adapters": adapters})}


def _suffix(layout: Layout, task: str) -> str:
    return f"({task})" if layout.by_task else ""


def _check_names(layout: Layout, links: Params) -> None:
    wanted = {"inner": set(layout.labels), "outer": {edge_name(*edge) for edge in layout.keys}}
    for kind, names in wanted.items():
        if names != links[kind].keys():
            raise InputError(
                f"{layout.style} has {kind} links {listed(names)}; "
                f"these are {listed(links[kind]) or 'none'}"
            )


def _check_form(params: Params, module: InnerLink | OuterLink, name: str) -> None:
    def shapes(tree: Params) -> Params:
        return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)

    if shapes(params) != shapes(link_template(module)):
        raise InputError(f"the link {name} is not of form {module.form}")


def _merged(
    path: Path, header: Manifest, layout: Layout, task: str, entry: dict[str, Any]
) -> Manifest:
    """The manifest at `path` with an entry for this task added."""
    old = read_manifest(path) if path.exists() else {}
    for key, value in header.items():
        if old.get(key, value) != value:
            raise InputError(f"{path} belongs to another system: {key} is not {value!r}")
    tasks, new = tasks_of(old, path), {"task": task} | entry
    if not layout.by_task:
        if old and old != header | entry:
            raise InputError(f"{path} exists; write the links to another folder")
        return header | entry
    if old and tasks is None:
        raise InputError(f"{path} has one entry for all tasks; {layout.style} has one for each")
    if (tasks or {}).get(task, new) != new:
        raise InputError(f"{path} has links for task {task!r}; write to another folder")
    return header | old | {"tasks": (tasks or {}) | {task: new}}
