"""Settings to the objects of the library: systems, rows, links, folders. No flags in here."""

import dataclasses
import functools
import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.settings import Settings
from rmas import __version__, models
from rmas.errors import InputError
from rmas.files import report_full_disk
from rmas.links import Form, aligned_inner, init_links, parse_form
from rmas.parallel import barrier, is_first, to_host
from rmas.shapes import Params
from rmas.system import prompts
from rmas.system.load import System, load_agents
from rmas.system.released import LoadedSystem, load_system
from rmas.system.rendered import Renderer
from rmas.system.topology import Topology, difference
from rmas.tasks.benchmarks import BENCHMARKS, TRAINING_SETS
from rmas.tasks.generated import PUZZLES
from rmas.tasks.rows import Row
from rmas.tasks.sources import RowSource, load_rows_source
from rmas.tools import Limits as ProgramLimits
from rmas.tools import PythonTool, Sandbox, SearchTool, Tool, Toolbox, open_search
from rmas.training.examples import Examples
from rmas.training.objectives import TrainingContext
from rmas.weights.links import load_links, save_links

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """One experiment, put together once; parts are made when they are first asked for.

    Of a run of many processes, `local` keeps its agents on the devices of this one.
    """

    settings: Settings
    workdir: Path
    local: bool = False

    def on_own_devices(self) -> "Assembly":
        """The same experiment with whole agents on the devices of each process."""
        if jax.process_count() == 1 or self.local:
            return self
        return dataclasses.replace(self, local=True)

    @functools.cached_property
    def system(self) -> System:
        """The agents in their topology. Raises `InputError` for whatever is wrong with them."""
        if self.settings.system.released:
            return self.released.system
        s = self.settings.system
        topology = s.pattern()
        prompt_set = prompts.load(s.prompts)
        prompt_set.check(topology, s.task_family)
        mesh, int8 = self.settings.mesh, self.settings.quantize == "int8"
        tools = self.tools(topology)  # what they lack is told before weights are read
        agents = load_agents(s.agents, s.date, s.dtype, mesh, int8, self.local)
        return System(topology, agents, prompt_set, s.task_family, tools)

    @functools.cached_property
    def released(self) -> LoadedSystem:
        """The released system of the settings, with its links."""
        s = self.settings.system
        topology = s.pattern()
        tools = self.tools(topology)
        return load_system(
            s.style,
            s.root or None,
            s.task_family,
            s.dtype,
            self.settings.mesh,
            s.prompts,
            self.settings.quantize == "int8",
            s.date,
            next(iter(tools.values()), None),
            self.local,
        )

    @property
    def form(self) -> Form:
        """The form of the links: a released system's own, else that of the settings."""
        if self.settings.system.released:
            return self.released.form
        return parse_form(self.settings.links.form)

    def tools(self, topology: Topology) -> dict[str, Toolbox]:
        """The tools of each agent that may call some; sandbox and index are tried here."""
        t = self.settings.tools
        for agent in t.agents:
            if agent not in topology.agents:
                known = ", ".join(topology.agents)
                raise InputError(f"tools.agents: unknown agent {agent!r}; known: {known}")
        callers = t.agents or topology.callers
        if t.functions and not callers:
            raise InputError("tools.functions are given to nobody; name agents in tools.agents")
        if not callers or not (t.names or t.functions):
            return {}
        made: list[Tool] = [dataclasses.replace(f, timeout=t.seconds) for f in t.functions]
        if "python" in t.names:
            limits = ProgramLimits(wall=t.seconds, cpu=math.ceil(t.seconds))
            made.append(PythonTool(Sandbox.detect(unsafe=t.unsafe), limits))
        if "search" in t.names:
            if not (t.index or t.tavily):
                raise InputError(
                    f"{', '.join(callers)} may search, but tools.index names no index (made by "
                    "experiments.build_search_index); name one, set tools.tavily, or leave search "
                    "out of tools.names"
                )
            engine = open_search(t.index or None, t.tavily)
            made.append(SearchTool(engine, seconds=t.seconds))
        return dict.fromkeys(callers, Toolbox(made, t.calls, t.characters))

    @functools.cached_property
    def rows(self) -> dict[str, RowSource]:
        """Rows by split."""
        d = self.settings.data
        sizes: dict[str, Any] = {}
        if d.name in PUZZLES:
            sizes = {"train": d.train, "validation": d.validation, "test": d.test}
            sizes["seed"] = self.settings.seed
        given = {"field": d.field, "source": d.source}
        given = {name: value for name, value in given.items() if value}
        folder = Path(d.folder).expanduser() if d.folder else self.workdir / "data"
        return load_rows_source(d.name, data_dir=folder, **sizes, **given)

    def split(self, name: str) -> RowSource:
        """One split of the rows."""
        if name not in self.rows:
            raise InputError(
                f"dataset {self.settings.data.name} has no split {name!r}; it has "
                f"{', '.join(self.rows)} (a file of rows is its split train: name the file to be "
                "evaluated in data.name, and train in evaluate.split)"
            )
        return self.rows[name]

    def check_texts(self, agents: Sequence[str]) -> None:
        """Raises `InputError` for a training row without a text of these agents or senders."""
        topology = self.system.topology
        senders = [e.src for agent in agents for e in topology.incoming(agent)]
        for role in sorted({topology.role(agent) for agent in (*agents, *senders)}):
            if role in self._without_text:
                self._without_text[role].text(role, 0)

    @functools.cached_property
    def _without_text(self) -> dict[str, Row]:
        """The first training row without a text, for each role that lacks one somewhere."""
        roles = {self.system.topology.role(agent) for agent in self.system.topology.agents}
        found: dict[str, Row] = {}
        for row in self.split("train"):
            found |= {role: row for role in roles - found.keys() if not row.texts.get(role)}
        return found

    @functools.cached_property
    def context(self) -> TrainingContext:
        """Static facts of training."""
        outer = self.settings.outer
        return TrainingContext(
            topology=self.system.topology,
            spec=dataclasses.replace(self.system.spec(self.form), remat=outer.remat == "layers"),
            latent_steps=self.settings.latent_steps,
            on_policy=outer.on_policy,
            earlier_rounds=outer.earlier_rounds,
        )

    def examples(self, max_length: int) -> Examples:
        """The maker of training arrays."""
        outer = self.settings.outer
        return Examples(
            renderer=Renderer(self.system),
            rounds=outer.rounds,
            latent_steps=self.settings.latent_steps,
            max_latent_tokens=outer.max_latent_tokens,
            max_length=max_length,
            message_tokens=self.settings.inner.message_tokens,
            shift=outer.shift,
        )

    def initial_links(self) -> Params:
        """The links tree before any training, decided by the seed.

        With `aligned`, inner links have the size of their agents' embeddings; outer links are
        aligned later, when inner links are trained (`initial.align_outer_links`).
        """
        init = self.settings.links.init
        key = jax.random.key(self.settings.seed)
        links = init_links(self.context.spec.links, key, init)
        if init != "aligned":
            return links
        inner = {}
        for agent, params in links["inner"].items():
            own = self.system.agents[agent]
            rms = float(models.embedding_rms(own.model, own.params))
            inner[agent] = aligned_inner(params, rms)
        return {"inner": inner, "outer": links["outer"]}

    def untrained_links(self) -> Params:
        """Random links, for the control that shows what training gives."""
        key = jax.random.key(self.settings.seed)
        return init_links(self.context.spec.links, key, "random")

    def identity(self, *parts: str) -> dict[str, Any]:
        """What a stage's results depend on: the named settings, the system's own facts, the data.

        Paths do not count, contents do: agents and prompts enter by their digests.
        """
        data = {k: v for k, v in dataclasses.asdict(self.settings.data).items() if v != ""}
        data = {k: v for k, v in data.items() if k not in ("source", "folder")}
        if self.settings.data.name in {*BENCHMARKS, *TRAINING_SETS}:
            data["name"] = next(iter(self.rows.values())).version
        elif self.settings.data.name not in PUZZLES:
            path = Path(self.settings.data.name)
            try:
                content = path.read_bytes()
            except OSError as error:
                raise InputError(f"dataset {path} cannot be read: {error.strerror}") from None
            data["name"] = hashlib.sha256(content).hexdigest()[:16]
        picked = {part: _fields(getattr(self.settings, part)) for part in parts}
        system = self.system.facts() | {
            "dtype": self.settings.system.dtype,
            "date": self.settings.system.date,
        }
        if self.settings.quantize != "none":
            system["quantize"] = self.settings.quantize
        return {"seed": self.settings.seed, "data": data, "system": system, **picked}

    def save(self, folder: Path, links: Params) -> None:
        """Writes links with the facts that they belong to."""
        links = to_host(links)
        if is_first():
            with report_full_disk(f"links in {folder}"):
                save_links(folder, links, self.facts())
        barrier("links are saved")

    def facts(self) -> dict[str, Any]:
        """What links, and checkpoints of them, belong to, for JSON."""
        form, origins = self.context.spec.links.form, self.system.origins()
        version = {"rmas": __version__}
        steps = {"latent_steps": self.settings.latent_steps}
        return {"form": form, **steps, **self.system.facts(), "base_models": origins, **version}

    def load(self, folder: Path, template: Params) -> Params:
        """Reads links; says so when they were trained with other prompts.

        Raises `InputError` when they belong to another topology, form or set of agents.
        """
        here = {"form": self.context.spec.links.form, **self.system.facts()}

        def accept(manifest: dict[str, Any]) -> None:
            try:
                told = difference(manifest["topology"], here["topology"])
            except (AttributeError, KeyError, TypeError):
                raise InputError(
                    f"links in {folder}: their manifest does not say what topology they belong to"
                ) from None
            if told:
                raise InputError(f"links in {folder} were trained in another topology: {told}")
            for key in ("form", "agents"):
                if _plain(manifest.get(key)) != _plain(here[key]):
                    raise InputError(
                        f"links in {folder} were trained with another {key}: "
                        f"{manifest.get(key)} there, {here[key]} here"
                    )

        links, manifest = load_links(folder, template, accept)
        steps = manifest.get("latent_steps")
        if steps not in (None, self.settings.latent_steps):
            _log.warning(
                "links in %s were trained with %s latent steps, not %d: expect other answers",
                folder,
                steps,
                self.settings.latent_steps,
            )
        for key in ("prompts", "tools"):  # what a system message says of tools is prompt, too
            if manifest.get(key) != here.get(key):
                _log.warning(
                    "links in %s were trained with %s %s, not with %s: expect poor answers",
                    folder,
                    key,
                    manifest.get(key),
                    here.get(key),
                )
        return links


def _fields(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
