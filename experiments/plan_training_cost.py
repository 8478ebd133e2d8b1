"""What a step costs where links, LoRA adapters or all weights are trained, on one TPU slice.

  python -m experiments.plan_training_cost --out=runs/training_cost.jsonl
  python -m experiments.plan_training_cost --slice=v6e:2x4 --mesh=fsdp=8 --ways=links,full

Nothing is loaded, and no TPU is needed: the compiler for TPUs (pip install '.[tpu]') compiles the
step of outer training of a released system, minutes each. Loss, rows and optimizer are the same in
all ways. `links` trains the RecursiveLinks, `lora` an adapter beside every matrix of every agent's
layers, `full` all weights of all agents; in the last two, links stay as they start. Frozen weights
are bfloat16; what is trained and both of AdamW's moments are float32, but bfloat16 in
`full_bfloat16`. Memory is the compiler's. Times are its cycles, without exchanges between devices,
asynchronous copies and sorts: estimates, nothing was measured.

With `--nocompile` it only counts what is held between steps, which takes seconds.

Every way is a line of the file as soon as it is done; the same command goes on after a stop. After
a change of the code, name another file.
"""

import time
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

import rmas
from experiments import app, plans
from experiments import config as configs
from experiments.benchmarks.program_times import say
from experiments.benchmarks.training_costs import (
    WAYS,
    Lora,
    check_ways,
    count_of,
    make_trainable,
    planned_table,
)
from experiments.plan_cells import append, key, read
from rmas import parallel
from rmas.errors import InputError
from rmas.experiment import Experiment
from rmas.experiment.outline import published_outline
from rmas.experiment.plan_stage import Stage
from rmas.experiment.planning import devices_of
from rmas.parallel.slices import compiler_version, parse_slice
from rmas.places import expanded
from rmas.plans import arguments, hlo
from rmas.plans.arguments import device_bytes
from rmas.plans.programs import TooLargeError
from rmas.plans.training_steps import system_step
from rmas.system.styles import STYLES
from rmas.training import optim as optimizers
from rmas.training.objectives import Lengths, parse_objective
from rmas.training.step import init_train_state, shardings_of
from rmas.training.trainable import Trainable

