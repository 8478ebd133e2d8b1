"""An experiment: settings and a workdir, and the stages that run in it.

    run = rmas.Experiment(settings, "runs/mine")
    run.train_inner()
    run.train_outer()
    print(run.evaluate())

Every stage resumes in its own folder where it was stopped, and leaves alone what is done.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from rmas.checksums import write_checked
from rmas.errors import InputError
from rmas.evaluation.layout import FOLDER
from rmas.evaluation.reporting import Report, make_report
from rmas.evaluation.results import ResultRow
from rmas.experiment import derive, dry_run, evaluating, planning
from rmas.experiment.data import Data
from rmas.experiment.identity import identity_of, manifest_of
from rmas.experiment.links import (
    check_inner_links,
    digest_of,
    fit_inner_links,
    fit_outer_links,
    given_links,
    initial_links,
    random_links,
    read_inner_links,
    read_links,
    start_of,
    warn_of_questions,
    warn_of_validation,
    write_links,
)
from rmas.experiment.methods import WITH_LINKS, check_methods, methods
from rmas.experiment.outline import outline_of, published_outline, training_context
from rmas.experiment.placed import Placed
from rmas.experiment.settings import Settings
from rmas.experiment.stored import SETTINGS
from rmas.experiment.toolboxes import toolboxes
from rmas.parallel import is_first
from rmas.places import expanded, has_entry, has_file
from rmas.plans.plan import Plan
from rmas.shapes import Params
from rmas.system.load import System
from rmas.system.outline import Outline
from rmas.system.rendered import Renderer
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.hidden_state_cache import cache_hidden_states
from rmas.training.inner import train_inner
from rmas.training.loop import check_batch
from rmas.training.objectives import TrainingContext, WeightedObjectives, parse_objective
from rmas.training.outer import check_longest, train_outer
from rmas.training.workdir import open_workdir

_log = logging.getLogger(__name__)

LINKS = "links"


class Experiment:
    """Settings and a workdir. Nothing is loaded or written before a method asks for it.

    All processes of a run make it and call its methods together.

    Attributes:
      settings: with the values that follow from data and devices filled in.
      derived: those values, and why.
      workdir: the folder of everything that it writes; made by the first stage. A name that no
        file system could have raises `InputError` at once.
    """

    def __init__(self, settings: Settings, workdir: str | Path) -> None:
        self._given = settings
        self.settings, self.derived = derive.names(settings)
        self.workdir = expanded(workdir)
        has_entry(self.workdir)
        self.data = Data(self.settings, self.workdir)

    # What a stage needs, made once when it is first asked for.

    @functools.cached_property
    def outline(self) -> Outline:
        """The system before weights. Raises `InputError` for whatever is wrong with its parts."""
        return outline_of(self.settings)

    @functools.cached_property
    def _published(self) -> Outline:
        """The outline for plans, for which nothing is downloaded."""
        return published_outline(self.settings) or self.outline

    @property
    def system(self) -> System:
        """The agents with their weights, on the mesh of the last stage, else of an evaluation."""
        return self._placed.system

    @functools.cached_property
    def _placed(self) -> Placed:
        return Placed(self.settings, self.outline, self._unloaded.tools)

    @functools.cached_property
    def _unloaded(self) -> System:
        """The system without weights: its facts, prompts and tools are known before these."""
        return self.outline.unloaded(toolboxes(self.settings.tools, self.outline.topology))

    @property
    def context(self) -> TrainingContext:
        """Static facts that the losses of training need."""
        return training_context(self.settings, self.outline)

    def examples(self, stage: str, agent: str = "", system: System | None = None) -> Examples:
        """What makes the training arrays of `inner` training of an agent, or of `outer`.

        `system` stands in for the loaded one where no weights are needed.
        """
        outer = self.settings.outer
        return Examples(
            renderer=Renderer(system or self.system),
            rounds=outer.rounds,
            latent_steps=self.settings.limits.latent_steps,
            max_latent_tokens=outer.max_latent_tokens,
            max_length=derive.row_length(self.settings, self.outline, stage, agent).value,
            message_tokens=self.settings.inner.message_tokens,
            shift=outer.shift,
            first_round=stage == "inner" and self.settings.inner.rounds == "first",
            cut=self.settings.inner.cut if stage == "inner" else "left",
        )

    def manifest(self) -> dict[str, Any]:
        """What links of this system belong to, for JSON."""
        return manifest_of(self.settings, self._unloaded, self.outline.form)

    # Before a run: what it would do and need.

    def plan(
        self,
        stage: str = "outer",
        prompt_tokens: int = 0,
        text_tokens: int = 0,
        topology: str = "",
        compiled: int = 2,
    ) -> Plan:
        """What a stage needs of each device; nothing is loaded. See `planning.make_plan`."""
        how = (prompt_tokens, text_tokens, topology, compiled)
        return planning.make_plan(self.settings, self._published, stage, *how)

    def dry_run(self, links: str | Path | None = None) -> str:
        """What `evaluate` would do, and what was derived; weights are not loaded.

        `links` is the folder that `evaluate` would be given, if any.

        Raises `InputError` for what would stop the evaluation at its start.
        """
        outline = self._published
        longest = None
        if outline.located:
            longest = derive.longest_prompt(self.settings, self._unloaded, self.data)
        missing = dry_run.missing_links(self.workdir / "outer" / LINKS, links)
        return dry_run.describe(self.settings, self.derived, outline, self.data, longest, missing)

    def check(self) -> None:
        """Raises `InputError` for what would stop the evaluation, before anything is trained."""
        evaluating.grader_pool(self.settings, self.data)
        _ = self.data.questions  # reading them is a check, too

    # The stages.

    def train_inner(
        self, agents: str | Sequence[str] = (), links: str | Path | None = None
    ) -> None:
        """Trains the inner link of every agent, or of those named: `inner/<agent>/links`.

        `links` is a folder of links to start from, instead of those of `links.init`.
        """
        s, topology = self.settings, self.outline.topology
        agents = [agents] if isinstance(agents, str) else agents
        for agent in agents:
            if agent not in topology.agents:
                known = ", ".join(topology.agents)
                raise InputError(f"agent {agent!r} is unknown; known: {known}")
        agents = list(agents or topology.agents)
        source, validation = self.data.rows(s.inner, topology, agents)
        try:
            self._check_longest(source, parse_objective(s.objective))
        except InputError as error:
            _log.warning("outer training will refuse these rows: %s", error)
        check_batch("inner", s.inner, self._placed.for_stage("inner").mesh)
        given = given_links(links, self.outline.link_template, self.manifest(), "inner")
        initial = {**self.initial_links(), **given}
        identity = self._identity("links", "inner") | start_of(given)
        if s.inner.rounds == "all":  # of outer training
            identity["rounds"] = s.outer.rounds
        for agent in agents:
            open_workdir(self.workdir / "inner" / agent, identity)
        self._remember(only_once=has_entry(self.workdir / "outer" / LINKS))
        every = {agent: self.examples("inner", agent) for agent in agents}
        if not given:
            inner = self.workdir / "inner"
            new = {a: own for a, own in every.items() if not has_entry(inner / a / LINKS)}
            initial = fit_inner_links(s, self.context.spec, initial, new, source)
        for agent, examples in every.items():
            folder = self.workdir / "inner" / agent
            own, cached = self.system.agents[agent], None
            shared: dict[str, Any] = {"params": own.params, "examples": examples}
            shared |= {"source": source, "schedule": s.inner, "seed": s.seed}
            if not has_entry(folder / LINKS):  # else no hidden states are needed any more
                cached = cache_hidden_states(
                    agent,
                    folder=self.workdir / "hidden_states",
                    model=own.model,
                    dtype=s.inner.cache_states,
                    key=self._identity() | {"print": own.fingerprint},
                    **shared,
                )
            trained = train_inner(
                agent,
                folder=folder,
                context=self.context,
                links=initial,
                cached=cached,
                validation=validation,
                facts=self._checkpoint_facts("inner"),
                **shared,
            )
            write_links(folder / LINKS, {"inner": {agent: trained}}, self.manifest())

    def train_outer(self, links: str | Path | None = None) -> None:
        """Trains the links of the whole system, from the inner links: `outer/links`.

        `links` is a folder of links to start from. What it lacks, inner or outer ones, comes from
        the workdir and from `links.init`, as without it.
        """
        s, topology = self.settings, self.outline.topology
        given = given_links(links, self.outline.link_template, self.manifest())
        folders = {agent: self.workdir / "inner" / agent / LINKS for agent in topology.agents}
        if "inner" not in given:
            check_inner_links(folders)
        source, validation = self.data.rows(s.outer, topology, topology.agents)
        if "inner" not in given:
            warn_of_validation([folder.parent for folder in folders.values()], source)
        objective = parse_objective(s.objective)
        measured = parse_objective("rollout") if s.outer.validate == "rollout" else objective
        self._check_longest(source, objective)
        self._check_longest(validation, measured)
        check_batch("outer", s.outer, self._placed.for_stage("outer").mesh)
        folder = self.workdir / "outer"
        identity = self._identity("objective", "links", "inner", "outer") | start_of(given)
        open_workdir(folder, identity | {"latent_steps": s.limits.latent_steps})
        template = self.outline.link_template
        inner = given.get("inner") or read_inner_links(folders, template, self.manifest())
        self._remember()
        examples = self.examples("outer")

        def start() -> Params:
            own = {**self.initial_links(), "inner": inner, **given}
            if "outer" not in given:
                own = fit_outer_links(s, self.context.spec, own, examples, source)
            return {part: own[part] for part in s.outer.train}

        trained = train_outer(
            objective,
            folder=folder,
            context=self.context,
            params=self.system.params(),
            fixed={} if "inner" in s.outer.train else {"inner": inner},
            links=start,
            examples=examples,
            source=source,
            schedule=s.outer,
            seed=s.seed,
            validation=validation,
            measured=measured,
            facts=self._checkpoint_facts("objective", "outer"),
        )
        write_links(folder / LINKS, trained, self.manifest())

    def evaluate(self, links: str | Path | None = None) -> list[ResultRow]:
        """Runs all methods over the questions: `evaluate/{records,timings}.jsonl`, `summary.json`.

        Each process of a run answers its share of the questions on its own devices.

        Args:
          links: folder of trained links; by default `outer/links` of the workdir, or a released
            system's own.

        Returns:
          The rows of the table.
        """
        several = jax.process_count() > 1
        pool = evaluating.grader_pool(self.settings, self.data)
        rows, asked = self.data.questions, self.data.asked
        settings = self._lengths()
        check_methods(settings, self.outline)
        latent = not WITH_LINKS.isdisjoint(settings.evaluate.methods)
        most = max(settings.evaluate.rounds)
        trained = self.trained_links(links, most) if latent else None
        folder = self.workdir / FOLDER
        parts = ("links", "limits", "sampling", "evaluate", "num_questions")
        identity = identity_of(settings, self._unloaded, rows, parts)
        identity["trained_links"] = "none" if trained is None else digest_of(trained)
        open_workdir(folder, identity)
        self._remember(only_once=True)
        if latent and links is None:
            stages = ("outer", *(f"inner/{agent}" for agent in self.outline.topology.agents))
            warn_of_questions([self.workdir / stage for stage in stages], identity["data"])
        place = self._placed.on_this_process if several else self._placed.for_stage
        system = place("evaluate")
        untrained = self.untrained_links() if "untrained" in settings.evaluate.methods else None
        ways = methods(settings, system, self.outline.form, trained, untrained)
        return evaluating.evaluate(
            settings, system, ways, rows=rows, asked=asked, pool=pool, workdir=self.workdir
        )

    def report(self, out: str | Path | None = None) -> Report:
        """Writes tables, JSON and plots of the evaluation (default: `report` in the workdir)."""
        _alone("report")
        return make_report([self.workdir], None if out is None else expanded(out))

    def make_rows(self) -> tuple[int, int, Path]:
        """Makes training rows from questions by text exchange: `rows/rows.jsonl`.

        Returns how many rows, of how many questions, and the file.
        """
        _alone("make_rows")
        pool = evaluating.grader_pool(self.settings, self.data)
        asked, settings, folder = self.data.asked, self._lengths(), self.workdir / "rows"
        parts = ("limits", "sampling", "evaluate", "num_questions")
        identity = identity_of(settings, self._unloaded, self.data.questions, parts)
        open_workdir(folder, identity | {"rounds": settings.outer.rounds})
        return evaluating.make_rows(
            settings, self._placed.for_stage("evaluate"), asked, pool, folder
        )

    # Links.

    def initial_links(self) -> Params:
        """The links before any training; see `links.initial_links`."""
        return initial_links(self.settings, self.system, self.outline)

    def untrained_links(self) -> Params:
        """Random links, for the control that shows what training gives."""
        return random_links(self.settings, self.outline)

    def trained_links(self, folder: str | Path | None = None, rounds: int | None = None) -> Params:
        """The links of a folder (`outer/links` of the workdir), checked against the system.

        `rounds`: the most that they will be run for; by default those of training.

        A released system's own are used where no others are named or lie in the workdir.
        """
        own = self.workdir / "outer" / LINKS
        released = self.outline.released_links
        if released is not None and folder is None and not has_entry(own):
            return released
        folder = expanded(folder) if folder is not None else own
        if not has_entry(folder):
            raise InputError(
                f"{folder} is missing; train the system with this workdir first "
                "(experiments.train_outer, or Experiment.train_outer), name another folder of "
                "links, or leave out the methods latent and latent_memory"
            )
        rounds = self.settings.outer.rounds if rounds is None else rounds
        return read_links(folder, self.outline.link_template, self.manifest(), rounds)

    # Shared by the stages.

    def _lengths(self) -> Settings:
        """The settings with the lengths that follow from the evaluation's questions."""
        longest = derive.longest_prompt(self.settings, self._unloaded, self.data)
        return derive.lengths(self.settings, self.outline, longest)[0]

    def _identity(self, *parts: str) -> dict[str, Any]:
        return identity_of(self.settings, self._unloaded, self.data.split("train"), parts)

    def _checkpoint_facts(self, *parts: str) -> dict[str, Any]:
        return {**self.manifest(), "config": self._identity("links", *parts)}

    def _remember(self, only_once: bool = False) -> None:
        """Writes the settings beside the stages, for `rmas.load` and the commands."""
        path = self.workdir / SETTINGS
        if is_first() and not (has_file(path) and only_once):
            write_checked(path, self._given.anchored().to_dict())

    def _check_longest(self, rows: Sequence[Row], objective: WeightedObjectives) -> None:
        """Raises `InputError` for rows that outer training could not read."""
        examples = self.examples("outer", system=self._unloaded)
        check_longest(objective, examples, rows, self.settings.data.name)


def _alone(method: str) -> None:
    if jax.process_count() > 1:
        raise InputError(f"{method} is for a run of one process; call it in one")
