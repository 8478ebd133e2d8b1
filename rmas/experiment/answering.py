"""A trained system, loaded by name and asked questions.

system = rmas.load("runs/mine")
print(system.ask("What is 2 + 2?").text)
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import jax
import numpy as np

from rmas.checksums import read_checked
from rmas.errors import InputError
from rmas.experiment import derive
from rmas.experiment.experiment import LINKS, Experiment
from rmas.experiment.links import warn_of_rounds
from rmas.experiment.settings import Settings
from rmas.experiment.stored import SETTINGS, find_settings, read_settings
from rmas.links import Form, parse_form
from rmas.places import expanded, has_file
from rmas.shapes import Params
from rmas.system import prompts as prompt_sets
from rmas.system.answers import Answer, Limits, Question
from rmas.system.load import System
from rmas.system.run import Listener, Runner, Thoughts
from rmas.system.sampling import Sampling
from rmas.system.styles import STYLES, TOPOLOGIES
from rmas.system.topology import parse_edge
from rmas.weights import hub
from rmas.weights.links import MANIFEST, WEIGHTS

Method = Literal["latent", "text"]


@dataclasses.dataclass(frozen=True, eq=False)
class Reply:
    """The answer to one question.

    Attributes:
      text: what the output agent wrote.
      counts: per agent `prompt_tokens` (positions read), `latent_steps`, `decoded_tokens`,
        `positions`.
      texts: per agent the texts that it wrote, in order of rounds.
      tools: every call of a tool.
      thoughts: per agent, if asked for, what it thought and sent: see `Thoughts`; arrays of this
        question alone `[R, 1, M, D]`.
    """

    text: str
    counts: Mapping[str, Mapping[str, int]]
    texts: Mapping[str, Sequence[str]]
    tools: Sequence[Mapping[str, Any]] = ()
    thoughts: Mapping[str, Thoughts] | None = None

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedSystem:
    """Agents with their trained links, in memory and ready to be asked.

    Attributes:
      system: agents, topology and prompts.
      links: `{"inner": {agent: ...}, "outer": {"src->dst": ...}}`, float32.
      form: the form of all links.
      settings: lengths, sampling and rounds that hold where a call gives none.
    """

    system: System
    links: Params
    form: Form
    settings: Settings

    @overload
    def ask(
        self,
        questions: str,
        *,
        rounds: int | None = None,
        method: Method = "latent",
        thoughts: bool = False,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> Reply: ...

    @overload
    def ask(
        self,
        questions: list[str] | tuple[str, ...],
        *,
        rounds: int | None = None,
        method: Method = "latent",
        thoughts: bool = False,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> list[Reply]: ...

    def ask(
        self,
        questions: str | list[str] | tuple[str, ...],
        *,
        rounds: int | None = None,
        method: Method = "latent",
        thoughts: bool = False,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> Reply | list[Reply]:
        """Answers one question, or many in batches, each independently of the others.

        Args:
          questions: one text, or a sequence of them.
          rounds: recursion rounds; by default those of training.
          method: agents pass `latent` thoughts, or exchange `text`.
          thoughts: whether replies carry what every agent thought (`latent` alone).
          batch_size: questions at a time; by default the evaluation's, at most as many as asked.
          sampling: how tokens are drawn; by default as the settings say.
          seed: of sampling; by default that of the settings. An answer depends on it, on the text
            of the question and its place among equal ones, never on the other questions.

        Returns:
          A `Reply` for one text, a list of them for a sequence.

        Raises:
          InputError: rounds or batch size below 1, an unknown method, a question that is too long.
        """
        one = isinstance(questions, str)
        texts = [questions] if isinstance(questions, str) else list(questions)
        rounds = self.settings.outer.rounds if rounds is None else rounds
        if rounds < 1:
            raise InputError(f"rounds is {rounds}; it must be at least 1")
        if method not in ("latent", "text"):
            raise InputError(f"method {method!r} is unknown; known: latent, text")
        if thoughts and method != "latent":
            raise InputError("thoughts belong to the method latent")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        if method == "latent":
            warn_of_rounds(self.settings.outer.rounds, rounds)
        runner = self.runner(sampling=sampling, seed=seed)
        batch = max(min(batch_size or self.settings.evaluate.batch_size, len(texts)), 1)
        named = _named(texts)
        found: Mapping[str, Thoughts] = {}
        if method == "text":
            answers = runner.text(named, rounds, batch)
        else:
            answers, found = runner.recorded(
                self.links, self.form, named, rounds, batch, record=thoughts
            )
        replies = [
            _reply(answer, _of_row(found, row) if thoughts else None)
            for row, answer in enumerate(answers)
        ]
        return replies[0] if one else replies

    def think(
        self, questions: Sequence[Question], rounds: int
    ) -> tuple[list[Answer], dict[str, Thoughts]]:
        """Greedy answers, and what every agent thought about all questions."""
        warn_of_rounds(self.settings.outer.rounds, rounds)
        runner = self.runner(sampling=Sampling())
        batch = min(self.settings.evaluate.batch_size, len(questions))
        answers, found = runner.recorded(self.links, self.form, questions, rounds, batch)
        return answers, {agent: found[agent] for agent in self.system.agents if agent in found}

    def runner(
        self,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        listener: Listener | None = None,
    ) -> Runner:
        """What answers questions, with the settings' lengths and a listener."""
        limits = self.settings.limits.answered_by(self.system.topology.output)
        sampling = self.settings.sampling if sampling is None else sampling
        seed = self.settings.seed if seed is None else seed
        return Runner(self.system, limits, sampling, seed, listener)


