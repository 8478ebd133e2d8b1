"""What training costs and gives: RecursiveLinks, LoRA adapters, or all weights of the agents.

  python -m experiments.benchmarks.training_cost --workdir=runs/cost
  python -m experiments.benchmarks.training_cost --workdir=runs/cost --config.objective=rollout \
      --config.links.init=gated --config.outer.optim.steps=150

Inner links are trained first. All ways then start from the same links, and take as many steps of
outer training on the same rows, with the same objective, batch and optimizer but for the learning
rate. `links` trains the links; `lora` an adapter beside every matrix of every agent's layers;
`full` all weights, of which each agent gets a copy. In the last two, links stay as they start.

Memory is the compiler's, of a compiled step: its arguments, what it computes with, and results
that do not lie over arguments. Times are of steps that take turns in one process. Accuracies are
those of true rollouts on the evaluation's questions, with 95 % intervals (Wilson's). Every way
resumes in its own folder of the workdir. Tables in Markdown; the same numbers are in
`training_cost.json` there.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app
from experiments.benchmarks.program_times import say
from experiments.benchmarks.ratios import alternate, named, ratio
from experiments.benchmarks.training_costs import (
    WAYS,
    Lora,
    Stepper,
    check_ways,
    count_of,
    initial,
    make_trainable,
    measured_tables,
)
from rmas import parallel
from rmas.evaluation.layout import FOLDER
from rmas.evaluation.results import ResultRow
from rmas.experiment import Experiment, derive, evaluating
from rmas.experiment.experiment import LINKS
from rmas.experiment.identity import identity_of
from rmas.experiment.links import fit_outer_links, read_inner_links, read_links, write_links
from rmas.experiment.methods import methods
from rmas.experiment.settings import Settings
from rmas.files import atomic_write_json
from rmas.parallel import meters
from rmas.places import has_entry
from rmas.shapes import Params
from rmas.system.load import System
from rmas.training.loop import check_batch
from rmas.training.objectives import OBJECTIVES, parse_objective
from rmas.training.outer import train_system
from rmas.training.trainable import Trainable
from rmas.training.workdir import open_workdir

START = "start"
"""The folder of the links that all ways start from, and the name of their own figures."""

_WAYS = flags.DEFINE_list("ways", list(WAYS[:3]), "What is trained.")
_RANK = flags.DEFINE_integer("rank", 16, "Of LoRA adapters.", 1)
_ALPHA = flags.DEFINE_float("alpha", 32.0, "Of LoRA adapters, over the rank their scale.", 0.0)
_LORA_LR = flags.DEFINE_float("lora_lr", 1e-3, "Peak learning rate of LoRA adapters.", 0.0)
_FULL_LR = flags.DEFINE_float("full_lr", 1e-4, "Peak learning rate of all weights.", 0.0)
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed steps of each way.", 1)


def main(_: list[str]) -> None:
    """Trains every way, evaluates it, measures steps, and prints the tables."""
    check_ways(_WAYS.value)
    settings, workdir = app.settings_and_workdir()
    parallel.start()
    cost = TrainingCost(settings, workdir)
    cost.prepare()
    results = {START: cost.evaluate(START, cost.system, cost.links)}
    for way in _WAYS.value:
        say(f"training: {way}")
        trained = cost.train(way)
        results[way] = cost.evaluate(way, *cost.assembled(way, trained))
    say(f"{_REPEATS.value} steps of each way")
    facts = {
        "benchmark": "training_cost",
        "machine": meters.machine(cost.system.mesh),
        "objective": cost.run.settings.objective,
        "steps": cost.run.settings.outer.optim.steps,
        "batch": cost.run.settings.outer.batch_size,
        "rates": {way: cost.schedule(way).optim.lr for way in _WAYS.value},
        "lora": {"rank": _RANK.value, "alpha": _ALPHA.value},
        "weights": count_of(dict(cost.system.params())),
        "ways": cost.measure(),
        "accuracy": results,
    }
    atomic_write_json(workdir / "training_cost.json", facts)
    print(measured_tables(facts))


class TrainingCost:
    """An experiment whose outer training has several ways.

    Attributes:
      run: it, whose inner links are trained as ever.
      links: those that all ways start from.
      system: the agents as they are.
    """

    links: Params
    system: System

    def __init__(self, settings: Settings, workdir: Path) -> None:
        evaluate = dataclasses.replace(settings.evaluate, methods=("latent",))
        self.run = Experiment(dataclasses.replace(settings, evaluate=evaluate), workdir)
        self._lora = Lora(_RANK.value, _ALPHA.value)
        self._parts = self.run.settings.outer.train

    def prepare(self) -> None:
        """Trains inner links, and makes those that all ways start from, or reads them."""
        run, s = self.run, self.run.settings
        run.check()
        run.train_inner()
        self.system = run.system
        check_batch("outer", s.outer, self.system.mesh)
        self._source, _ = run.data.rows(s.outer, self.system.topology, self.system.topology.agents)
        folder, manifest = run.workdir / START, run.manifest()
        open_workdir(folder, self._identity("links", "inner", "outer"))
        if has_entry(folder / LINKS):
            self.links = read_links(folder / LINKS, run.outline.link_template, manifest)
            return
        folders = {a: run.workdir / "inner" / a / LINKS for a in self.system.topology.agents}
        inner = read_inner_links(folders, run.outline.link_template, manifest)
        links = {"inner": inner, "outer": run.initial_links()["outer"]}
        links = fit_outer_links(s, run.context.spec, links, run.examples("outer"), self._source)
        write_links(folder / LINKS, links, manifest)
        self.links = read_links(folder / LINKS, run.outline.link_template, manifest)

    def schedule(self, way: str) -> Any:
        """The outer schedule, with the way's learning rate."""
        own = self.run.settings.outer
        rates = {"links": own.optim.lr, "lora": _LORA_LR.value}
        optim = dataclasses.replace(own.optim, lr=rates.get(way, _FULL_LR.value))
        return dataclasses.replace(own, optim=optim)

    def train(self, way: str) -> Params:
        """The trained tree, from the way's newest checkpoint on."""
        run, s = self.run, self.run.settings
        folder = run.workdir / way
        more = {"way": way, "rate": self.schedule(way).optim.lr}
        if way == "lora":
            more |= dataclasses.asdict(self._lora)
        open_workdir(folder, self._identity("objective", "links", "inner", "outer") | more)
        return train_system(
            self._trainable(way),
            parse_objective(s.objective),
            folder=folder,
            context=run.context,
            start=lambda: self._initial(way),
            examples=run.examples("outer"),
            source=self._source,
            schedule=self.schedule(way),
            seed=s.seed,
        )

    def assembled(self, way: str, trained: Params) -> tuple[System, Params]:
        """The system with what was trained."""
        what = self._trainable(way)
        params, links = what.assemble(trained, what.frozen)
        agents = {
            name: dataclasses.replace(agent, params=params[name])
            for name, agent in self.system.agents.items()
        }
        return dataclasses.replace(self.system, agents=agents), links

    def evaluate(self, way: str, system: System, links: Params) -> list[ResultRow]:
        """Accuracies of latent recursion by rounds."""
        run = self.run
        settings, _ = derive.lengths(run.settings, run.outline)
        folder = run.workdir / way
        parts = ("links", "limits", "sampling", "evaluate", "num_questions")
        own = {"questions": run.data.questions.version, "way": way}
        open_workdir(folder / FOLDER, self._identity(*parts) | own)
        return evaluating.evaluate(
            settings,
            system,
            methods(settings, system, run.outline.form, links, None),
            rows=run.data.questions,
            asked=run.data.asked,
            pool=evaluating.grader_pool(settings, run.data),
            workdir=folder,
        )

    def measure(self) -> dict[str, dict[str, Any]]:
        """Sizes, memory and times of a step of each way."""
        run, s = self.run, self.run.settings
        objective, examples = parse_objective(s.objective), run.examples("outer")

        def batch(n: int) -> dict[str, Any]:
            first = n * s.outer.batch_size % (len(self._source) - s.outer.batch_size + 1)
            rows = self._source[first : first + s.outer.batch_size]
            return {name: OBJECTIVES[name].prepare(examples, rows) for name, _ in objective}

        batches = [batch(n) for n in range(_REPEATS.value + 1)]
        steppers = {
            way: Stepper(
                self._trainable(way),
                run.context,
                objective,
                system=self.system,
                schedule=self.schedule(way),
                rounds=s.outer.rounds,
                seed=s.seed,
                start=lambda way=way: self._initial(way),
                batch=batches[0],
            )
            for way in _WAYS.value
        }
        for stepper in steppers.values():
            stepper.step(batches[0])
        runs = alternate(
            {way: lambda n, own=own: own.step(batches[n + 1]) for way, own in steppers.items()},
            _REPEATS.value,
        )
        first = _WAYS.value[0]
        return {
            way: {
                "trained": count_of(self._trainable(way).template),
                "optimizer_bytes": own.optimizer_bytes,
                **dataclasses.asdict(own.needs),
                "seconds": list(runs[way].seconds),
                "ratio": named(ratio(runs[way].seconds, runs[first].seconds)),
            }
            for way, own in steppers.items()
        }

    def _trainable(self, way: str) -> Trainable:
        return make_trainable(
            way,
            self.run.context,
            self.system.params(),
            self.links,
            self.system.mesh,
            parts=self._parts,
            lora=self._lora,
        )

    def _initial(self, way: str) -> Params:
        seed = self.run.settings.seed
        params = self.system.params()
        return initial(way, params, self.links, self._parts, self._lora.rank, seed)

    def _identity(self, *parts: str) -> dict[str, Any]:
        run = self.run
        return identity_of(run.settings, self.system, run.data.split("train"), parts)


if __name__ == "__main__":
    app.run(main, config="experiments/configs/tiny_sequential.py")
