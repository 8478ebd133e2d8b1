"""How long programs take to compile, against the layers of agents, rounds and agents.

  python -m experiments.benchmarks.compile_time
  python -m experiments.benchmarks.compile_time --layers=4,32 --rounds= --agents= --size=small

`think` is the program of all latent turns, `decode` a chunk of tokens. One of the three numbers is
varied at a time; the others are those of `--base`. Both programs are loops over layers and rounds,
so tracing, lowering and compiling should take as long for 16 layers as for 2 (not on one CPU
device, where few layers are unrolled: see docs/architecture.md), and only grow with the agents.
The table has the operations of the lowered program, the seconds of Python (tracing and lowering)
and of the compiler, and the CPU seconds of both; where times are repeated, the least. Below it are
slopes: seconds for each layer, round or agent more, fitted to the points. Nothing runs, and no
compile cache is read. A line of JSON ends the output.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import app
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.program_times import say
from experiments.benchmarks.uniform_systems import count_operations, uniform_system
from experiments.benchmarks.words import numbers
from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.files import atomic_write_json
from rmas.parallel.slices import no_compile_cache
from rmas.plans import programs
from rmas.plans.arguments import AbstractSystem
from rmas.plans.programs import Program
from rmas.system.sampling import Sampling

VARIED = ("layers", "rounds", "agents")

_LAYERS = flags.DEFINE_list("layers", ["2", "4", "8", "16"], "Layers of every agent; may be empty.")
_ROUNDS = flags.DEFINE_list("rounds", ["1", "2", "4", "8"], "Recursion rounds; may be empty.")
_AGENTS = flags.DEFINE_list("agents", ["1", "2", "3", "4"], "Agents in sequence; may be empty.")
_BASE = flags.DEFINE_list("base", ["4", "2", "2"], "Layers, rounds and agents that are not varied.")
_SIZE = flags.DEFINE_enum("size", "tiny", ["tiny", "small"], "As of benchmarks.accelerator.")
_ROWS = flags.DEFINE_integer("rows", 8, "Of a batch.", 1)
_PROMPT = flags.DEFINE_integer("prompt_tokens", 64, "Of a prompt without its messages.", 1)
_STEPS = flags.DEFINE_integer("latent_steps", 8, "Of a rollout.", 2)
_REPEATS = flags.DEFINE_integer("repeats", 1, "Compilations of each program.", 1)
_MESH = flags.DEFINE_string("mesh", "single", "As of a run: auto, data=2, or single.")
_JSON = flags.DEFINE_string("json", "", "File for the same as JSON.")


@dataclasses.dataclass(frozen=True)
class Point:
    """A program at some numbers of layers, rounds and agents; seconds.

    Attributes:
      varied: which of the three numbers is varied.
      program: `think` or `decode`.
      layers, rounds, agents: the numbers.
      operations: of the lowered program.
      lowering: of tracing and lowering.
      compiling: of the backend's compiler.
      cpu: CPU seconds of both, of all threads.
    """

    varied: str
    program: str
    layers: int
    rounds: int
    agents: int
    operations: int
    lowering: float
    compiling: float
    cpu: float


def main(_: list[str]) -> None:
    """Compiles the programs of growing systems, and prints how long it took."""
    flags_of = {"layers": _LAYERS, "rounds": _ROUNDS, "agents": _AGENTS}
    values = {name: numbers(name, flags_of[name].value, empty=True) for name in VARIED}
    if not any(values.values()):
        raise InputError("--layers, --rounds and --agents are all empty; name numbers, as in 2,4")
    base = [n for text in _BASE.value for n in numbers("base", [text])]
    if len(base) != len(VARIED):
        raise InputError(f"--base={','.join(_BASE.value)}; wanted layers, rounds and agents: 4,2,2")
    path = output_file("json", _JSON.value)
    parallel.start()
    mesh = parallel.make_mesh(parallel.parse_mesh(_MESH.value))
    if _ROWS.value % parallel.batch_multiple(mesh):
        multiple = parallel.batch_multiple(mesh)
        raise InputError(f"--rows={_ROWS.value}; on this mesh it must be a multiple of {multiple}")
    first = uniform_system(1, 1, mesh)  # what the first compilation sets up
    _times(lambda: programs.think(first, steps=2, rounds=1, rows=_ROWS.value, tokens=1))
    points = []
    for varied in VARIED:
        for value in values[varied]:
            own = dict(zip(VARIED, base, strict=True)) | {varied: value}
            say(", ".join(f"{n} {name}" for name, n in own.items()))
            system = uniform_system(own["layers"], own["agents"], mesh, _SIZE.value)
            points += measured(system, varied, own["rounds"])
    slopes = {
        f"{program} per {varied[:-1]}": slope(points, varied, program)
        for varied in VARIED
        for program in ("think", "decode")
        if len([p for p in points if (p.varied, p.program) == (varied, program)]) > 1
    }
    print(aligned([HEADER, *map(_cells, points)]))
    rows = [[name, *(f"{value:+.3f} s" for value in own.values())] for name, own in slopes.items()]
    print(f"\n{aligned([['slope', 'lowering', 'compiling', 'CPU'], *rows])}")
    facts = {
        "benchmark": "compile_time",
        "device": jax.devices()[0].device_kind,
        "mesh": dict(mesh.shape),
        **{f.name: f.value for f in (_SIZE, _ROWS, _PROMPT, _STEPS, _REPEATS)},
        "points": [dataclasses.asdict(point) for point in points],
        "slopes": slopes,
    }
    if path is not None:
        atomic_write_json(path, facts)
    print(json.dumps(facts))


def measured(system: AbstractSystem, varied: str, rounds: int) -> list[Point]:
    """Both programs of a system, compiled anew; a chunk depends on the output agent alone."""
    topology = system.topology
    sizes = {"rows": _ROWS.value, "tokens": _PROMPT.value}
    facts = (len(system.spec.model(topology.output).layers), rounds, len(topology.agents))

    def think() -> Program:
        return programs.think(system, steps=_STEPS.value, rounds=rounds, **sizes)

    started = think().outputs[0]
    state = programs.widen(system, started, size=1).outputs

    def decode() -> Program:
        return programs.decode_chunk(system, topology.output, state, Sampling())

    makers = {"think": think, "decode": decode} if varied == "layers" else {"think": think}
    found = []
    for name, make in makers.items():
        times = [_times(make) for _ in range(_REPEATS.value)]
        operations = count_operations(make().lowered.as_text())
        least = (min(own) for own in zip(*times, strict=True))
        found.append(Point(varied, name, *facts, operations, *least))
    return found


def _times(make: Any) -> tuple[float, float, float]:
    """Seconds of lowering and of compiling a program, and the CPU seconds of both."""
    jax.clear_caches()
    with no_compile_cache():
        began, worked = time.perf_counter(), time.process_time()
        program = make()
        lowered = time.perf_counter()
        _ = program.compiled
        return lowered - began, time.perf_counter() - lowered, time.process_time() - worked


def slope(points: Sequence[Point], varied: str, program: str) -> dict[str, float]:
    """Seconds for each one more of what is varied, by least squares: of each time."""
    own = [p for p in points if (p.varied, p.program) == (varied, program)]
    at = [getattr(p, varied) for p in own]
    return {
        name: float(np.polyfit(at, [getattr(p, name) for p in own], 1)[0])
        for name in ("lowering", "compiling", "cpu")
    }


HEADER = ["varied", "program", "layers", "rounds", "agents", "operations", "lowering", "compiling"]
HEADER += ["CPU"]


def _cells(point: Point) -> list[str]:
    *facts, lowering, compiling, cpu = dataclasses.astuple(point)
    return [*map(str, facts), *(f"{seconds:.2f} s" for seconds in (lowering, compiling, cpu))]


if __name__ == "__main__":
    app.run(main)