def load(
    where: str | Path,
    *,
    agents: Mapping[str, str] | None = None,
    links: str | Path | None = None,
    root: str | Path | None = None,
    prompts: str | None = None,
    task_family: str | None = None,
    dtype: str | None = None,
    mesh: str | None = None,
    quantize: str | None = None,
) -> TrainedSystem:
    """Loads a trained system by name.

    Args:
      where: a workdir of a training; a folder of links (`links.safetensors` and `manifest.json`); a
        released style (`sequential_light`, ...); or a Hub id `owner/name[@revision]` of a
        repository with links, or of a released system's outer links.
      agents: agent -> folder or Hub id, where links do not tell where their agents are, or these
        have moved.
      links: another folder of links, for a workdir.
      root: folder of a released system; None means the Hub.
      prompts: packaged prompt set or JSON file, where the links do not name a packaged one.
      task_family: of the prompts (and links) of a released system.
      dtype, mesh, quantize: as in the settings; None keeps what these say.

    Raises:
      InputError: nothing of that kind is there, or what is there does not fit together.
    """
    name = str(where)
    over = {"dtype": dtype, "prompts": prompts, "task_family": task_family}
    system: dict[str, Any] = {key: value for key, value in over.items() if value is not None}
    if agents is not None:
        system["agents"] = dict(agents)
    top: dict[str, Any] = {"mesh": mesh, "quantize": quantize}
    top = {key: value for key, value in top.items() if value is not None}

    styles = {style.outer_hub_id: style.name for style in STYLES.values()} | {
        style: style for style in STYLES
    }
    if name in styles and not os.path.isdir(name):
        system |= {"style": styles[name], "root": "" if root is None else str(root)}
        return _ready(Settings.from_dict({**top, "system": system}), Path(name), links)
    if root is not None:
        raise InputError(f"root belongs to a released system ({', '.join(STYLES)}), not to {name}")
    folder = expanded(name)
    if path := find_settings(folder):
        return _ready(_stored(path, {**top, "system": system}), folder, links)
    if not os.path.isdir(folder):
        patterns = (WEIGHTS, MANIFEST)
        folder = hub.resolve(name, patterns=patterns).path
    if not has_file(folder / MANIFEST):
        raise InputError(
            f"{folder} is not a trained workdir (no {SETTINGS}) nor a folder of links (no "
            f"{MANIFEST}); name one of these, a released system ({', '.join(STYLES)}), or a Hub id"
        )
    above = folder.parents[1] if len(folder.parents) > 1 else folder
    if folder.name == LINKS and has_file(above / SETTINGS) and agents is None:
        settings = _stored(above / SETTINGS, {**top, "system": system})
        return _ready(settings, above, links or folder)
    settings = _of_manifest(folder, {**top, "system": system})
    return _ready(settings, folder, links or folder)


def trained_system(
    run: Experiment, links: str | Path | None = None, needs_links: bool = True
) -> TrainedSystem:
    """The system of an experiment with its trained links (`Experiment.trained_links`).

    Without `needs_links`, where only texts will be exchanged, they are those before training.
    """
    found = run.trained_links(links) if needs_links else run.untrained_links()
    settings, _ = derive.lengths(run.settings, run.outline)
    return TrainedSystem(run.system, found, run.outline.form, settings)


