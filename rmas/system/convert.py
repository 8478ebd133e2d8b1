"""Converts the links of a system from the released layout to this project's, and back."""

from pathlib import Path
from typing import Any

import jax

from rmas.errors import InputError
from rmas.links import LinkSpec, init_links, parse_form
from rmas.places import has_entry
from rmas.system.load import system_facts
from rmas.system.outline import Outline
from rmas.system.released import DATE, layout_of
from rmas.system.styles import Style
from rmas.weights.links import load_links, save_links
from rmas.weights.released_export import write_released


def from_released(style: Style, root: Path, task_family: str, prompts: str, out: Path) -> None:
    """Writes released links to the folder `out`, with a manifest of what they belong to.

    `root` is the system's folder, `prompts` the prompt set that the links are for. Raises
    `InputError` for folders, links or prompts that do not fit, and if `out` cannot be written.
    """
    _check_folder(out)
    outline = Outline.of_style(style, root, prompts=prompts, task_family=task_family, date=DATE)
    links = outline.released_links
    if links is None:
        raise AssertionError("a style on disk has links")
    origins = {
        a: {
            "base_model": style.agents[a].base_model,
            "source": at.source if at.revision else at.path.name,
            "revision": at.revision,
        }
        for a, at in outline.located.items()
    }
    facts = system_facts(style.topology, outline.prompts, task_family, outline.fingerprints)
    try:
        save_links(out, links, {"form": outline.form, **facts, "base_models": origins})
    except OSError as e:
        raise InputError(f"{out} cannot be written: {e.strerror}") from e


def to_released(style: Style, folder: Path, task_family: str, root: Path) -> None:
    """Writes the links in `folder`, which are this project's, in the released layout to `root`.

    Raises `InputError` for links of another topology, damaged links, and if `root` cannot be
    written.
    """

    _check_folder(root)

    def accept(manifest: dict[str, Any]) -> None:
        topology = manifest.get("topology")
        name = topology.get("name") if isinstance(topology, dict) else None
        if name != style.topology.name:
            raise InputError(
                f"links in {folder} belong to topology {name!r}; style {style.name} has "
                f"{style.topology.name!r}"
            )

    found, manifest = load_links(folder, accept=accept)
    form = parse_form(str(manifest.get("form")))
    try:
        widths = [(a, found["inner"][a]["proj1"]["bias"].shape[0]) for a in style.topology.agents]
    except (KeyError, TypeError, IndexError, AttributeError) as e:
        raise InputError(f"links in {folder} lack the inner link of an agent: {e}") from e
    spec = LinkSpec(form, tuple(widths), style.topology.link_edges)
    links, _ = load_links(folder, jax.eval_shape(lambda: init_links(spec, jax.random.key(0))))
    try:
        write_released(
            root, layout_of(style), links, form, style.link_task(task_family) or task_family
        )
    except OSError as e:
        raise InputError(f"{root} cannot be written: {e.strerror}") from e


def _check_folder(out: Path) -> None:
    if has_entry(out) and not out.is_dir():
        raise InputError(f"{out} is not a folder; name the folder to write")
