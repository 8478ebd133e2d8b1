"""Trains the inner link of every agent: hidden states to the agent's own embeddings.

  python -m experiments.train_inner --config=CONFIG.py --workdir=runs/tiny
  python -m experiments.train_inner --config=CONFIG.py --config.plan

Writes `inner/<agent>/{links,checkpoints,metrics.jsonl,timings.jsonl}` and TensorBoard's files in
the workdir. Killed, it resumes from its newest checkpoint when the same command is given again;
SIGTERM, SIGHUP and Ctrl-C save one first. `--config.plan` prints what a step needs of each device,
with `--config.topology=v5e:2x4` by the compiler for TPUs; it exits with 3 where it does not fit.
"""

from absl import flags

from experiments import app, plans
from rmas.experiment import Experiment

_LINKS = flags.DEFINE_string(
    "links",
    None,
    "Folder of links to start from, as WORKDIR/outer/links (default: as links.init says).",
)
_AGENTS = flags.DEFINE_list("agents", [], "Agents to train, with commas; all if not given.")


def main(_: list[str]) -> int | None:
    """Trains inner links, or prints the plan."""
    settings, workdir = app.settings_and_workdir()
    if app.asks_for("plan"):
        return plans.show_plan(settings, workdir, "inner")
    app.start()
    run = Experiment(settings, workdir)
    run.train_inner(_AGENTS.value, _LINKS.value)
    app.say(f"links: {workdir / 'inner'}")
    return None


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        pod=True,
        dry=("plan",),
    )