def _ready(settings: Settings, workdir: Path, links: str | Path | None) -> TrainedSystem:
    return trained_system(Experiment(settings, workdir), links)


def _stored(path: Path, over: Mapping[str, Any]) -> Settings:
    """The settings in a file, with the caller's changes; functions of tools are not stored."""
    stored = read_settings(path)
    if not isinstance(stored, dict):
        raise InputError(f"{path} is not a JSON object; name another workdir")
    tools = stored.get("tools")
    if isinstance(tools, dict) and tools.get("functions"):
        raise InputError(
            f"{path}: tools.functions cannot be stored; make the settings in Python, and the "
            "system by rmas.experiment.answering.trained_system(rmas.Experiment(settings, workdir))"
        )
    own = stored.get("system")
    if isinstance(own, dict):
        stored["system"] = own | over["system"]
    stored |= {key: value for key, value in over.items() if key != "system"}
    try:
        return Settings.from_dict(stored)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _of_manifest(folder: Path, over: Mapping[str, Any]) -> Settings:
    """Settings from what links say that they belong to."""
    path = folder / MANIFEST
    manifest = read_checked(path)
    try:
        topology = manifest["topology"]
        edges = [(f"{e['src']}->{e['dst']}", e["when"]) for e in topology["edges"]]
        for text, when in edges:
            parse_edge(text, when)
        origins = manifest.get("base_models", {})
        sources = {a: origins[a]["source"] for a in topology["agents"] if origins[a]["revision"]}
        revisions = {a: origins[a]["revision"] for a in sources}
        values: dict[str, Any] = {
            # Links of before 0.2 do not say rounds and date.
            "limits": {"latent_steps": manifest.get("latent_steps") or Limits().latent_steps},
            "outer": {"rounds": manifest["rounds"]} if "rounds" in manifest else {},
            "links": {"form": parse_form(str(manifest["form"])), "init": "random"},
            "system": {
                "topology": {
                    "name": str(topology["name"]),
                    "agents": list(topology["agents"]),
                    "round": [text for text, when in edges if when == "round"],
                    "feedback": [text for text, when in edges if when == "feedback"],
                    "output": topology["output"],
                    "roles": dict(topology.get("roles") or ()),
                },
                # Before 0.2 the key was `family`.
                "task_family": manifest.get("task_family") or manifest.get("family", ""),
                "prompts": manifest["prompts"]["name"],
                **({"date": manifest["date"]} if "date" in manifest else {}),
            },
        }
        digest = manifest["prompts"]["digest"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} does not describe a system: {error}") from None
    given = over["system"]
    if "agents" not in given:
        if len(sources) < len(topology["agents"]):
            raise InputError(
                f"{path} does not tell where the agents are; give them, as "
                f"agents={{{', '.join(f'{a!r}: FOLDER' for a in topology['agents'])}}}"
            )
        values["system"]["agents"] = {
            a: f"{source.partition('@')[0]}@{revisions[a]}" for a, source in sources.items()
        }
    if "prompts" not in given:
        same = [name for name, own in prompt_sets.packaged().items() if own.digest == digest]
        if not same:
            raise InputError(
                f"{path}: the links were trained with the prompt set "
                f"{values['system']['prompts']!r}, which is not packaged here; give its JSON file "
                "as prompts"
            )
        values["system"]["prompts"] = same[0]
    if values["system"]["topology"]["name"] in TOPOLOGIES:
        values["system"]["topology"] = {"name": values["system"]["topology"]["name"]}
    values["system"] |= given
    values |= {key: value for key, value in over.items() if key != "system"}
    try:
        return Settings.from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _named(texts: Sequence[str]) -> list[Question]:
    """Questions, each named by its text and its place among equal ones."""
    seen: dict[str, int] = {}
    named = []
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
        named.append(Question(f"{text}#{seen[text]}", text))
    return named


def _of_row(thoughts: Mapping[str, Thoughts], row: int) -> dict[str, Thoughts]:
    return {
        agent: jax.tree.map(lambda x: np.asarray(x)[:, row : row + 1], own)
        for agent, own in thoughts.items()
    }


def _reply(answer: Answer, thoughts: Mapping[str, Thoughts] | None) -> Reply:
    return Reply(answer.text, answer.counts, answer.texts, answer.tools, thoughts)
