"""Reads latent thoughts: the tokens nearest to every thought and message, and a picture.

  python -m experiments.read_latents --workdir=runs/quickstart

Runs the trained system of the workdir (the config must be the one that it was trained with) and
prints, per round, agent and latent step, the tokens of the agent's vocabulary that the thought is
nearest to, with the cosine; for messages, the tokens of the reader's. It shows the first question
of the evaluation's split, or the one of --question. `latents.json` in WORKDIR/latents holds the
same for the first --questions questions; `latents.png` shows how their thoughts move over rounds.
"""

import json

from absl import flags

from experiments import app
from rmas import parallel
from rmas.errors import InputError
from rmas.evaluation.latent_plots import plot_latents
from rmas.evaluation.latents import facts, read_thoughts, table
from rmas.experiment import Experiment
from rmas.experiment.answering import trained_system
from rmas.files import atomic_write_text
from rmas.system.answers import Question

_LINKS = flags.DEFINE_string(
    "links", None, "Folder of trained links (default: WORKDIR/outer/links)."
)
_QUESTION = flags.DEFINE_string("question", None, "Your own question (then there is no picture).")
_QUESTIONS = flags.DEFINE_integer("questions", 64, "Questions in file and picture.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", None, "Rounds (default: those of training).", 1)
_TOP = flags.DEFINE_integer("top", 3, "Tokens to name for each thought.", 1)


def main(_: list[str]) -> None:
    """Prints what thoughts are near to, and draws them."""
    settings, workdir = app.settings_and_workdir()
    parallel.start()
    run = Experiment(settings, workdir)
    if _QUESTION.value is not None:
        asked = [Question("asked", _QUESTION.value)]
    else:
        rows = run.data.asked[: _QUESTIONS.value]
        asked = [Question(row.id, row.question) for row in rows]
    system = trained_system(run, _LINKS.value)
    answers, thoughts = system.think(asked, _ROUNDS.value or settings.outer.rounds)
    readings = read_thoughts(system.system, system.links, system.form, thoughts, _TOP.value)
    print(table(readings, asked[0], answers[0]))
    folder = workdir / "latents"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / "latents.json", json.dumps(facts(readings, asked, answers)))
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    made = [folder / "latents.json"]
    if _QUESTION.value is None:
        made.append(folder / "latents.png")
        plot_latents(thoughts, made[-1])
    print("written: " + ", ".join(map(str, made)))


if __name__ == "__main__":
    app.run(
        main,
        config="experiments/configs/tiny_sequential.py",
        workdir="runs/quickstart",
        resumes=False,
    )
