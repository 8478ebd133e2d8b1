"""The outline of a system: what is known of it before a weight is loaded, made once.

Systems, training contexts, plans, dry runs, inspection and conversion start from it.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh
from jax.typing import DTypeLike

from rmas import parallel
from rmas.errors import InputError
from rmas.links import Form, LinkSpec, init_links
from rmas.models import ModelSpec, base, read_spec
from rmas.parallel import MeshSpec, Rows
from rmas.shapes import Params
from rmas.system import prompts as prompt_sets
from rmas.system.encode import ChatTokenizer
from rmas.system.load import Agent, System, fingerprint, load_agents, load_chat, shared_weights
from rmas.system.prompts import PromptSet
from rmas.system.released import (
    DATE,
    DEFAULT_PROMPTS,
    find_style,
    locate,
    pinned,
    read_links,
)
from rmas.system.sizes import SystemSize, measure
from rmas.system.styles import Style
from rmas.system.topology import Topology
from rmas.system.turn import SystemSpec
from rmas.tools import Toolbox
from rmas.weights import hub
from rmas.weights.agents import AgentParams
from rmas.weights.placement import abstract_agents, choose_mesh, planned

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """A system without weights.

    Attributes:
      topology: who speaks to whom.
      specs: the architecture of each agent, in the order of the topology.
      form: the form of all links.
      shares: agent -> an earlier agent with the same weights, of which one copy is held.
      prompts: the prompt set.
      task_family: whose prompts are used.
      date: for chat templates that print one.
      located: the folder of each agent; empty where only the release's facts are known.
      style: the released system that this is, if it is one.
      released_links: its trained links, read from its folders; None for other systems.
    """

    topology: Topology
    specs: Mapping[str, ModelSpec]
    form: Form
    shares: Mapping[str, str]
    prompts: PromptSet
    task_family: str
    date: str
    located: Mapping[str, hub.Located] = dataclasses.field(default_factory=dict)
    style: Style | None = None
    released_links: Params | None = None

    def __post_init__(self) -> None:
        self.prompts.check(self.topology, self.task_family)

    @classmethod
    def of_agents(
        cls,
        sources: Mapping[str, str],
        topology: Topology,
        *,
        form: Form,
        prompts: str,
        task_family: str,
        date: str,
    ) -> "Outline":
        """A system of your own agents, from Hugging Face folders or Hub ids.

        Raises `InputError` for folders, prompts or configurations that cannot be used.
        """
        prompt_set = prompt_sets.load(prompts)
        prompt_set.check(topology, task_family)  # before anything is downloaded
        located = {agent: _locate(agent, sources[agent]) for agent in topology.agents}
        _, specs, shares = _read(located)
        return cls(
            topology=topology,
            specs=specs,
            form=form,
            shares=shares,
            prompts=prompt_set,
            task_family=task_family,
            date=date,
            located=located,
        )

    @classmethod
    def of_style(
        cls,
        style: Style,
        root: str | Path | None,
        *,
        prompts: str,
        task_family: str,
        date: str,
    ) -> "Outline":
        """A released system, from the folder `root` or (None) from the Hub; its links are read.

        Raises `InputError` for whatever is wrong with folders, links or prompts.
        """
        prompt_set = prompt_sets.load(prompts)
        prompt_set.check(style.topology, task_family)
        located, outer = locate(style, root)
        paths, specs, shares = _read(located)
        form, links = read_links(style, paths, outer.path, specs, task_family)
        return cls(
            topology=style.topology,
            specs=specs,
            form=form,
            shares=shares,
            prompts=prompt_set,
            task_family=task_family,
            date=date,
            located=located,
            style=style,
            released_links=links,
        )

    @classmethod
    def of_release(cls, style: Style, *, prompts: str, task_family: str, date: str) -> "Outline":
        """A released system as published, by its base models; no folder is read or downloaded."""
        names = {agent: facts.base_model for agent, facts in style.agents.items()}
        first = {name: agent for agent, name in reversed(names.items())}
        return cls(
            topology=style.topology,
            specs={agent: base.base_spec(name) for agent, name in names.items()},
            form="ln_res",
            shares={a: first[name] for a, name in names.items() if first[name] != a},
            prompts=prompt_sets.load(prompts),
            task_family=task_family,
            date=date,
            style=style,
        )

    @property
    def link_spec(self) -> LinkSpec:
        """Static facts of the links."""
        widths = tuple((agent, self.specs[agent].d_model) for agent in self.topology.agents)
        return LinkSpec(self.form, widths, self.topology.link_edges)

    @property
    def link_template(self) -> Params:
        """Shapes and types of the links tree."""
        return jax.eval_shape(lambda: init_links(self.link_spec, jax.random.key(0)))

    def spec(self, remat: bool = False) -> SystemSpec:
        """Static facts for the engine; with `remat`, layers use activation checkpointing."""
        models = tuple((agent, self.specs[agent]) for agent in self.topology.agents)
        return SystemSpec(models, self.link_spec, remat)

    def context(self, agent: str) -> int:
        """The length of an agent's context, in positions."""
        return self.specs[agent].max_positions

    @functools.cached_property
    def chats(self) -> dict[str, ChatTokenizer]:
        """The tokenizer and chat template of every agent whose folder is known."""
        return {
            agent: load_chat(at.path, self.specs[agent], self.date, agent)[0]
            for agent, at in self.located.items()
        }

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """A digest of every agent's folder."""
        return {agent: fingerprint(at.path) for agent, at in self.located.items()}

    def unloaded(self, tools: Mapping[str, Toolbox] | None = None) -> System:
        """The system without weights, which can render prompts and count positions.

        Raises `InputError` if the agents' folders are not known.
        """
        if not self.located:
            raise InputError(f"the folders of {', '.join(self.topology.agents)} are not known")
        agents = {
            agent: Agent(
                model=spec,
                params={},
                chat=self.chats[agent],
                eos=(),
                fingerprint=self.fingerprints[agent],
                source=self.located[agent].source,
                revision=self.located[agent].revision,
            )
            for agent, spec in self.specs.items()
        }
        return System(self.topology, agents, self.prompts, self.task_family, tools or {})

    def load(
        self,
        *,
        dtype: Any = None,
        mesh: Mesh | str | None = None,
        quantize: bool = False,
        local: bool = False,
        tools: Mapping[str, Toolbox] | None = None,
    ) -> System:
        """The system with its weights on the devices, as `load_agents` places them."""
        if self.style and self.prompts.digest == prompt_sets.load(DEFAULT_PROMPTS).digest:
            _log.warning(
                "released links were trained with the release's prompts, not with the set %r: "
                "expect poor answers; make the release's set from a clone of it by python -m "
                "experiments.import_prompts --release=CLONE --out=FILE, and give the file as "
                "prompts",
                self.prompts.name,
            )
        sources = {agent: pinned(at) for agent, at in self.located.items()}
        agents = load_agents(
            sources, self.date, dtype=dtype, mesh=mesh, quantize=quantize, local=local
        )
        if self.style:
            # The release ends an answer at the tokenizer's eos token alone.
            answers = agents[self.topology.output]
            eos = (answers.chat.tokenizer.eos_token_id,)
            agents[self.topology.output] = dataclasses.replace(answers, eos=eos)
        return System(self.topology, agents, self.prompts, self.task_family, tools or {})

    def size(self, mesh: Any, dtype: Any, quantize: bool = False) -> SystemSize:
        """The size of the system, and of each device's share on the (abstract) mesh."""
        return measure(
            self.specs,
            self.topology.link_edges,
            self.form,
            mesh=mesh,
            dtype=dtype,
            quantize=quantize,
            shares=self.shares,
        )

    def abstract_mesh(
        self,
        asked: MeshSpec,
        n_devices: int,
        *,
        dtype: Any,
        quantize: bool,
        memory: int | None,
        rows: Rows | None = None,
    ) -> AbstractMesh:
        """The mesh that loading would make of so many devices of one host; these need not exist.

        `memory` is that of a device in bytes, if it is known, `rows` as in `placement.planned`.
        Raises `InputError` for sizes that do not fit the number of devices.
        """
        sizes = planned(
            asked,
            self.owners,
            dtype=dtype,
            quantize=quantize,
            n_devices=n_devices,
            per_host=n_devices,
            memory=memory,
            rows=rows,
        )[0]
        return parallel.abstract_mesh(sizes, n_devices)

    def abstract_params(self, mesh: Mesh, dtype: Any, quantize: bool) -> AgentParams:
        """Shapes of each agent's weights with their shardings; agents that share have one tree."""
        return abstract_agents(self.specs, self.shares, mesh, dtype, quantize)

    @property
    def owners(self) -> list[ModelSpec]:
        """One architecture for each set of weights that is held."""
        return [spec for agent, spec in self.specs.items() if agent not in self.shares]


