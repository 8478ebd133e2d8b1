"""Makes training rows from questions and answers, by the texts of agents that came out right.

  python -m experiments.make_rows --config=my.py --workdir=runs/rows \
      --config.evaluate.rollouts=4 --config.evaluate.temperature=0.6

The agents exchange texts over the rows of --split (which need no texts of their own), for as many
rounds as training takes (`outer.rounds`). A question that is answered wrong is asked again, up to
`evaluate.rollouts` times, with other random keys. Lengths are those of `evaluate`. What was right
is written to `rows/rows.jsonl` in the workdir, every try to `rows/tries.jsonl`. Killed, it goes on
where it was when the same command is given again. Then train in another workdir with
--config.data.name=WORKDIR/rows/rows.jsonl.
"""

from absl import flags

from experiments import app, stages
from experiments.assembly import Assembly
from experiments.settings import Settings
from rmas import parallel

_SPLIT = flags.DEFINE_string("split", "train", "Whose questions are asked.")


def main(_: list[str]) -> None:
    config, workdir = app.config_from_flags()
    config.evaluate.split = _SPLIT.value
    settings = app.freeze(config, Settings)
    parallel.start()
    made, asked, path = stages.rows_stage(Assembly(settings, workdir))
    print(f"{made} of {asked} questions gave rows: {path}")


if __name__ == "__main__":
    app.run(main, config="experiments/configs/tiny_sequential.py", settings=Settings)
