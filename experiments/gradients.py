"""Gradients by round: do early rounds still learn from the answer's loss?

  python -m experiments.gradients --systems=relay,debate --plot=gradients.png
  python -m experiments.gradients --agents=random --forms=mlp,ln_res --rounds=2,8 --seeds=3
  python -m experiments.gradients --systems=relay --links=runs/tiny/outer/links

Measures the gradient of the objective `rollout` (the mean cross-entropy of the answers of one
batch, through the true rollouts of all rounds) with respect to every link's use in each round, and
to the messages of each round. Links are those before training, of each form and of several seeds,
and trained ones. `text` is the path of text exchange with the choice of tokens left out: hidden
state, softmax over the vocabulary, expected embedding; it exists where agents have the same tokens.

Agents are those of the embedded systems, or random ones of the same architectures (fan-in scale),
whose weights the seed decides. All is computed in float64 unless told otherwise. What is finished
is kept in `cells.jsonl` of the workdir, and not computed again.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import app, gradient_tables
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.words import check_words, numbers
from rmas import parallel
from rmas.console import Progress
from rmas.errors import InputError
from rmas.evaluation import gradient_plots
from rmas.evaluation.json_lines import line_of, parse_line, whole_lines
from rmas.experiment import EMBEDDED, Experiment, embedded
from rmas.experiment.ablation import digest_of_facts
from rmas.experiment.links import digest_of, initial_links
from rmas.files import append_lines, atomic_write_json, atomic_write_text
from rmas.links import FORMS, Form, parse_form
from rmas.models import init_params
from rmas.places import expanded
from rmas.shapes import Params
from rmas.system.load import System
from rmas.training.gradients import link_gradients, shared_tokens, text_gradients, with_rounds
from rmas.training.initial import align_outer_links
from rmas.training.objectives import OBJECTIVES, TrainingContext
from rmas.training.workdir import open_workdir
from rmas.weights.links import load_links

_AGENTS = ("embedded", "random")
_INITS = ("random", "gated", "aligned")
_WITH_BRANCH = ("mlp_res", "ln_res")
_SYSTEMS = flags.DEFINE_list("systems", ["relay"], f"Embedded systems: {', '.join(EMBEDDED)}.")
_KINDS = flags.DEFINE_list("agents", ["embedded"], "Their weights: embedded, random.")
_FORMS = flags.DEFINE_list("forms", list(FORMS), "Forms of links before training; may be empty.")
_INIT = flags.DEFINE_list(
    "init", ["random"], "Their values: random; of mlp_res and ln_res also gated, aligned."
)
_LINKS = flags.DEFINE_string("links", None, "Trained links, as WORKDIR/outer/links: one system's.")
_TEXT = flags.DEFINE_boolean("text", True, "The path of text as well, where it exists.")
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Of text's softmax.", 1e-3)
_ROUNDS = flags.DEFINE_list("rounds", ["2", "3", "4", "6", "8"], "Depths, 2 or more.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Of links, and of random agents: 0 to before this.", 1)
_ROWS = flags.DEFINE_integer("rows", 8, "Of the batch: the first rows for training.", 1)
_STEPS = flags.DEFINE_integer("latent_steps", None, "Of a turn (default: the system's own).", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float64", ["float32", "float64"], "Of all that is computed.")
_OUT = flags.DEFINE_string("out", "", "A JSON file with all norms and ratios.")
_PLOT = flags.DEFINE_string("plot", "", "A PNG: norms of messages by round, at the most rounds.")


@dataclasses.dataclass(frozen=True)
class Way:
    """How agents exchange messages: by links of a form with an `init`, or by text's path."""

    form: Form | None
    init: str = ""

    @property
    def name(self) -> str:
        """For tables."""
        if self.form is None:
            return "text"
        return self.form if self.init == "random" else f"{self.form}, {self.init}"