def _locate(agent: str, source: str) -> hub.Located:
    try:
        return hub.resolve(source)
    except InputError as error:
        raise InputError(f"agent {agent}: {error}") from error


def _read(
    located: Mapping[str, hub.Located],
) -> tuple[dict[str, Path], dict[str, ModelSpec], dict[str, str]]:
    """Agents' folders, their architectures, and which agents share the weights of which."""
    paths = {agent: at.path for agent, at in located.items()}
    specs = {agent: read_spec(path) for agent, path in paths.items()}
    return paths, specs, shared_weights(paths, specs)


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
    batch: int | None = None,
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
      batch: questions that will be answered together, which `auto` looks at on accelerators.

    Raises:
      InputError: whatever is wrong with the folders, links, prompts or arguments, in one line.
    """
    found = find_style(style)
    if tools and not found.topology.callers:
        raise InputError(f"no agent of style {style!r} calls tools; leave tools out")
    outline = Outline.of_style(
        found, root, prompts=prompts or DEFAULT_PROMPTS, task_family=task_family, date=date
    )
    rows = None if batch is None else parallel.Rows(batch)
    system = outline.load(
        dtype=dtype,
        mesh=choose_mesh(mesh, outline.owners, dtype, quantize, local, rows),
        quantize=quantize,
        local=local,
        tools=dict.fromkeys(found.topology.callers, tools) if tools else {},
    )
    links = parallel.put_whole(outline.released_links, parallel.replicated(system.mesh))
    return LoadedSystem(system, links, outline.form)
