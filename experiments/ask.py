"""Asks a trained system questions, one by one.

  python -m experiments.ask --workdir=runs/quickstart "start 4 ; one add 14 mul 6 mix 10 ; ..."

Without a question it reads them from the keyboard, a line each, until Ctrl-D; each is answered for
itself. The answer is shown as it is written, and before it the rounds as they pass; at the end what
each agent read, thought and wrote. Ctrl-C stops the answer, not the program. --method=text lets the
agents exchange texts instead of thoughts, and shows these.
"""

import dataclasses

from absl import flags

from experiments import app
from experiments.conversation import Session, converse
from rmas import parallel
from rmas.experiment import Experiment
from rmas.experiment.answering import trained_system

_LINKS = flags.DEFINE_string(
    "links", None, "Folder of trained links (default: WORKDIR/outer/links)."
)
_METHOD = flags.DEFINE_enum("method", "latent", ["latent", "text"], "What agents exchange.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "Rounds (default: those of training).", 1)


def main(argv: list[str]) -> None:
    """Answers the question of the command line, or those that are typed."""
    settings, workdir = app.settings_and_workdir()
    parallel.start()
    one = dataclasses.replace(settings.evaluate, batch_size=1)
    settings = dataclasses.replace(settings, evaluate=one)
    latent = _METHOD.value == "latent"
    system = trained_system(Experiment(settings, workdir), _LINKS.value, needs_links=latent)
    session = Session(system, _METHOD.value, _ROUNDS.value or settings.outer.rounds)
    if len(argv) > 1:
        session.ask(argv[1])
    else:
        converse(session)


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        workdir="runs/quickstart",
        words=1,
        resumes=False,
    )