_STYLE = flags.DEFINE_enum("style", "sequential_light", sorted(STYLES), "The released system.")
_SLICE = flags.DEFINE_string("slice", "v5p:1x1x1", "TPU slice.")
_MESH = flags.DEFINE_string("mesh", "data=1", "Mesh of its devices, with all sizes.")
_WAYS = flags.DEFINE_list("ways", list(WAYS), "What is trained.")
_RANK = flags.DEFINE_integer("rank", 16, "Of LoRA adapters.", 1)
_BATCH = flags.DEFINE_integer("batch", 8, "Rows of a step.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds.", 1)
_OBJECTIVE = flags.DEFINE_string("objective", "teacher_forced", "Of training.")
_REMAT = flags.DEFINE_enum("remat", "layers", ["turns", "layers"], "Activation checkpointing.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 512, "Of a prompt with its question.", 1)
_TEXT = flags.DEFINE_integer("text_tokens", 256, "Of a role's text.", 1)
_COMPILE = flags.DEFINE_boolean("compile", True, "Else only what is held between steps, at once.")
_OUT = flags.DEFINE_string("out", "runs/training_cost.jsonl", "File of the cells, one a line.")


def main(_: list[str]) -> None:
    """Plans the ways that the file lacks, and prints the table."""
    check_ways(_WAYS.value)
    asked_mesh = parallel.parse_mesh(_MESH.value)
    if asked_mesh.auto or -1 in asked_mesh.sizes:
        raise InputError(f"--mesh={_MESH.value} leaves sizes open; name them, as in fsdp=8")
    parse_objective(_OBJECTIVE.value)
    path = expanded(_OUT.value)
    done, half = read(path) if _COMPILE.value else ({}, b"")
    asked = [cell_of(way) for way in _WAYS.value]
    plans.prepare(_MESH.value, _SLICE.value)
    devices_of("outer", _MESH.value, parse_slice(_SLICE.value))
    if not _COMPILE.value:
        shapes = {}
        for cell in asked:
            on = stage_of(cell)
            shapes[cell["way"]] = held(on, trainable_of(on, cell))
        print(planned_table(shapes))
        return
    if any(key(cell) not in done for cell in asked):
        plans.check_writable("--out=", path)
        with path.open("a+", encoding="utf-8") as file:
            for cell in asked:
                if key(cell) not in done:
                    say(f"compiling a step: {cell['way']}")
                    began = time.monotonic()
                    found = plan(cell)
                    done[key(cell)] = {"plan": found, "seconds": round(time.monotonic() - began, 1)}
                    append(file, cell, done[key(cell)], half)
                    jax.clear_caches()
    print(planned_table({cell["way"]: done[key(cell)]["plan"] for cell in asked}))


def cell_of(way: str) -> dict[str, Any]:
    """All that a way's figures depend on."""
    names = (_STYLE, _SLICE, _MESH, _RANK, _BATCH, _ROUNDS, _OBJECTIVE, _REMAT, _PROMPT, _TEXT)
    versions = {"rmas": rmas.__version__, "jax": jax.__version__, "libtpu": compiler_version()}
    return {"way": way, **{flag.name: flag.value for flag in names}, **versions}


def trainable_of(on: Stage, cell: Mapping[str, Any]) -> Trainable:
    """What the cell's way trains, as shapes on the stage's mesh."""
    return make_trainable(
        cell["way"],
        on.context,
        on.params,
        on.system.links,
        on.mesh,
        parts=on.given.outer.train,
        lora=Lora(cell["rank"], 2 * cell["rank"]),
    )


def held(on: Stage, what: Trainable) -> dict[str, Any]:
    """Numbers of parameters, and the bytes of a device that are held between steps."""
    optimizer = optimizers.make(on.schedule.optim)
    state = jax.eval_shape(lambda links: init_train_state(links, optimizer), what.template)
    shardings = shardings_of(on.mesh, state, optimizer, what.shardings)
    state = jax.tree.map(arguments.placed, state, shardings)
    return {
        "trained": count_of(what.template),
        "weights": count_of(dict(on.params)),
        "frozen_bytes": device_bytes(what.frozen),
        "trained_bytes": device_bytes(state.links),
        "optimizer_bytes": device_bytes(state.opt_state),
    }


def plan(cell: Mapping[str, Any]) -> dict[str, Any]:
    """What is held, and the compiled step's peak and estimated seconds."""
    on = stage_of(cell)
    what = trainable_of(on, cell)
    found = held(on, what)
    program = system_step(
        on.context,
        parse_objective(cell["objective"]),
        what,
        schedule=on.schedule,
        rounds=cell["rounds"],
        lengths=on.lengths,
        mesh=on.mesh,
    )
    try:
        memory = program.memory
    except TooLargeError as error:
        return found | {"fits": False, "problem": str(error), "peak": error.needed}
    return found | {
        "fits": True,
        "peak": memory.peak,
        "temporaries": memory.temporaries,
        "step": on.seconds(hlo.total_cycles(program.text)),
    }


def stage_of(cell: Mapping[str, Any]) -> Stage:
    """Outer training of the release's system on the slice, as the cell has it."""
    path = configs.ROOT / "experiments" / "configs" / "released.py"
    config = configs.load(f"{path}:{cell['style']},math500")
    config.objective, config.outer.remat = cell["objective"], cell["remat"]
    config.outer.batch_size, config.outer.rounds = cell["batch"], cell["rounds"]
    run = Experiment(configs.settings_of(config), "plans")
    outline = published_outline(run.settings) or run.outline
    found = parse_slice(cell["slice"])
    group = devices_of("outer", cell["mesh"], found)
    stage = Stage(
        run.settings,
        outline,
        "outer",
        Lengths(cell["prompt_tokens"], cell["text_tokens"]),
        jax.numpy.dtype("bfloat16"),
        parallel.make_mesh(group.asked, group.devices),
        found.chip,
        found.chip.usable_bytes,
    )
    stage.check_batch()
    return stage


if __name__ == "__main__":
    app.run(main)
