"""Released systems, and systems in the released layout: agents, links and prompts, ready to run.

A root holds one folder per agent, with the agent's name, and `outer` with the links between them;
without a root, the repositories of the release are used. Nothing is written into either.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh
from jax.typing import DTypeLike

from rmas import parallel
from rmas.errors import InputError
from rmas.links import Form
from rmas.models import ModelSpec, read_spec
from rmas.shapes import Params
from rmas.system import prompts as prompt_sets
from rmas.system.load import System, load_agents
from rmas.system.styles import STYLES, Style
from rmas.tools import Toolbox
from rmas.weights import hub
from rmas.weights.released_links import read_released
from rmas.weights.released_manifests import Layout

_log = logging.getLogger(__name__)
DATE = "26 Jul 2024"
"""The date for chat templates that print one: the constant of Llama 3's own template."""
DEFAULT_PROMPTS = "default"
"""The packaged prompt set of this project."""


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedSystem:
    """A system with its trained links.

    Attributes:
      system: agents, topology and prompts (`rmas.system.run.Runner` runs it).
      links: `{"inner": {agent: ...}, "outer": {"src->dst": ...}}`, float32, whole on each device.
      form: the form of all links.
    """

    system: System
    links: Params
    form: Form


def load_system(
    style: str,
    root: str | Path | None = None,
    *,
    task_family: str = "math",
    dtype: DTypeLike | None = None,
    mesh: Mesh | str | None = None,
    prompts: str | None = None,
    quantize: bool = False,
    date: str = DATE,
    tools: Toolbox | None = None,
    local: bool = False,
) -> LoadedSystem:
    """Loads a released system.

    Args:
      style: `sequential_light`, `sequential_scaled`, `mixture`, `distillation`, `deliberation`.
      root: its folder; None uses the released repositories, from the cache or downloaded.
      task_family: as the prompt set names it: `math`, `choice`, `code`, ... It selects prompts,
        and links where there is one set per task (`code`, else `math`).
      dtype: of frozen weights; None means bfloat16 on accelerators and float32 on CPU.
      mesh: a mesh, or text as in `data=2,tensor=4` or `auto`; None means one device.
      prompts: a packaged prompt set or a JSON file. The default is this project's own set, which
        released links were not trained with: a warning says how to get theirs.
      quantize: hold the agents' matrices as int8.
      date: for chat templates that print one.
      tools: what the agents of deliberation may call; the other styles have no tools.
      local: in a run of many processes, use only the devices of this one.

    Raises:
      InputError: whatever is wrong with the folders, links, prompts or arguments, in one line.
    """
    made = find_style(style)
    if tools and not made.topology.callers:
        raise InputError(f"no agent of style {style!r} calls tools; leave tools out")
    folders, outer = locate(made, root)
    prompt_set = prompt_sets.load(prompts or DEFAULT_PROMPTS)
    prompt_set.check(made.topology, task_family)
    specs = {agent: read_spec(at.path) for agent, at in folders.items()}
    form, links = read_links(
        made, {a: at.path for a, at in folders.items()}, outer.path, specs, task_family
    )
    if prompt_set.digest == prompt_sets.load(DEFAULT_PROMPTS).digest:
        _log.warning(
            "released links were trained with the release's prompts, not with the set %r: expect "
            "poor answers; make the release's set from a clone of it by python -m "
            "experiments.import_prompts --release=CLONE --out=FILE, and give the file as prompts",
            prompt_set.name,
        )
    sources = {agent: pinned(at) for agent, at in folders.items()}
    agents = load_agents(sources, date, dtype=dtype, mesh=mesh, quantize=quantize, local=local)
    system = System(
        topology=made.topology,
        agents=agents,
        prompts=prompt_set,
        task_family=task_family,
        tools=dict.fromkeys(made.topology.callers, tools) if tools else {},
    )
    links = parallel.put_whole(links, parallel.replicated(system.mesh))
    return LoadedSystem(system, links, form)


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
    root = Path(root).expanduser()
    if not root.is_dir():
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
