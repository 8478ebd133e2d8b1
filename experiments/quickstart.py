"""RecursiveMAS at work on a laptop: three tiny agents learn to think together in latent space.

  python -m experiments.quickstart --workdir=runs/quickstart

Trains the links of the embedded system, compares latent recursion with text exchange, single
agents and untrained links at 1 to 3 rounds on fresh questions, prints the table, and writes
`summary.json`, `accuracy_rounds.png` and `accuracy_tokens.png` in the workdir. It takes a few
minutes on two CPU cores; killed, it resumes where it was when the same command is given again.
"""

import time
from importlib import metadata
from pathlib import Path

import jax
from absl import flags

from experiments import app
from rmas import __version__
from rmas.errors import InputError
from rmas.evaluation import plots
from rmas.evaluation.results import ResultRow
from rmas.evaluation.tables import table
from rmas.experiment import Experiment
from rmas.files import atomic_write_json, read_json
from rmas.parallel import is_first

_SEED = flags.DEFINE_integer(
    "seed", None, "Seed of data, links and evaluation questions; short for --config.seed."
)
SUMMARY = "summary.json"
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")


def main(_: list[str]) -> None:
    """Trains, evaluates, and prints the table."""
    changes = {} if _SEED.value is None else {"seed": _SEED.value}
    settings, workdir = app.settings_and_workdir(**changes)
    app.start()
    if not plots.can_draw():
        raise InputError("matplotlib is missing, the plots need it: pip install -e '.[plots]'")
    run = Experiment(settings, workdir)
    run.check()  # what is wrong with the last stage is reported before the first
    before = _rows_of(workdir / SUMMARY)
    seconds = {}
    for name, stage in (
        ("inner", run.train_inner),
        ("outer", run.train_outer),
        ("evaluate", run.evaluate),
    ):
        app.say(f"== {name}")
        if name == "evaluate":
            app.after_training()
        began = time.perf_counter()
        rows = stage()
        seconds[name] = round(time.perf_counter() - began, 1)
    app.say(table(rows))
    if not is_first():
        return
    if rows == before:
        app.say(f"already done, nothing was run again; summary and plots: {workdir}")
        return
    atomic_write_json(workdir / SUMMARY, _summary(run, rows, seconds))
    plots.plot_rounds(rows, workdir / "accuracy_rounds.png")
    plots.plot_tokens(rows, workdir / "accuracy_tokens.png")
    app.say(f"summary and plots: {workdir}")
    app.say(
        f"next: python -m experiments.report {workdir}; python -m experiments.ask "
        f"--workdir={workdir}; python -m experiments.read_latents --workdir={workdir}"
    )


def _summary(run: Experiment, rows: list[ResultRow], seconds: dict[str, float]) -> dict:
    agents = {id(p): p for p in run.system.params().values()}
    frozen = sum(x.size for p in agents.values() for x in jax.tree.leaves(p))
    trainable = sum(x.size for x in jax.tree.leaves(run.outline.link_template))
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "rows": rows,
        "trainable_params": trainable,
        "total_params": frozen + trainable,
        "seconds": seconds,
        "seed": run.settings.seed,
        "versions": {"rmas": __version__, **versions},
    }


def _rows_of(path: Path) -> list[dict] | None:
    """The table of an earlier run of this folder, if one was finished."""
    try:
        return read_json(path)["rows"]
    except (InputError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    default = "experiments/configs/tiny_sequential.py"
    app.run(main, config=default, workdir="runs/quickstart", pod=True)
