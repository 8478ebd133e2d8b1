"""Runs of one system that differ in how its links start and are trained, seed by seed."""

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.errors import DivergedError
from rmas.evaluation.results import ResultRow
from rmas.experiment.experiment import LINKS, Experiment
from rmas.experiment.settings import Settings
from rmas.files import open_file, parse_json, read_bytes, replacing_folder
from rmas.options import build
from rmas.places import has_entry
from rmas.tasks.generated import PUZZLES
from rmas.training.metrics import TIMINGS
from rmas.training.workdir import PREPARED

_FILES = (
    ("data", "name"),
    ("data", "source"),
    ("evaluate", "data"),
    ("evaluate", "source"),
    ("system", "prompts"),
    ("tools", "index"),
)
Changes = Mapping[str, Any]
"""Values by the dotted names of fields, as in `{"outer.optim.lr": 1e-3}`."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to get links.

    Attributes:
      sweep: the group of variants that it is compared in.
      name: unique within the sweep.
      stages: what each stage of outer training changes in the base settings. The first one starts
        from inner links that are trained with the settings of the last one, every other one from
        the links of the one before.
      method: how its questions are answered.
    """

    sweep: str
    name: str
    stages: tuple[Changes, ...] = ({},)
    method: str = "latent"

    @property
    def key(self) -> str:
        """Its name among all variants."""
        return f"{self.sweep}/{self.name}"


def changed(settings: Settings, changes: Changes) -> Settings:
    """The settings with other values. Raises `InputError` naming a field that makes no sense."""
    values: dict[str, Any] = {}
    for name, value in changes.items():
        *sections, last = name.split(".")
        owner = values
        for section in sections:
            owner = owner.setdefault(section, {})
        owner[last] = value
    return build(Settings, values, base=settings)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Variants of one base in one workdir, where they share data and inner links.

    Attributes:
      base: the settings that variants change.
      workdir: the folder of all runs.
      agents: what the agents are, for JSON.
    """

    base: Settings
    workdir: Path
    agents: Mapping[str, Any]

    @classmethod
    def of(cls, base: Settings, workdir: Path) -> "Ablation":
        """With the agents that the settings name."""
        return cls(base, workdir, Experiment(base, workdir).manifest()["agents"])

    @property
    def base_facts(self) -> dict[str, Any]:
        """What all variants share, for JSON; seeds are varied."""
        return self._facts(changed(self.base, {"seed": 0}))

    def stages(self, variant: Variant, seed: int) -> list[Settings]:
        """The settings of each stage of a variant."""
        found = []
        for changes in variant.stages:
            shared = {"seed": seed, "evaluate.methods": (variant.method,)}
            own = changed(self.base, {**changes, **shared})
            folder = str(self.workdir / PREPARED / f"{seed}-{own.data.train}")
            found.append(changed(own, {} if own.data.folder else {"data.folder": folder}))
        return found

    def digest(self, variant: Variant, seed: int) -> str:
        """What decides a record: equal for variants that say the same in other words."""
        return digest_of_facts([self._facts(stage) for stage in self.stages(variant, seed)])

    def run(self, variant: Variant, seed: int) -> dict[str, Any]:
        """Trains and evaluates one variant with one seed; resumes what was begun.

        Inner links are trained once for all variants that agree about them.

        Returns:
          A record for JSON: `sweep`, `variant`, `seed`, `base` (a digest of `base_facts`),
          `digest`, `changes` by stage, `status` (`ok`, or `diverged` with its `message`), `steps`
          and `seconds` of outer training, `inner_steps`, and the evaluation's `rows`.
        """
        stages = self.stages(variant, seed)
        record: dict[str, Any] = {
            "sweep": variant.sweep,
            "variant": variant.name,
            "seed": seed,
            "base": digest_of_facts(self.base_facts),
            "digest": self.digest(variant, seed),
            "changes": [dict(changes) for changes in variant.stages],
            "inner_steps": stages[-1].inner.optim.steps,
            "steps": sum(own.outer.optim.steps for own in stages),
            "batch_size": stages[0].outer.batch_size,
            "status": "ok",
            "rows": [],
        }
        folder = self.workdir / "outer" / record["digest"]
        try:
            run = _outer_links(stages, self._inner_links(stages[-1]), folder)
        except DivergedError as error:
            return record | {"status": "diverged", "message": str(error)}
        record["seconds"] = round(_seconds(folder.glob(f"*/outer/{TIMINGS}")), 1)
        return record | {"rows": [_short(row) for row in run.evaluate()]}

    def _inner_links(self, settings: Settings) -> Path:
        """The workdir with the inner links of some settings, trained where they are missing."""
        whole = self._facts(settings)
        facts = {name: whole[name] for name in ("inner", "links", "data", "seed")}
        facts["rounds"] = settings.outer.rounds if settings.inner.rounds == "all" else 1
        facts["latent_steps"] = settings.limits.latent_steps
        if settings.data.name not in PUZZLES and settings.outer.validation_rows:
            facts["held_back"] = settings.outer.validation_rows
        run = Experiment(settings, self.workdir / "inner" / digest_of_facts(facts))
        run.train_inner()
        return run.workdir

    def _facts(self, settings: Settings) -> dict[str, Any]:
        """Settings for a digest: agents and files by content, wherever they lie."""
        values = settings.anchored().to_dict()
        values["data"]["folder"] = ""
        values["system"]["agents"] = self.agents
        for section, name in _FILES:
            values[section][name] = _content(values[section][name])
        return values


@functools.lru_cache(maxsize=256)
def _content(name: str) -> str:
    """What a setting names: of a file the hash of its bytes, else the name itself."""
    path = Path(name)
    if not (path.is_absolute() and has_entry(path) and path.is_file()):
        return name
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seconds(files: Iterable[Path]) -> float:
    """The seconds of all steps in files of times; of a step that ran twice the later ones."""
    total = 0.0
    for file in files:
        lines = [parse_json(line) for line in read_bytes(file).splitlines()]
        total += sum({line["step"]: line["seconds"] for line in lines}.values())
    return total


def _outer_links(stages: Sequence[Settings], inner: Path, folder: Path) -> Experiment:
    """Trains stage after stage; returns the last one's experiment."""
    before: Path | None = None
    for number, settings in enumerate(stages, 1):
        run = Experiment(settings, folder / f"stage{number}")
        own = run.workdir / "inner"
        if before is None and not has_entry(own):
            with replacing_folder(own) as made:
                for agent in run.outline.topology.agents:
                    shutil.copytree(inner / "inner" / agent / LINKS, made / agent / LINKS)
        run.train_outer(before)
        before = run.workdir / "outer" / LINKS
    return run


def digest_of_facts(facts: Any) -> str:
    """A short digest of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _short(row: ResultRow) -> dict[str, Any]:
    """What a record keeps of a row of the evaluation."""
    kept = ("method", "rounds", "n", "accuracy", "accuracy_low", "accuracy_high", "ceiling")
    return {name: value for name, value in row.items() if name in kept}