class Subject:
    """An embedded system, and what is measured on it."""

    def __init__(self, name: str, folder: Path, trained: Form | None) -> None:
        settings = embedded(name)
        rows = max(_ROWS.value, settings.links.aligned_rows)
        self.settings = dataclasses.replace(
            settings,
            data=dataclasses.replace(settings.data, train=rows, validation=1, test=1),
            links=dataclasses.replace(
                settings.links, form=trained or settings.links.form, init="random"
            ),
            limits=dataclasses.replace(
                settings.limits, latent_steps=_STEPS.value or settings.limits.latent_steps
            ),
        )
        self.run = Experiment(self.settings, folder / name)
        self.most = max(numbers("rounds", _ROUNDS.value))

    @functools.cached_property
    def tokens(self) -> dict[str, np.ndarray]:
        """See `shared_tokens`."""
        return shared_tokens(self.run.system)

    @functools.cached_property
    def weights(self) -> str:
        """A digest of the agents that the system comes with; random ones have their tokenizers."""
        return digest_of_facts(self.run.manifest()["agents"])

    @functools.lru_cache(maxsize=16)  # noqa: B019 - it lives as long as the command
    def batch(self, rounds: int) -> Any:
        """The batch of a number of rounds, in the shape of the most rounds."""
        examples = dataclasses.replace(self.run.examples("outer"), rounds=rounds)
        rows = self.run.data.split("train")[: _ROWS.value]
        return with_rounds(OBJECTIVES["rollout"].prepare(examples, rows), self.most)

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def system(self, kind: str, seed: int) -> System:
        """The system with the weights that it comes with, or random ones."""
        system = self.run.system
        if kind == "embedded":
            return system
        made: dict[int, Params] = {}  # agents that share weights go on sharing them
        agents = {}
        for n, (name, agent) in enumerate(system.agents.items()):
            key = jax.random.fold_in(jax.random.key(seed), n)
            if id(agent.params) not in made:
                like = jax.tree.map(lambda x: x.sharding, agent.params)
                made[id(agent.params)] = jax.device_put(init_params(agent.model, key), like)
            agents[name] = dataclasses.replace(agent, params=made[id(agent.params)])
        return dataclasses.replace(system, agents=agents)

    def context(self, form: Form) -> TrainingContext:
        """With layers in a scan, whose programs compile faster."""
        spec = dataclasses.replace(self.run.system.spec(form), remat=True)
        return dataclasses.replace(self.run.context, spec=spec)

    def links(self, way: Way, system: System, seed: int) -> Params:
        """Links before training, or trained ones."""
        if way.init == "trained":
            return self.run.trained_links(_LINKS.value, 0)
        own = dataclasses.replace(self.settings.links, form=way.form, init=way.init)
        settings = dataclasses.replace(self.settings, links=own, seed=seed)
        outline = dataclasses.replace(self.run.outline, form=way.form)
        links = initial_links(settings, system, outline)
        if way.init != "aligned":
            return links
        return align_outer_links(
            system.spec(outline.form),
            system.params(),
            links,
            examples=self.run.examples("outer"),
            rows=self.run.data.split("train")[: own.aligned_rows],
            seed=seed,
            ridge=own.ridge,
        )

    def measure(self, way: Way, kind: str, rounds: int, seed: int) -> dict[str, Any]:
        """The sizes of gradients, as JSON values."""
        system, batch = self.system(kind, seed), self.batch(rounds)
        links = self.links(way, system, seed) if way.form else {}
        with jax.enable_x64(_DTYPE.value == "float64"):
            params, links = jax.tree.map(
                lambda x: jnp.asarray(x, _DTYPE.value), (dict(system.params()), links)
            )
            context = self.context(way.form or self.settings.links.parsed_form)
            if way.form:
                found = link_gradients(context, params, links, batch)
            else:
                found = text_gradients(context, params, self.tokens, batch, _TEMPERATURE.value)
            found = jax.device_get(found)
        cut = self.most - rounds
        confidence = [own_K[cut:].mean() for own_K in found.confidence.values()]
        return {
            "loss": float(found.loss),
            "whole": float(found.whole),
            "confidence": float(np.mean(confidence)) if confidence else None,
            "norms": {name: own_K[cut:].tolist() for name, own_K in found.norms.items()},
        }


