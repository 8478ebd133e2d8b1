"""Reads the links of released systems, and converts between their state dicts and parameters.

Layers have the same names in both; `proj1.weight [out, in]` is the transposed `proj1/kernel`, and
`pre_ln.weight` is `pre_ln/scale`. `released_manifests.py` finds the file of each link;
`released_export.py` writes links in the same layout.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rmas.errors import InputError
from rmas.links import Form, InnerLink, OuterLink, edge_name
from rmas.shapes import Params
from rmas.weights import torch_archive
from rmas.weights.files import inside, is_finite, listed
from rmas.weights.released_manifests import (
    INNER_TYPE,
    OUTER,
    OUTER_TYPE,
    Layout,
    form_of,
    inner_files,
    outer_entries,
    quoted,
    read_manifest,
    text,
)


def to_state_dict(params: Params) -> dict[str, np.ndarray]:
    """The state dict of one link, sorted by name; dtypes are kept."""
    return {
        _released_name(layer, leaf): np.ascontiguousarray(_transposed(leaf, np.asarray(value)))
        for layer, leaves in sorted(params.items())
        for leaf, value in sorted(leaves.items())
    }


def from_state_dict(state: Mapping[str, np.ndarray], template: Params, where: str | Path) -> Params:
    """The parameters of one link, with the structure and dtypes of `template`.

    Raises:
      InputError: a tensor is missing, unexpected, of another shape, or holds nan or inf; the
        message names it and starts with `where`.
    """
    wanted = {
        _released_name(layer, leaf): (layer, leaf, like)
        for layer, leaves in template.items()
        for leaf, like in leaves.items()
    }
    if state.keys() != wanted.keys():
        missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
        raise InputError(
            f"{where}: not a link of the expected form: missing {listed(missing) or 'nothing'}, "
            f"unexpected {listed(unexpected) or 'nothing'}"
        )
    wrong = [
        f"{name} is {state[name].shape}, not {like.shape[::-1]}"
        for name, (_, _, like) in wanted.items()
        if state[name].shape != like.shape[::-1]
    ]
    if wrong:
        raise InputError(f"{where}: wrong dimensions for this system: {listed(wrong)}")
    damaged = [name for name in wanted if not is_finite(state[name])]
    if damaged:
        raise InputError(f"{where}: damaged, since it holds nan or inf: {listed(damaged)}")
    params: Params = {layer: {} for layer in template}
    for name, (layer, leaf, like) in wanted.items():
        params[layer][leaf] = jnp.asarray(_transposed(leaf, state[name]), like.dtype)
    return params


def link_template(module: InnerLink | OuterLink) -> Params:
    """The shapes and dtypes of a link's parameters."""
    width = module.width if isinstance(module, InnerLink) else module.d_src
    h = jax.ShapeDtypeStruct((1, width), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), h)["params"]


def read_inner(directory: str | Path, task: str, d_model: int) -> tuple[Form, Params]:
    """Reads an agent's inner link.

    The file is the one that `innerlink_config.json` names for the task (or for all), else
    `adapter(<task>).pt`, else `adapter.pt`; the form is the `adapter_type` of
    `adapter_config.json`, else the released one.

    Args:
      directory: the agent's folder.
      task: `math` or `code`; not used where the manifest has one entry for all tasks.
      d_model: the agent's hidden width.

    Raises:
      InputError: there is no link, the task is unknown, or a file is damaged or of other
        dimensions; the message names the file.
    """
    file, config = inner_files(Path(directory), task)
    form = form_of(read_manifest(config) if config else {}, INNER_TYPE, config)
    template = link_template(InnerLink(form, d_model))
    return form, from_state_dict(torch_archive.read(file), template, file)


def read_outer(
    directory: str | Path, task: str, edges: Mapping[str, tuple[int, int]]
) -> tuple[Form, dict[str, Params]]:
    """Reads a system's outer links, which `outerlink_config.json` lists.

    Args:
      directory: the folder of the outer links.
      task: as in `read_inner`.
      edges: legacy key -> widths of the sender and the receiver, at least one; links under other
        keys are not read.

    Returns:
      The form of all of them, and legacy key -> parameters.

    Raises:
      InputError: the manifest is missing, the task is unknown, a key has no entry, dimensions are
        different, links have several forms, or a file is missing or damaged; the message names
        the file.
    """
    directory = Path(directory)
    path, entries = directory / OUTER, outer_entries(directory, task)
    if absent := edges.keys() - entries.keys():
        raise InputError(f"{path}: no entry for {listed(absent)}; known: {quoted(entries)}")
    for key, dims in edges.items():
        stated = tuple(entries[key].get(name, d) for name, d in zip(_DIMS, dims, strict=True))
        if stated != tuple(dims):
            raise InputError(
                f"{path}: {key} is from {stated[0]!r} to {stated[1]!r} dimensions; "
                f"this system needs {dims[0]} to {dims[1]}"
            )
    form = one_form({key: form_of(entries[key], OUTER_TYPE, path) for key in edges}, path)
    links = {}
    for key, (d_src, d_dst) in edges.items():
        file = inside(directory, text(entries[key], "filename", path), path)
        template = link_template(OuterLink(form, d_src, d_dst))
        links[key] = from_state_dict(torch_archive.read(file), template, file)
    return form, links


def read_released(
    layout: Layout,
    folders: Mapping[str, str | Path],
    outer: str | Path,
    widths: Mapping[str, int],
    task: str,
) -> tuple[Form, Params]:
    """Reads all links of a released system.

    Args:
      folders: agent -> its folder.
      outer: the folder of the outer links.
      widths: agent -> its hidden width.
      task: as in `read_inner`.

    Returns:
      The form, and the tree `{"inner": {agent: ...}, "outer": {"src->dst": ...}}`, float32.

    Raises:
      InputError: as `read_inner` and `read_outer`, or links of several forms.
    """
    read = {agent: read_inner(folders[agent], task, widths[agent]) for agent in layout.labels}
    edges = {key: (widths[src], widths[dst]) for (src, dst), key in layout.keys.items()}
    outer_form, by_key = read_outer(outer, task, edges)
    forms = {agent: form for agent, (form, _) in read.items()} | {"outer links": outer_form}
    return one_form(forms, outer), {
        "inner": {agent: params for agent, (_, params) in read.items()},
        "outer": {edge_name(*edge): by_key[key] for edge, key in layout.keys.items()},
    }


def one_form(forms: Mapping[str, Form], where: str | Path) -> Form:
    """The form of all these links; raises `InputError` if they have several."""
    if len(set(forms.values())) != 1:
        found = ", ".join(f"{name}: {form}" for name, form in forms.items())
        raise InputError(f"{where}: the links of a system must have one form; found {found}")
    return next(iter(forms.values()))


_DIMS = ("in_dim", "out_dim")


def _released_name(layer: str, leaf: str) -> str:
    return f"{layer}.{'bias' if leaf == 'bias' else 'weight'}"


def _transposed(leaf: str, array: np.ndarray) -> np.ndarray:
    """Transposes kernels, which torch stores as `[out, in]`."""
    return array.T if leaf == "kernel" else array
