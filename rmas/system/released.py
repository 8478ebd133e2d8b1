"""Where the parts of a released system are: agents, links and the names of their files.

A root holds one folder per agent, with the agent's name, and `outer` with the links between them;
without a root, the repositories of the release are used. Nothing is written into either.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from rmas.errors import InputError
from rmas.links import Form
from rmas.models import ModelSpec
from rmas.places import expanded
from rmas.shapes import Params
from rmas.system.styles import STYLES, Style
from rmas.weights import hub
from rmas.weights.released_links import read_released
from rmas.weights.released_manifests import Layout

DATE = "26 Jul 2024"
"""The date for chat templates that print one: the constant of Llama 3's own template."""
DEFAULT_PROMPTS = "default"
"""The packaged prompt set of this project."""


def find_style(style: str) -> Style:
    """A released system by the name of its style; raises `InputError` naming the known ones."""
    if style not in STYLES:
        raise InputError(f"style {style!r} is unknown; known: {', '.join(STYLES)}")
    return STYLES[style]


def locate(style: Style, root: str | Path | None) -> tuple[dict[str, hub.Located], hub.Located]:
    """The folders of a system: one per agent, and the one of the outer links.

    Without `root`, those of the released repositories. Raises `InputError` for a folder that is
    missing, or a repository that cannot be downloaded.
    """
    needed = ", ".join((*style.agents, "outer"))
    if root is None:
        try:
            agents = {name: hub.resolve(agent.hub_id) for name, agent in style.agents.items()}
            return agents, hub.resolve(style.outer_hub_id, patterns=hub.LINK_FILES)
        except InputError as e:
            raise InputError(f"{e}; or give a root that holds the folders {needed}") from e
    root = expanded(root)
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder; {style.name} needs one that holds {needed}")
    missing = [name for name in (*style.agents, "outer") if not (root / name).is_dir()]
    if missing:
        raise InputError(
            f"{root}: folders are missing: {', '.join(missing)}; {style.name} needs {needed}"
        )
    agents = {name: hub.resolve(str(root / name)) for name in style.agents}
    return agents, hub.resolve(str(root / "outer"))


def read_links(
    style: Style,
    folders: Mapping[str, Path],
    outer: Path,
    specs: Mapping[str, ModelSpec],
    task_family: str,
) -> tuple[Form, Params]:
    """The form and the links of a system for a task family.

    Args:
      folders: by agent, the folder with its inner links.
      outer: the folder with the outer links.
      specs: architectures by agent.

    Raises `InputError` if links are missing, damaged, or do not fit the agents.
    """
    widths = {agent: spec.d_model for agent, spec in specs.items()}
    return read_released(
        layout_of(style), folders, outer, widths, style.link_task(task_family) or task_family
    )


def layout_of(style: Style) -> Layout:
    """How the release names the files of a style's links."""
    return Layout(
        style=style.name,
        paradigm=style.topology.name,
        labels={name: agent.label for name, agent in style.agents.items()},
        keys=style.legacy_keys,
        by_task=style.task_scoped,
    )


def pinned(at: hub.Located) -> str:
    """A source that gives the same files again: the folder, or the Hub id at its commit."""
    return at.source if at.revision is None else f"{at.source.partition('@')[0]}@{at.revision}"
