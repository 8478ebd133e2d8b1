"""Trains the links of the whole system, from the inner links in the same workdir.

  python -m experiments.train_outer --config=CONFIG.py --workdir=runs/tiny

Objectives: `align`, `rollout`, `teacher_forced`, `hop`, `distill`, alone or weighted together, as
in --config.objective="align:1.0,rollout:0.1". Writes `outer/{links,checkpoints,metrics.jsonl}`.
Killed, it resumes from its newest checkpoint when the same command is given again; SIGTERM, SIGHUP
and Ctrl-C save one first. `--config.plan` prints what a step needs of each device of the mesh,
with `--config.topology=v5e:2x4` by the compiler for TPUs; it exits with 3 where it does not fit.
"""

from absl import flags

from experiments import app, plans
from rmas.experiment import Experiment

_LINKS = flags.DEFINE_string(
    "links",
    None,
    "Folder of links to start from, as WORKDIR/outer/links: inner and outer ones, or one of both "
    "(default: inner links of the workdir, outer ones as links.init says).",
)


def main(_: list[str]) -> int | None:
    """Trains all links, or prints the plan."""
    settings, workdir = app.settings_and_workdir()
    if app.asks_for("plan"):
        return plans.show_plan(settings, workdir, "outer")
    app.start()
    run = Experiment(settings, workdir)
    run.train_outer(_LINKS.value)
    app.say(f"links: {workdir / 'outer' / 'links'}")
    return None


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        pod=True,
        dry=("plan",),
    )
