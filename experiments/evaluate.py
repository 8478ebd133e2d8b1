"""Compares methods on fresh questions: latent recursion, text exchange, single agents, controls.

  python -m experiments.evaluate --config=CONFIG.py --workdir=runs/tiny
  python -m experiments.evaluate --config=CONFIG.py --workdir=runs/tiny --config.dry_run
  python -m experiments.evaluate --workdir=runs/math500 \\
      --config=experiments/configs/released.py:sequential_light,math500 \\
      --config.system.root=DIR --config.system.prompts=release.json

Writes `evaluate/records.jsonl` (one line per question and method), `timings.jsonl` and
`summary.json` in the workdir, and prints a table with 95 % intervals; experiments.report makes
more of them. Killed, it resumes where it was when the same command is given again, and ends with
the same records. `--config.dry_run` prints what would be done, and loads no weights.

`--config.plan` prints what thinking and decoding need of each device, and with a slice, as in
`--config.topology=v5e:2x4`, what the compiler for TPUs says, with times; the exit status is 3 where
they do not fit.
"""

from absl import flags

from experiments import app, plans
from rmas.evaluation.tables import table
from rmas.experiment import Experiment

_LINKS = flags.DEFINE_string(
    "links", None, "Folder of trained links (default: WORKDIR/outer/links)."
)


def main(_: list[str]) -> int | None:
    """Evaluates, or describes what would be done."""
    settings, workdir = app.settings_and_workdir()
    if app.asks_for("plan"):
        return plans.show_plan(settings, workdir, "evaluate")
    app.start()
    run = Experiment(settings, workdir)
    if app.asks_for("dry_run"):
        app.say(run.dry_run(_LINKS.value))
        return None
    app.after_training()
    app.say(table(run.evaluate(_LINKS.value)))
    app.say(f"summary: {workdir / 'evaluate' / 'summary.json'}")
    return None


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        pod=True,
        dry=("dry_run", "plan"),
    )
