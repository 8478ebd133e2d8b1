"""Makes training rows from questions and answers, by the texts of agents that came out right.

  python -m experiments.make_rows --config=my.py --workdir=runs/rows \\
      --config.evaluate.data=questions.jsonl --config.evaluate.rollouts=4 \\
      --config.sampling.temperature=0.6

The agents exchange texts over the questions of `evaluate.data` (rows without texts), for as many
rounds as training has (`outer.rounds`). A question that is answered wrong is asked again, up to
`evaluate.rollouts` times, with other random keys. What was right is written to `rows/rows.jsonl`
in the workdir, every attempt to `rows/attempts.jsonl`. Killed, it resumes where it was when the
same command is given again. Then train in another workdir with
--config.data.name=WORKDIR/rows/rows.jsonl.
"""

from experiments import app
from rmas import parallel
from rmas.experiment import Experiment


def main(_: list[str]) -> None:
    """Makes rows and says how many."""
    settings, workdir = app.settings_and_workdir()
    parallel.start()
    made, asked, path = Experiment(settings, workdir).make_rows()
    print(f"{made} of {asked} questions gave rows: {path}")


if __name__ == "__main__":
    app.run(main, config="experiments/configs/tiny_sequential.py")
