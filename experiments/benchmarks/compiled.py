"""What the compiler for TPUs makes of a model's programs; no TPU is needed, and nothing runs.

  python -m experiments.benchmarks.compiled                            # Qwen3-1.7B on one v5e chip
  python -m experiments.benchmarks.compiled --rows=32 --parts=latent,prefill --weights=int8
  python -m experiments.benchmarks.compiled --topology=v5e:2x4 --mesh=data=4,tensor=2 --parts=outer

For each part, memory of a device (temporaries, and the peak with weights), the estimate (cycles
of the compiler times trip counts: exchanges, asynchronous copies and sorts are left out) beside the
floor (bytes over the memory's bandwidth, or operations over the peak), and what devices exchange:

  latent   a rollout: a latent step, and the cycles of one layer in it
  prefill  the prompt alone
  decode   a token: greedy, drawn from all, drawn with top-p
  outer    a step of outer training: three agents in sequence that share the weights, all rounds

Compiling takes a minute or so for each program, of one core; an outer step of several rounds takes
ten. `--size=small` and `--size=tiny` take seconds. A line of JSON ends the output.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from absl import flags

from experiments import app, plans
from experiments.benchmarks import random_system
from experiments.benchmarks.program_times import say
from experiments.benchmarks.words import check_words, numbers
from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.parallel.chips import Chip
from rmas.parallel.slices import describe_devices, parse_slice
from rmas.plans import estimates, hlo, programs, training_floors
from rmas.plans.arguments import AbstractSystem, device_bytes
from rmas.plans.floors import Share, Work
from rmas.plans.programs import Program, TooLargeError
from rmas.plans.training_steps import outer_step
from rmas.system import decode
from rmas.system.sampling import Sampling
from rmas.training import optim
from rmas.training.loop import Schedule
from rmas.training.objectives import Lengths, TrainingContext, parse_objective

PARTS = ("latent", "prefill", "decode", "outer")
_DRAWS = {
    "greedy token": Sampling(),
    "drawn token": Sampling(temperature=0.6),
    "top-p token": Sampling(temperature=0.6, top_p=0.95),
}

_MODEL = flags.DEFINE_string("model", "Qwen/Qwen3-1.7B", "Base model, or a folder with its config.")
_SIZE = flags.DEFINE_enum(
    "size", "full", ["full", "small", "tiny"], "As of benchmarks.accelerator."
)
_LAYERS = flags.DEFINE_integer("layers", 0, "Layers of the model that are kept; 0: all.", 0)
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:1x1", "A TPU slice, as in v5e:2x4.")
_MESH = flags.DEFINE_string("mesh", "single", "As of a run: data=4,tensor=2, or single.")
_PARTS = flags.DEFINE_list("parts", "latent,prefill,decode", f"Of {', '.join(PARTS)}.")
_WEIGHTS = flags.DEFINE_list("weights", "bfloat16,int8", "bfloat16, int8, or both.")
_ROWS = flags.DEFINE_list("rows", ["8"], "Numbers of rows of a batch.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 512, "Of a prompt.", 1)
_STEPS = flags.DEFINE_integer("latent_steps", 48, "Of a rollout.", 3)
_TEXT = flags.DEFINE_integer("text_tokens", 256, "Of an answer.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Recursion rounds of the outer step.", 1)
_OBJECTIVE = flags.DEFINE_string("objective", "rollout", "Of the outer step, as of a run.")


@dataclasses.dataclass(frozen=True)
class Figure:
    """What is read of one program; times in seconds, sizes in bytes of one device.

    `layer` are the cycles of one layer in a latent step, else None; exchanges are those of one run
    of the program.
    """

    what: str
    estimate: float
    floor: float
    layer: int | None
    temporaries: int
    peak: int
    calls: int
    exchanged: int


def main(_: list[str]) -> None:
    """Compiles the programs of a model, and prints what they need."""
    check_words("parts", _PARTS.value, PARTS)
    check_words("weights", _WEIGHTS.value, ("bfloat16", "int8"))
    all_rows = numbers("rows", _ROWS.value)
    parse_objective(_OBJECTIVE.value)  # before minutes of compiling
    plans.prepare(_MESH.value, _TOPOLOGY.value)
    found = parse_slice(_TOPOLOGY.value)
    devices = describe_devices(found)
    mesh = parallel.make_mesh(parallel.parse_mesh(_MESH.value), devices)
    model = random_system.model_spec(_MODEL.value, _SIZE.value, _LAYERS.value)
    table = [["weights", "rows", "what", "estimate", "floor", "ratio", "cycles a layer"]]
    table[0] += ["temporaries", "peak", "exchanges"]
    facts: list[dict[str, Any]] = []
    for weights in _WEIGHTS.value:
        system = random_system.sequential_system(model, mesh, jnp.bfloat16, weights == "int8")
        for rows in all_rows:
            if rows % parallel.batch_multiple(mesh):
                raise InputError(
                    f"--rows={rows}; on this mesh it must be a multiple of "
                    f"{parallel.batch_multiple(mesh)}"
                )
            for figure in figures(system, weights == "int8", rows, found.chip):
                table.append([weights, str(rows), *_cells(figure)])
                facts.append({"weights": weights, "rows": rows, **dataclasses.asdict(figure)})
    shape = ",".join(f"{axis}={n}" for axis, n in mesh.shape.items())
    print(aligned(table))
    name = "a packaged agent" if _SIZE.value == "tiny" else _MODEL.value
    print(f"\n{name} ({_SIZE.value}), {found}, mesh {shape}; by the compiler for TPUs")
    sizes = {f.name: f.value for f in (_PROMPT, _STEPS, _TEXT, _ROUNDS, _OBJECTIVE, _LAYERS)}
    what = {"benchmark": "compiled", "model": name, "size": _SIZE.value, **sizes}
    print(json.dumps({**what, "slice": str(found), "mesh": dict(mesh.shape), "rows": facts}))


def figures(system: AbstractSystem, int8: bool, rows: int, chip: Chip) -> Iterator[Figure]:
    """The figures of all parts that are asked for; a program that does not fit is named."""
    agent = system.topology.output
    model = system.spec.model(agent)
    link = device_bytes(system.links["inner"][agent])
    share = Share(model, system.mesh, rows, jnp.bfloat16, int8, link)
    sizes = {"rows": rows, "positions": _PROMPT.value}
    steps = _STEPS.value

    def latent() -> Iterator[Figure]:
        program = programs.rollout(system, agent, steps=steps, **sizes)
        step, layer = latent_cycles(program.text, steps, model.n_periods)
        work = share.latent_step(_PROMPT.value + steps / 2)
        own = round(layer / len(model.period)) or None
        yield _figure("latent step", program, step, work, chip, own)

    def prefill() -> Iterator[Figure]:
        program = programs.prefill(system, agent, **sizes)
        work = share.prefill(_PROMPT.value)
        yield _figure("prefill", program, hlo.total_cycles(program.text), work, chip)

    def token() -> Iterator[Figure]:
        start = programs.decode_start(system, agent, **sizes)
        state = programs.widen(system, start.outputs, size=_TEXT.value).outputs
        work = share.token(_PROMPT.value + _TEXT.value / 2)
        for what, sampling in _DRAWS.items():
            program = programs.decode_chunk(system, agent, state, sampling)
            yield _figure(what, program, estimates.per_token(program.text), work, chip)

    def outer() -> Iterator[Figure]:
        context = TrainingContext(system.topology, system.spec, steps, 1.0, 0.0)
        objective = parse_objective(_OBJECTIVE.value)
        own: dict[str, Any] = {
            "trained": ("inner", "outer"),
            "rounds": _ROUNDS.value,
            "lengths": Lengths(_PROMPT.value, _TEXT.value),
        }
        program = outer_step(
            context,
            objective,
            params=system.params,
            schedule=Schedule(optim.Optim(), batch_size=rows),
            mesh=system.mesh,
            **own,
        )
        shares = dict.fromkeys(system.topology.agents, share)
        work = training_floors.outer_step(context, objective, shares, **own)
        yield _figure("outer step", program, hlo.total_cycles(program.text), work, chip)

    for name, part in zip(PARTS, (latent, prefill, token, outer), strict=True):
        if name in _PARTS.value:
            say(f"compiling {name}: {rows} rows{', int8' * int8}")
            try:
                yield from part()
            except TooLargeError as error:
                say(f"does not fit: {error}")


def latent_cycles(text: str, steps: int, periods: int) -> tuple[int, int]:
    """Cycles of one latent step of a compiled rollout, and of one period of layers in it.

    The latter are 0 where there is only one, which has no loop.
    """
    step = layers = 0
    for nest in hlo.cycles(text):
        if nest.loops[:1] == (steps - 1,):
            step += nest.once * hlo.runs(nest.loops[1:])
            if nest.loops[1:] == (periods,):
                layers += nest.once
    if not step or (not layers and periods > 1):
        raise ValueError("the compiled text has no loop of latent steps over layers")
    return step, layers


def _figure(
    what: str,
    program: Program,
    cycles: int,
    work: Work,
    chip: Chip,
    layer: int | None = None,
) -> Figure:
    exchanges = estimates.exchanges(program.text, unknown=decode.CHUNK)
    return Figure(
        what=what,
        estimate=cycles / chip.clock_hz,
        floor=work.seconds(chip),
        layer=layer,
        temporaries=program.memory.temporaries,
        peak=program.memory.peak,
        calls=exchanges.calls,
        exchanged=exchanges.bytes,
    )


def _cells(figure: Figure) -> list[str]:
    return [
        figure.what,
        f"{1e3 * figure.estimate:.3f} ms",
        f"{1e3 * figure.floor:.3f} ms",
        f"{figure.estimate / figure.floor:.2f}",
        f"{figure.layer:,}" if figure.layer else "-",
        f"{figure.temporaries:,}",
        f"{figure.peak:,}",
        f"{figure.calls:,} of {figure.exchanged / 1e9:.3f} GB" if figure.calls else "-",
    ]


if __name__ == "__main__":
    app.run(main)
