"""Steps of training by rmas side by side with a row-by-row loop in PyTorch.

  python -m experiments.benchmarks.training                        # three small agents, CPU
  python -m experiments.benchmarks.training --parts=inner --json=times.json

`outer` is a step with the release's objective (`teacher_forced`): messages are states of the
senders' texts, the loss is that of the last text, and the outer links learn. `inner` is a step of
each agent's inner link, with the agent's hidden states cached on disk, and with the agent run.
rmas makes a step as one program of a whole batch; PyTorch goes forward and backward one row at a
time, as the release trains, without padding, and then updates. Both make the same arrays of texts
first, which is in the time.

Weights are random and float32. Before anything is timed, losses and gradients of a step must agree;
else the command ends with an error. Tables in Markdown give seconds a row, ratios with 95 %
intervals, and the floor of the rmas step, with what it computes again; `caching` is what storing
the states of a row took, which is paid once. Measure on a machine that does nothing else.
"""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import app
from experiments.benchmarks import random_agents
from experiments.benchmarks.inference_paths import INSTALL, has_pytorch
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.program_times import Figures, measured_figures, say
from experiments.benchmarks.random_agents import Sizes
from experiments.benchmarks.ratios import (
    Runs,
    alternate,
    markdown,
    named,
    ratio,
    ratio_cells,
)
from experiments.benchmarks.training_paths import (
    OBJECTIVE,
    OPTIM,
    TOLERANCE,
    InnerRows,
    TrainingSetup,
    compare,
)
from experiments.benchmarks.words import check_words
from rmas import parallel
from rmas.files import atomic_write_json
from rmas.parallel import meters
from rmas.plans import training_floors
from rmas.plans.floors import Share, Work
from rmas.training.objectives import Lengths

PARTS = ("outer", "inner")
RMAS, CACHED, PYTORCH = "rmas", "rmas, cached states", "PyTorch, row by row"

