"""rmas side by side with what a user would write in PyTorch, and latents beside text.

  python -m experiments.benchmarks.inference                       # three small agents, CPU
  python -m experiments.benchmarks.inference --json=times.json --repeats=9
  python -m experiments.benchmarks.inference --system=sequential_light --dtype=bfloat16

Three ways to the same batch of answers run in turn in one process: latent recursion by rmas, text
exchange by rmas, and latent recursion in PyTorch with transformers' models and cache, of the same
weights, links and prompts. `--release` adds latent recursion as it was published: each latent step
runs the whole sequence again. Every repetition has questions of its own, of the same lengths. rmas
reads what all rounds of a prompt share once, and the beginning that all questions share once a run;
PyTorch reads every prompt whole each round.

Weights are random, so texts have all their tokens, and messages of text exchange have
`--message_tokens`. Before anything is timed, all latents must agree with PyTorch in float32, and
the texts of the latent ways must be equal; else the command ends with an error.

Then come tables in Markdown: seconds of each way; ratios with 95 % intervals; and what the time of
each way of rmas divides into. There, `preamble` is the reading of what all rounds share, and
`think` are latent steps and the reading of the rest; `host` is what is in no phase. Two rows are
from programs of one turn each, which read whole prompts. The floor is the least time by bytes or
operations, whichever is more, with the bandwidth of a large copy and the rate of a large product
that were measured here. `floor` is that of an engine that reads the preamble of each question once
(rmas is below it where questions share a beginning), `again` that of one that reads every prompt
whole. (A model that fits the caches of a CPU can be faster than its memory.)

Measure on a machine that does nothing else: threads of PyTorch wait for each other after every
operation, so that other work on its cores slows it far more than it slows XLA.
"""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import app
from experiments.benchmarks import inference_work, random_agents
from experiments.benchmarks.inference_paths import (
    CACHED,
    FORM,
    INSTALL,
    LATENT,
    TEXT,
    TOLERANCE,
    UNCACHED,
    Paths,
    Turns,
    has_pytorch,
)
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
    seconds_cells,
)
from rmas import parallel
from rmas.errors import InputError
from rmas.files import atomic_write_json
from rmas.parallel import meters
from rmas.system.topology import Topology

AGAIN = ", every prompt read whole"
"""Follows a way's name, for its floors without preambles."""

_SYSTEM = flags.DEFINE_string(
    "system",
    "small",
    "small or tiny agents of three families, a released system's style, or three base models.",
)
_PROMPT = flags.DEFINE_integer("prompt_tokens", 330, "Of the longest prompt, without messages.")
_BATCH = flags.DEFINE_integer("batch", 4, "Questions answered at once.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Recursion rounds.", 1)
_STEPS = flags.DEFINE_integer("latent_steps", 32, "Of a turn.", 2)
_TOKENS = flags.DEFINE_integer("new_tokens", 32, "Of an answer.", 1)
_MESSAGE = flags.DEFINE_integer("message_tokens", 0, "Of text exchange; 0: as latent_steps.", 0)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of weights.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each way.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, links, prompts and questions.", 0)
_PYTORCH = flags.DEFINE_boolean("pytorch", True, "Compare with PyTorch, where it is installed.")
_RELEASE = flags.DEFINE_boolean("release", False, "Time the published way, too; it is slow.")
_JSON = flags.DEFINE_string("json", "", "A file for the same numbers.")


