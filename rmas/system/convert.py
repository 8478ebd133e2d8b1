"""Links of a system from the released layout to this project's form, and back."""

from pathlib import Path

import jax

from rmas.errors import InputError
from rmas.links import LinkSpec, init_links, parse_form
from rmas.models import ModelSpec
from rmas.system import prompts as prompt_sets
from rmas.system.load import fingerprint, system_facts
from rmas.system.released import layout_of, locate, read_links
from rmas.system.styles import Style
from rmas.weights.links import load_links, save_links
from rmas.weights.released_export import write_released


def to_ours(style: Style, root: Path, task_family: str, prompts: str, out: Path) -> None:
    """Released links to `out`, with what they belong to."""
    prompt_set = prompt_sets.load(prompts)
    prompt_set.check(style.topology, task_family)
    folders, outer = locate(style, root)
    paths = {agent: at.path for agent, at in folders.items()}
    specs = {agent: ModelSpec.from_config(path) for agent, path in paths.items()}
    form, links = read_links(style, paths, outer.path, specs, task_family)
    agents = {agent: fingerprint(path) for agent, path in paths.items()}
    origins = {
        a: {
            "base_model": style.agents[a].base_model,
            "source": at.source if at.revision else at.path.name,
            "revision": at.revision,
        }
        for a, at in folders.items()
    }
    facts = system_facts(style.topology, prompt_set, task_family, agents)
    try:
        save_links(out, links, {"form": form, **facts, "base_models": origins})
    except OSError as e:
        raise InputError(f"{out} cannot be written: {e.strerror}") from e


def to_released(style: Style, folder: Path, task_family: str, root: Path) -> None:
    """Links of this project to the released layout below `root`."""
    found, manifest = load_links(folder)
    topology = manifest.get("topology")
    name = topology.get("name") if isinstance(topology, dict) else None
    if name != style.topology.name:
        raise InputError(
            f"links in {folder} are of topology {name!r}; style {style.name} has "
            f"{style.topology.name!r}"
        )
    form = parse_form(str(manifest.get("form")))
    try:
        own = [(a, found["inner"][a]["proj1"]["bias"].shape[0]) for a in style.topology.agents]
    except (KeyError, TypeError, IndexError, AttributeError) as e:
        raise InputError(f"links in {folder} lack the inner link of an agent: {e}") from e
    spec = LinkSpec(form, tuple(own), style.topology.link_edges)
    links, _ = load_links(folder, jax.eval_shape(lambda: init_links(spec, jax.random.key(0))))
    try:
        write_released(
            root, layout_of(style), links, form, style.link_task(task_family) or task_family
        )
    except OSError as e:
        raise InputError(f"{root} cannot be written: {e.strerror}") from e
