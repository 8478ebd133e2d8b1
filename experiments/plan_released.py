"""The table of released systems on TPU slices: fits or not, mesh, memory and estimated times.

  python -m experiments.plan_released --out=runs/plans.jsonl
  python -m experiments.plan_released --styles=sequential_light --slices=v5e:2x4 --stages=evaluate

Nothing is loaded or downloaded, and no TPU is needed: the compiler for TPUs compiles every program
(pip install '.[tpu]'). That takes minutes for an evaluation and ten or more for a step of outer
training, of one core. Every cell is a line of the file as soon as it is done; the same command goes
on after a stop, and prints the table of the cells that it names. Cells of other versions of rmas,
jax or libtpu are planned again; after a change of the code, name another file.
"""

import time
from typing import Any

import jax
from absl import flags

import rmas
from experiments import app, plans
from experiments import config as configs
from experiments.benchmarks.program_times import say
from experiments.plan_cells import append, key, read, table
from rmas import parallel
from rmas.errors import InputError
from rmas.experiment import Experiment, Settings
from rmas.experiment.plan_stage import BatchError
from rmas.experiment.planning import STAGES, devices_of
from rmas.parallel.slices import compiler_version, parse_slice
from rmas.places import expanded
from rmas.system.styles import STYLES
from rmas.training.objectives import parse_objective

_STYLES = flags.DEFINE_list("styles", sorted(STYLES), "Released systems.")
_SLICES = flags.DEFINE_list(
    "slices", ["v5e:2x4", "v5e:4x4", "v4:2x2x4", "v6e:2x4"], "TPU slices, as in v5e:2x4."
)
_STAGES = flags.DEFINE_list("stages", ["evaluate", "outer"], f"Of {', '.join(STAGES)}.")
_MESH = flags.DEFINE_string("mesh", "auto", "Mesh of every cell.")
_BATCH = flags.DEFINE_integer("batch", 8, "Rows of a step of training.", 1)
_QUESTIONS = flags.DEFINE_integer("questions", 32, "Questions that are answered together.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds.", 1)
_OBJECTIVE = flags.DEFINE_string("objective", "teacher_forced", "Of outer training.")
_REMAT = flags.DEFINE_enum("remat", "layers", ["turns", "layers"], "Activation checkpointing.")
_QUANTIZE = flags.DEFINE_enum("quantize", "none", ["none", "int8"], "Type of the matrices.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 512, "Of a prompt with its question.", 1)
_TEXT = flags.DEFINE_integer("text_tokens", 256, "Of a role's text.", 1)
_OUT = flags.DEFINE_string("out", "runs/plans.jsonl", "File of the cells, one a line.")
_MARKDOWN = flags.DEFINE_boolean("markdown", False, "Print the table as a page has it.")


def main(_: list[str]) -> None:
    """Plans the cells that the file lacks, and prints the table."""
    for style in _STYLES.value:
        if style not in STYLES:
            raise InputError(f"--styles names {style!r}; known: {', '.join(sorted(STYLES))}")
    for stage in _STAGES.value:
        if stage not in STAGES:
            raise InputError(f"--stages names {stage!r}; known: {', '.join(STAGES)}")
    parallel.parse_mesh(_MESH.value)
    parse_objective(_OBJECTIVE.value)
    path = expanded(_OUT.value)
    done, half = read(path)
    asked = [
        cell_of(stage, str(parse_slice(text)), style)
        for stage in _STAGES.value
        for text in _SLICES.value
        for style in _STYLES.value
    ]
    if not asked:
        raise InputError("--styles, --slices and --stages must name at least one each")
    # What cannot be planned is no result of a cell.
    plans.prepare(_MESH.value, _SLICES.value[0])
    for cell in asked:
        devices_of(cell["stage"], cell["mesh"], parse_slice(cell["slice"]))
        settings_of(cell)
    if any(key(cell) not in done for cell in asked):
        plans.check_writable("--out=", path)
        with path.open("a+", encoding="utf-8") as file:
            for n, cell in enumerate(asked, 1):
                if key(cell) in done:
                    continue
                say(f"{n} of {len(asked)}: {cell['stage']}, {cell['slice']}, {cell['style']}")
                done[key(cell)] = plan(cell)
                append(file, cell, done[key(cell)], half)
                jax.clear_caches()  # those of one cell take gigabytes
    print(table([(cell, done[key(cell)]) for cell in asked], _MARKDOWN.value))


def cell_of(stage: str, topology: str, style: str) -> dict[str, Any]:
    """All that a cell depends on, the versions of this library and of the compiler among it."""
    own = {"rounds": _ROUNDS.value, "prompt_tokens": _PROMPT.value, "text_tokens": _TEXT.value}
    if stage == "evaluate":
        own |= {"batch": _QUESTIONS.value}
    else:
        own |= {"batch": _BATCH.value}
    if stage == "outer":
        own |= {"objective": _OBJECTIVE.value, "remat": _REMAT.value}
    shared = {"mesh": _MESH.value, "quantize": _QUANTIZE.value}
    versions = {"rmas": rmas.__version__, "jax": jax.__version__, "libtpu": compiler_version()}
    return {"stage": stage, "slice": topology, "style": style, **own, **shared, **versions}


def plan(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's plan as plain values, and the seconds that it took."""
    began, stage = time.monotonic(), cell["stage"]
    run = Experiment(settings_of(cell), "plans")
    lengths = (cell["prompt_tokens"], cell["text_tokens"])
    try:
        found = run.plan(stage, *lengths, topology=cell["slice"], compiled=1).to_dict()
    except BatchError as error:
        found = {"problem": str(error), "fits": False}
    return {"plan": found, "seconds": round(time.monotonic() - began, 1)}


def settings_of(cell: dict[str, Any]) -> Settings:
    """The release's settings for MATH-500, as the cell changes them."""
    path = configs.ROOT / "experiments" / "configs" / "released.py"
    config = configs.load(f"{path}:{cell['style']},math500")
    config.mesh, config.quantize = cell["mesh"], cell["quantize"]
    if cell["stage"] == "evaluate":
        config.evaluate.rounds, config.evaluate.methods = (cell["rounds"],), ("latent",)
        config.evaluate.batch_size = cell["batch"]
    else:
        config[cell["stage"]].batch_size = cell["batch"]
        config.outer.rounds = cell["rounds"]
    if cell["stage"] == "outer":
        config.objective, config.outer.remat = cell["objective"], cell["remat"]
    return configs.settings_of(config)


if __name__ == "__main__":
    app.run(main)