def main(_: list[str]) -> None:
    """Measures what is not in the workdir yet, and prints the tables."""
    depths = numbers("rounds", _ROUNDS.value)
    if depths[0] < 2:
        raise InputError("--rounds=1: one round has no earlier one to compare with; 2 or more")
    check_words("systems", _SYSTEMS.value, list(EMBEDDED))
    check_words("agents", _KINDS.value, _AGENTS)
    if _LINKS.value and len(_SYSTEMS.value) > 1:
        raise InputError("--links belong to one system; name that one in --systems")
    ways = _ways()
    out, plot = output_file("out", _OUT.value), output_file("plot", _PLOT.value, ".png")
    figure = gradient_plots.new_plot(len(_SYSTEMS.value) * len(_KINDS.value)) if plot else None
    workdir = open_workdir(flags.FLAGS.workdir, {"command": "gradients"})
    parallel.start()
    cells = list(_measured(workdir, ways, depths))
    print(gradient_tables.tables(cells))
    if out:
        atomic_write_json(out, {"cells": cells, "ratios": gradient_tables.ratios(cells)})
    if plot:
        gradient_plots.draw(figure, gradient_tables.curves(cells), plot)


def _ways() -> list[Way]:
    """What is compared. Raises `InputError` for words that are not known, and for none at all."""
    if _FORMS.value:
        check_words("forms", _FORMS.value, FORMS)
    check_words("init", _INIT.value, _INITS)
    ways = [
        Way(parse_form(form), init)
        for form, init in itertools.product(_FORMS.value, _INIT.value)
        if init == "random" or form in _WITH_BRANCH
    ]
    if _LINKS.value:
        manifest = load_links(expanded(_LINKS.value))[1]
        ways.append(Way(parse_form(str(manifest.get("form"))), "trained"))
    if _TEXT.value:
        ways.append(Way(None))
    if not ways:
        raise InputError(
            f"--init={','.join(_INIT.value)} is for the forms {' and '.join(_WITH_BRANCH)}; name "
            "one in --forms, or trained --links"
        )
    return ways


def _measured(workdir: Path, ways: list[Way], depths: list[int]) -> Iterator[dict[str, Any]]:
    """All cells in order, those of the workdir without being computed again."""
    file = workdir / "cells.jsonl"
    done = _finished(file)
    trained = next((way.form for way in ways if way.init == "trained"), None)
    subjects = {name: Subject(name, workdir, trained) for name in _SYSTEMS.value}
    plan = []
    for (name, subject), way in itertools.product(subjects.items(), ways):
        if not way.form and (reason := _without_text(subject)):
            print(f"{name}: text is left out: {reason}", flush=True)
            continue
        plan += [(name, way, *rest) for rest in _cells(way, depths)]
    with file.open("a") as lines, Progress(len(plan), label="gradients", unit="cell") as progress:
        for n, (name, way, kind, rounds, seed) in enumerate(plan, 1):
            subject = subjects[name]
            key = {
                "system": name,
                "agents": kind,
                "weights": subject.weights,
                "way": way.name,
                "rounds": rounds,
                "seed": seed,
                "rows": _ROWS.value,
                "latent_steps": subject.settings.limits.latent_steps,
                "dtype": _DTYPE.value,
            }
            if way.init == "trained":
                key["links"] = digest_of(subject.run.trained_links(_LINKS.value, 0))
            if not way.form:
                key["temperature"] = _TEMPERATURE.value
            if (found := done.get(_id(key))) is None:
                found = key | subject.measure(way, kind, rounds, seed)
                append_lines(lines, [line_of(found)])
            progress.update(n)
            yield found


def _cells(way: Way, depths: list[int]) -> Iterator[tuple[str, int, int]]:
    """Agents, rounds and seeds of a way; what no seed changes has one."""
    for kind, rounds in itertools.product(_KINDS.value, depths):
        fixed = kind == "embedded" and way.init in ("", "trained")
        if kind == "embedded" or way.init != "trained":
            yield from ((kind, rounds, seed) for seed in range(1 if fixed else _SEEDS.value))


def _without_text(subject: Subject) -> str:
    """Why a system has no path of text; empty where it has one."""
    try:
        _ = subject.tokens
    except InputError as error:
        return str(error)
    return ""


def _finished(file: Path) -> dict[str, dict[str, Any]]:
    """The cells of a file, by what they are of; damaged lines are dropped."""
    found = {}
    for line in whole_lines(file):
        try:
            cell = parse_line(line)
            found[_id(cell)] = cell
        except (ValueError, KeyError):
            continue
    atomic_write_text(file, "".join(f"{line_of(cell)}\n" for cell in found.values()))
    return found


def _id(cell: dict[str, Any]) -> str:
    results = ("loss", "whole", "confidence", "norms")
    return json.dumps({k: v for k, v in cell.items() if k not in results}, sort_keys=True)


if __name__ == "__main__":
    app.run(main, workdir="runs/gradients")
