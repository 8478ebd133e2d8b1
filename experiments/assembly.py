"""Settings to the objects of the library: systems, rows, links, folders. No flags in here."""

import dataclasses
import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.settings import Settings
from rmas.errors import InputError
from rmas.links import aligned_inner, init_links, parse_form
from rmas.shapes import Params
from rmas.system import prompts
from rmas.system.load import System, load_agents
from rmas.system.rendered import Renderer
from rmas.system.styles import STYLES
from rmas.tasks.sources import RowSource, load_rows_source
from rmas.training.examples import Examples
from rmas.training.objectives import Game
from rmas.weights.links import load_links, save_links

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """One experiment, put together once; parts are made when they are first asked for."""

    settings: Settings
    workdir: Path

    @functools.cached_property
    def system(self) -> System:
        """The agents in their topology. Raises `InputError` for whatever is wrong with them."""
        s = self.settings.system
        if s.style not in STYLES:
            raise InputError(f"system.style {s.style!r} is unknown; known: {', '.join(STYLES)}")
        topology = STYLES[s.style]
        if set(s.agents) != set(topology.agents):
            raise InputError(
                f"system.agents names {', '.join(sorted(s.agents))}; "
                f"style {s.style!r} needs {', '.join(topology.agents)}"
            )
        prompt_set = prompts.load(s.prompts)
        prompt_set.check(topology, s.family)
        agents = load_agents(s.agents, s.date, jnp.dtype(s.dtype))
        return System(topology, agents, prompt_set, s.family)

    @functools.cached_property
    def rows(self) -> dict[str, RowSource]:
        """Rows by split."""
        d = self.settings.data
        sizes: dict[str, Any] = {}
        if d.name == "relay":
            sizes = {"train": d.train, "validation": d.validation, "test": d.test}
            sizes["seed"] = self.settings.seed
        field = {"field": d.field} if d.field else {}
        return load_rows_source(d.name, data_dir=self.workdir / "data", **sizes, **field)

    def split(self, name: str) -> RowSource:
        """One split of the rows."""
        if name not in self.rows:
            raise InputError(
                f"dataset {self.settings.data.name} has no split {name!r}; "
                f"it has {', '.join(self.rows)}"
            )
        return self.rows[name]

    @functools.cached_property
    def game(self) -> Game:
        """Static facts of training."""
        outer = self.settings.outer
        return Game(
            topology=self.system.topology,
            spec=self.system.spec(parse_form(self.settings.links.form)),
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
        links = init_links(self.game.spec.links, key, init)
        if init != "aligned":
            return links
        inner = {}
        for agent, params in links["inner"].items():
            weight = self.system.agents[agent].params["embed"]["weight"]
            rms = float(jnp.sqrt(jnp.mean(jnp.square(weight.astype(jnp.float32)))))
            inner[agent] = aligned_inner(params, rms)
        return {"inner": inner, "outer": links["outer"]}

    def untrained_links(self) -> Params:
        """Random links, for the control that shows what training gives."""
        key = jax.random.key(self.settings.seed)
        return init_links(self.game.spec.links, key, "random")

    def identity(self, *parts: str) -> dict[str, Any]:
        """What a stage's results depend on: the named settings, the system's own facts, the data.

        Paths do not count, contents do: agents and prompts enter by their digests.
        """
        settings = dataclasses.asdict(self.settings)
        data = {k: v for k, v in settings["data"].items() if v != ""}
        if self.settings.data.name != "relay":
            content = Path(self.settings.data.name).read_bytes()
            data["name"] = hashlib.sha256(content).hexdigest()[:16]
        picked = {part: settings[part] for part in parts}
        system = self.system.facts() | {
            "dtype": self.settings.system.dtype,
            "date": self.settings.system.date,
        }
        return {"seed": settings["seed"], "data": data, "system": system, **picked}

    def save(self, folder: Path, links: Params) -> None:
        """Writes links with the facts that they belong to."""
        save_links(folder, links, {"form": self.game.spec.links.form, **self.system.facts()})

    def load(self, folder: Path, template: Params) -> Params:
        """Reads links; says so when they were trained with other prompts.

        Raises `InputError` when they belong to another topology, form or set of agents.
        """
        links, manifest = load_links(folder, template)
        here = {"form": self.game.spec.links.form, **self.system.facts()}
        for key in ("form", "topology", "agents"):
            if _plain(manifest.get(key)) != _plain(here[key]):
                raise InputError(
                    f"links in {folder} were trained with another {key}: "
                    f"{manifest.get(key)} there, {here[key]} here"
                )
        if manifest.get("prompts") != here["prompts"]:
            _log.warning(
                "links in %s were trained with prompts %s, not with %s: expect poor answers",
                folder,
                manifest.get("prompts"),
                here["prompts"],
            )
        return links


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