def main(_: list[str]) -> None:
    """Checks that all ways agree, and measures them."""
    parallel.start()
    file = output_file("json", _JSON.value)
    topology, specs = random_agents.architectures(_SYSTEM.value)
    pytorch = _PYTORCH.value and has_pytorch()
    if _RELEASE.value and not pytorch:
        raise InputError("--release needs PyTorch: pip install -e '.[torch]', and no --nopytorch")
    sizes = Sizes(_PROMPT.value, _BATCH.value, _SEED.value)
    messages = _MESSAGE.value or _STEPS.value
    turns = Turns(_ROUNDS.value, _STEPS.value, _TOKENS.value, messages)
    random_agents.check_context(
        specs,
        topology,
        sizes,
        max(turns.steps, messages, turns.new_tokens),
        "--latent_steps, --message_tokens or --new_tokens",
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        itemsize = np.dtype(_DTYPE.value).itemsize if not pytorch else 4  # the check is in float32
        what = f"--system={_SYSTEM.value}{' with PyTorch beside it' * pytorch}"
        less = "--system=small, or --nopytorch with --dtype=bfloat16"
        random_agents.check_memory(specs, 1 + pytorch, itemsize, folder, what, less)
        say("making random weights")
        random_agents.write_folders(specs, folder, _DTYPE.value, _SEED.value)
        facts = measure(topology, folder, sizes, turns, pytorch)
    facts["agents"] = random_agents.describe(specs)
    show(facts)
    if _PYTORCH.value and not pytorch:
        print(f"\n{INSTALL}")
    if file:
        atomic_write_json(file, facts)


def measure(
    topology: Topology, folder: Path, sizes: Sizes, turns: Turns, pytorch: bool
) -> dict[str, Any]:
    """All figures of one system, for JSON."""
    threads = {"XLA": len(os.sched_getaffinity(0))}  # of its pool, on CPU
    if pytorch:
        from experiments.benchmarks.pytorch_path import use_all_cores

        threads["PyTorch"] = use_all_cores()
    agreed = None
    load = (topology, folder, sizes, turns)
    paths = Paths.load(*load, "float32" if pytorch else _DTYPE.value, pytorch)
    if pytorch:
        say("checking that the ways agree")
        agreed = paths.check(_RELEASE.value)
        if _DTYPE.value != "float32":
            paths = Paths.load(*load, _DTYPE.value, pytorch)
    compiling = {}
    ways = paths.ways(_RELEASE.value)
    for name in (LATENT, TEXT):
        say(f"compiling: {name}")
        before = meters.seconds_compiling()
        ways[name](0)
        compiling[name] = meters.seconds_compiling() - before
    phases: dict[str, list[dict[str, float]]] = {LATENT: [], TEXT: []}
    clocks = {LATENT: paths.latent_runner.clock, TEXT: paths.text_runner.clock}
    for clock in clocks.values():
        clock.pop()

    def phased(name: str, number: int) -> Any:
        found = ways[name](number)
        phases[name].append(clocks[name].pop())
        return found

    def way(name: str) -> Any:
        return lambda n: phased(name, n + 1) if name in clocks else ways[name](n + 1)

    before = meters.seconds_compiling()
    say(f"{_REPEATS.value} runs of each way")
    runs = alternate({name: way(name) for name in ways}, _REPEATS.value)
    late = meters.seconds_compiling() - before
    system = paths.latent_runner.system
    prompts = paths.prompts(0)
    say("measuring programs of one turn, a copy and a product")
    alone = inference_work.parts_alone(
        system, system.spec(FORM), paths.links, prompts, turns.steps, _REPEATS.value
    )
    dtype = np.dtype(_DTYPE.value)
    figures = measured_figures(dtype, 1024 if jax.default_backend() == "cpu" else 8192)
    counter, answers = paths.counter(dtype), runs[TEXT].results[0]
    lengths = inference_work.lengths_of(prompts, topology)
    read, wrote = (
        inference_work.counted(answers, topology, turns.rounds, name)
        for name in ("prompt_tokens", "decoded_tokens")
    )
    floors = {}
    for what, preambles in (("", paths.preambles(0)), (AGAIN, {})):
        works = {
            LATENT: counter.latent(lengths, preambles, turns.steps, turns.new_tokens),
            TEXT: counter.text(read, wrote, preambles),
        }
        floors |= {f"{name}{what}": _floors(own, figures) for name, own in works.items()}
    return {
        "benchmark": "inference",
        "system": _SYSTEM.value,
        "machine": meters.machine(system.mesh),
        "threads": threads,
        "dtype": _DTYPE.value,
        "sizes": dataclasses.asdict(sizes) | dataclasses.asdict(turns),
        "repeats": _REPEATS.value,
        "agreement": agreed,
        "equal_texts": _equal_texts(runs),
        "seconds": {name: list(own.seconds) for name, own in runs.items()},
        "compiling": compiling | {"while timed": late},
        "ratios": _ratios(runs),
        "phases": {name: _phases(runs[name], found) for name, found in phases.items()},
        "alone": {name: list(seconds) for name, seconds in alone.items()},
        "figures": dataclasses.asdict(figures),
        "floors": floors,
    }


def _equal_texts(runs: dict[str, Runs]) -> dict[str, int]:
    """How many texts of the other latent ways are equal to ours, of how many."""
    found = {}
    for name in (CACHED, UNCACHED):
        if name in runs:
            pairs = zip(runs[LATENT].results, runs[name].results, strict=True)
            equal = [
                list(answer.ids) == own
                for answers, (ids, _) in pairs
                for answer, own in zip(answers, ids, strict=True)
            ]
            found |= {name: sum(equal), "of": len(equal)}
    return found


def _ratios(runs: dict[str, Runs]) -> dict[str, dict[str, float | None]]:
    ours = runs[LATENT].seconds
    return {
        f"{name} / {LATENT}": named(ratio(own.seconds, ours))
        for name, own in runs.items()
        if name != LATENT
    }


def _phases(own: Runs, found: list[dict[str, float]]) -> dict[str, list[float]]:
    """Seconds of each phase by repetition, and of what is in none: the host."""
    phases = {name: [seconds[name] for seconds in found] for name in found[0]}
    host = [whole - sum(each.values()) for whole, each in zip(own.seconds, found, strict=True)]
    return phases | {"host": host}


def _floors(parts: inference_work.Parts, figures: Figures) -> dict[str, dict[str, float]]:
    """Bytes, operations and the floor of each part."""
    return {
        part: dataclasses.asdict(inference_work.total(works))
        | {"seconds": inference_work.floor(works, figures)}
        for part, works in parts.items()
    }


def show(facts: dict[str, Any]) -> None:
    """Prints the tables."""
    n = facts["sizes"]
    print(
        f"{facts['system']}: {facts['agents']}; {facts['dtype']}. {n['rows']} rows, prompts of "
        f"{n['prompt']} tokens, {n['rounds']} rounds, {n['steps']} latent steps, "
        f"{n['new_tokens']} new tokens, messages of {n['message_tokens']} tokens, "
        f"{facts['repeats']} repetitions."
    )
    threads = ", ".join(f"{name} {count}" for name, count in facts["threads"].items())
    print(f"{facts['machine']}; threads: {threads}.")
    if facts["agreement"] is not None:
        equal = facts["equal_texts"]
        print(
            f"Latents of all turns differ by at most {facts['agreement']:.1e} (relative, float32; "
            f"at most {TOLERANCE:g}); {equal[CACHED]} of {equal['of']} texts are equal."
        )
    rows = [
        [name, *seconds_cells(own), f"{facts['compiling'].get(name, 0):.1f} s"]
        for name, own in facts["seconds"].items()
    ]
    print("\n" + markdown(["way", "median", "from - to", "compiling"], rows))
    rows = [[name, *ratio_cells(own)] for name, own in facts["ratios"].items()]
    print("\n" + markdown(["ratio of times", "mean", "95 % interval"], rows))
    if CACHED in facts["seconds"]:
        print("\nPyTorch reads every prompt whole each round; rmas keeps what all rounds share.")
    for name in (LATENT, TEXT):
        print("\n" + markdown([name, "median", "floor", "x floor", "again"], _rows(facts, name)))
    own = facts["figures"]
    print(
        f"\nMeasured here: {own['bandwidth'] / 1e9:,.1f} GB/s of a copy, "
        f"{own['flops'] / 1e9:,.1f} Gop/s of a product."
    )


def _rows(facts: dict[str, Any], name: str) -> list[list[str]]:
    """A way's phases with their floors."""
    floors, again = facts["floors"][name], facts["floors"][f"{name}{AGAIN}"]
    alone = facts["alone"]

    def row(what: str, seconds: Sequence[float], *of: str, whole: bool = False) -> list[str]:
        """With floors of the parts `of`; with `again` alone for a program of whole prompts."""
        median = statistics.median(seconds)
        least, most = (sum(own[part]["seconds"] for part in of) for own in (floors, again))
        cells = [f"{least:.3f} s", f"{median / least:.2f}"] if least and not whole else ["", ""]
        return [what, f"{median:.3f} s", *cells, f"{most:.3f} s" if most else ""]

    rows = []
    for phase, seconds in facts["phases"][name].items():
        if phase == "think":
            rows += [
                row(phase, seconds, "prefill", "latent steps"),
                row("- prefill of whole prompts, alone", alone["prefill"], "prefill", whole=True),
                row("- latent steps, alone", alone["latent steps"], "latent steps"),
            ]
        else:
            rows.append(row(phase, seconds, *({phase} & set(floors))))
    return [*rows, row("all", facts["seconds"][name], *floors)]


if __name__ == "__main__":
    app.run(main)
