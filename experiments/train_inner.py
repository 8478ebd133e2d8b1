"""Trains the inner link of every agent: hidden states to the agent's own embeddings.

  python -m experiments.train_inner --config=CONFIG.py --workdir=runs/tiny
  python -m experiments.train_inner --config=CONFIG.py --config.plan

Writes `inner/<agent>/{links,checkpoints,metrics.jsonl,timings.jsonl}` and TensorBoard's files in
the workdir. Killed, it goes on from its newest checkpoint when the same command is given again; a
SIGTERM saves one first (exit status 143). `--config.plan` tells what a step needs of each device.
"""

from absl import flags

from experiments import app, plan, stages
from experiments.assembly import Assembly
from experiments.settings import Settings

_AGENTS = flags.DEFINE_list("agents", [], "Agents to train, with commas; all if not given.")


def main(_: list[str]) -> None:
    config, workdir = app.config_from_flags()
    settings = app.freeze(config, Settings)
    if settings.plan:
        print(plan.describe(Assembly(settings, workdir), "inner"))
        return
    app.start()
    stages.inner_stage(Assembly(settings, workdir), _AGENTS.value)
    app.say(f"links: {workdir / 'inner'}")


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        pod=True,
        dry=("plan",),
        settings=Settings,
    )
