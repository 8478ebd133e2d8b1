"""Compares methods on fresh questions: latent recursion, text exchange, single agents, controls.

  python -m experiments.evaluate --config=CONFIG.py --workdir=runs/tiny

Writes `evaluate/records.jsonl` (one line per question and method), `timings.jsonl` and
`summary.json` in the workdir, and prints a table with 95 % intervals. Killed, it goes on where
it was when the same command is given again, and ends with the same records.
"""

from pathlib import Path

from absl import flags

from experiments import app, stages
from experiments.assembly import Assembly
from experiments.settings import Settings
from rmas import parallel
from rmas.evaluation.report import table

_LINKS = flags.DEFINE_string(
    "links", None, "Folder of trained links (default: WORKDIR/outer/links)."
)


def main(_: list[str]) -> None:
    config, workdir = app.config_from_flags()
    settings = app.freeze(config, Settings)
    parallel.start()
    links = Path(_LINKS.value) if _LINKS.value else None
    print(table(stages.evaluate_stage(Assembly(settings, workdir), links)))
    print(f"summary: {workdir / 'evaluate' / 'summary.json'}")


if __name__ == "__main__":
    app.run(main, config="experiments/configs/tiny_sequential.py")
