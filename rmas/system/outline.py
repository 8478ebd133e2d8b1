"""What a released system is made of, known before any weight is loaded."""

from pathlib import Path

from rmas.links import Form
from rmas.models import ModelSpec, base
from rmas.system.load import shared_weights
from rmas.system.released import locate, read_links
from rmas.system.styles import Style


def released(style: Style) -> tuple[dict[str, ModelSpec], Form, dict[str, str]]:
    """The system as released, by its base models; agents on one of them share it."""
    names = {agent: facts.base_model for agent, facts in style.agents.items()}
    first = {name: agent for agent, name in reversed(names.items())}
    shares = {a: first[name] for a, name in names.items() if first[name] != a}
    return {a: base.base_spec(name) for a, name in names.items()}, "ln_res", shares


def on_disk(
    style: Style, root: Path, task_family: str
) -> tuple[dict[str, ModelSpec], Form, dict[str, str]]:
    """The system in a folder: its configurations, and its links, which are read and checked."""
    folders, outer = locate(style, root)
    paths = {agent: at.path for agent, at in folders.items()}
    specs = {agent: ModelSpec.from_config(path) for agent, path in paths.items()}
    form, _ = read_links(style, paths, outer.path, specs, task_family)
    return specs, form, shared_weights(paths, specs)
