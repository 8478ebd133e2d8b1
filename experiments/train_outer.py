"""Trains the links of the whole system, from the inner links in the same workdir.

  python -m experiments.train_outer --config=CONFIG.py --workdir=runs/tiny

Objectives: `align`, `rollout`, `teacher_forced`, alone or weighted together, as in
--config.objective="align:1.0,rollout:0.1". Writes `outer/{links,checkpoints,metrics.jsonl}`.
Killed, it goes on from its newest checkpoint when the same command is given again; a SIGTERM saves
one first (exit status 143). `--config.plan` tells what a step needs of each device of the mesh.
"""

from experiments import app, plan, stages
from experiments.assembly import Assembly
from experiments.settings import Settings


def main(_: list[str]) -> None:
    config, workdir = app.config_from_flags()
    settings = app.freeze(config, Settings)
    if settings.plan:
        print(plan.describe(Assembly(settings, workdir), "outer"))
        return
    app.start()
    stages.outer_stage(Assembly(settings, workdir))
    app.say(f"links: {workdir / 'outer'}")


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        pod=True,
        dry=("plan",),
        settings=Settings,
    )
