"""Trains the links of the whole system, from the inner links in the same workdir.

  python -m experiments.train_outer --config=CONFIG.py --workdir=runs/tiny

Objectives: `align`, `rollout`, `teacher_forced`, alone or weighted together, as in
--config.objective="align:1.0,rollout:0.1". Writes `outer/{links,checkpoints,metrics.jsonl}`.
Killed, it resumes from its newest checkpoint when the same command is given again; SIGTERM, SIGHUP
and Ctrl-C save one first. `--config.plan` prints what a step needs of each device of the mesh.
"""

from experiments import app
from rmas.experiment import Experiment
from rmas.experiment.planning import prepare_devices


def main(_: list[str]) -> None:
    """Trains all links, or prints the plan."""
    settings, workdir = app.settings_and_workdir()
    if app.asks_for("plan"):
        prepare_devices(settings.mesh)
        print(Experiment(settings, workdir).plan("outer", *app.plan_lengths()))
        return
    app.start()
    run = Experiment(settings, workdir)
    run.train_outer()
    app.say(f"links: {workdir / 'outer' / 'links'}")


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        pod=True,
        dry=("plan",),
    )