_SYSTEM = flags.DEFINE_string("system", "small", "As of benchmarks.inference.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 128, "Of the longest prompt, without messages.")
_TEXT = flags.DEFINE_integer("text_tokens", 32, "Of the longest text of an agent.", 2)
_BATCH = flags.DEFINE_integer("batch", 8, "Rows of a step.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Recursion rounds.", 1)
_PARTS = flags.DEFINE_list("parts", ",".join(PARTS), f"Of {', '.join(PARTS)}.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps of each way.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, links and rows.", 0)
_PYTORCH = flags.DEFINE_boolean("pytorch", True, "Compare with PyTorch, where it is installed.")
_JSON = flags.DEFINE_string("json", "", "A file for the same numbers.")


def main(_: list[str]) -> None:
    """Checks that steps agree, and measures them."""
    parallel.start()
    check_words("parts", _PARTS.value, PARTS)
    file = output_file("json", _JSON.value)
    topology, specs = random_agents.architectures(_SYSTEM.value)
    sizes = Sizes(_PROMPT.value, _BATCH.value, _SEED.value)
    random_agents.check_context(specs, topology, sizes, _TEXT.value, "--text_tokens")
    pytorch = _PYTORCH.value and has_pytorch()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        what = f"--system={_SYSTEM.value}{' with PyTorch beside it' * pytorch}"
        random_agents.check_memory(specs, 1 + pytorch, 4, folder, what, "--system=small")
        say("making random weights")
        random_agents.write_folders(specs, folder, "float32", _SEED.value)
        system = random_agents.load_system(topology, folder, sizes, "float32")
        setup = TrainingSetup(system, sizes, _ROUNDS.value, _TEXT.value)
        measured = Measurement(setup, folder, pytorch)
        for part in PARTS:
            if part in _PARTS.value:
                getattr(measured, part)()
    facts = {
        "benchmark": "training",
        "system": _SYSTEM.value,
        "agents": random_agents.describe(specs),
        "machine": meters.machine(system.mesh),
        "threads": measured.threads,
        "sizes": {**dataclasses.asdict(sizes), "rounds": _ROUNDS.value, "text": _TEXT.value},
        "repeats": _REPEATS.value,
        "figures": dataclasses.asdict(measured.figures),
        "steps": measured.steps,
    }
    show(facts)
    if _PYTORCH.value and not pytorch:
        print(f"\n{INSTALL}")
    if file:
        atomic_write_json(file, facts)


class Measurement:
    """What is measured, step by step.

    Attributes:
      steps: by name of the step, its figures for JSON.
    """

    def __init__(self, setup: TrainingSetup, folder: Path, pytorch: bool) -> None:
        self._setup, self._folder = setup, folder
        self.steps: dict[str, dict[str, Any]] = {}
        self.threads = {"XLA": len(os.sched_getaffinity(0))}  # of its pool, on CPU
        size = 1024 if jax.default_backend() == "cpu" else 8192
        self.figures: Figures = measured_figures(np.dtype("float32"), size)
        self._other: Any = None
        if pytorch:
            from experiments.benchmarks.pytorch_path import use_all_cores
            from experiments.benchmarks.pytorch_training import PytorchTraining

            self.threads["PyTorch"] = use_all_cores()
            self._other = PytorchTraining.load(setup.system.topology, folder, setup.links)

    def outer(self) -> None:
        """A step of outer training."""
        setup = self._setup
        ours, other = setup.outer(), self._other and self._other.outer(OPTIM)
        ways = {RMAS: lambda n: ours.step(setup.outer_batch(n))}
        if other:
            ways[PYTORCH] = lambda n: other.step(setup.whole_batch(n))
        shares = {agent: self._share(agent) for agent in setup.system.topology.agents}
        lengths = Lengths(setup.sizes.prompt, setup.text)
        work = training_floors.outer_step(
            setup.context,
            OBJECTIVE,
            shares,
            trained=("outer",),
            rounds=setup.rounds,
            lengths=lengths,
        )
        self._measure("outer", ways, {RMAS: ours}, other, work)

    def inner(self) -> None:
        """A step of inner training of each agent."""
        setup = self._setup
        for agent in setup.system.topology.agents:
            say(f"caching hidden states of {agent}")
            folder = self._folder / f"{agent}-states"
            rows = InnerRows(setup, agent, _REPEATS.value + 1, folder)
            steppers = {RMAS: setup.inner(agent), CACHED: setup.inner(agent)}
            other = self._other and self._other.inner(agent, OPTIM)
            ways = inner_ways(rows, steppers, other)
            positions = setup.sizes.prompt + setup.text * (
                1 + len(setup.system.topology.incoming(agent))
            )
            work = training_floors.inner_step(self._share(agent), positions)
            self._measure(f"inner, {agent}", ways, steppers, other, work)
            self.steps[f"inner, {agent}"]["caching"] = rows.caching

    def _share(self, agent: str) -> Share:
        system = self._setup.system
        return Share(system.agents[agent].model, system.mesh, self._setup.sizes.rows, np.float32)

    def _measure(
        self, name: str, ways: Mapping[str, Any], ours: Mapping[str, Any], other: Any, work: Work
    ) -> None:
        """Makes the first step of all ways, compares them, and times the others."""
        say(f"compiling and checking: {name}")
        losses, compiling = {}, {}
        for way, step in ways.items():
            before = meters.seconds_compiling()
            losses[way] = step(0)
            compiling[way] = meters.seconds_compiling() - before
        agreed = None
        if other:
            agreed = max(
                compare(own, other, (losses[way], losses[PYTORCH]), f"{name} ({way})")
                for way, own in ours.items()
            )
        say(f"{_REPEATS.value} steps of each way: {name}")
        runs = alternate(
            {way: lambda n, step=step: step(n + 1) for way, step in ways.items()}, _REPEATS.value
        )
        rows = self._setup.sizes.rows
        self.steps[name] = {
            "agreement": agreed,
            "losses": {way: [losses[way], *own.results] for way, own in runs.items()},
            "seconds": {way: [s / rows for s in own.seconds] for way, own in runs.items()},
            "compiling": compiling,
            "ratios": _ratios(runs),
            "floor": work.seconds(self.figures) / rows,
        }


def inner_ways(rows: InnerRows, steppers: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """The ways to a step of inner training."""
    ways = {
        RMAS: lambda n: steppers[RMAS].step(rows.arrays(n)),
        CACHED: lambda n: steppers[CACHED].step(rows.states(n)),
    }
    if other:
        ways[PYTORCH] = lambda n: other.step(rows.arrays(n))
    return ways


def _ratios(runs: Mapping[str, Runs]) -> dict[str, dict[str, float | None]]:
    """PyTorch to both ways of rmas, and rmas to itself with cached states."""
    names = list(runs)
    return {
        f"{above} / {below}": named(ratio(runs[above].seconds, runs[below].seconds))
        for above, below in ((PYTORCH, RMAS), (RMAS, CACHED), (PYTORCH, CACHED))
        if {above, below} <= set(names)
    }


def show(facts: dict[str, Any]) -> None:
    """Prints the tables."""
    n = facts["sizes"]
    print(
        f"{facts['system']}: {facts['agents']}; float32. {n['rows']} rows of a step, prompts of "
        f"{n['prompt']} tokens, texts of {n['text']}, {n['rounds']} rounds, "
        f"{facts['repeats']} repetitions."
    )
    threads = ", ".join(f"{name} {count}" for name, count in facts["threads"].items())
    print(f"{facts['machine']}; threads: {threads}.")
    agreed = [own["agreement"] for own in facts["steps"].values() if own["agreement"] is not None]
    if agreed:
        print(
            f"Losses and gradients differ by at most {max(agreed):.1e} (relative; at most "
            f"{TOLERANCE:g})."
        )
    rows, ratios = [], []
    for name, own in facts["steps"].items():
        for way, seconds in own["seconds"].items():
            least = own["floor"] if way == RMAS else None
            rows.append(
                [
                    f"{name}: {way}",
                    f"{1e3 * statistics.median(seconds):.2f} ms",
                    f"{1e3 * min(seconds):.2f} - {1e3 * max(seconds):.2f}",
                    f"{1e3 * least:.2f} ms" if least else "",
                    f"{own['compiling'][way]:.1f} s",
                ]
            )
        if "caching" in own:
            rows.append([f"{name}: caching", f"{1e3 * own['caching']:.2f} ms", "", "", ""])
        for what, found in own["ratios"].items():
            ratios.append([f"{name}: {what}", *ratio_cells(found)])
    print("\n" + markdown(["step", "a row, median", "from - to", "floor", "compiling"], rows))
    print("\n" + markdown(["ratio of times", "mean", "95 % interval"], ratios))
    own = facts["figures"]
    print(
        f"\nMeasured here: {own['bandwidth'] / 1e9:,.1f} GB/s of a copy, "
        f"{own['flops'] / 1e9:,.1f} Gop/s of a product."
    )


if __name__ == "__main__":
    app.run(main)
