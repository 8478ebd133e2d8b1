"""Shows what happened to one question: its text, the agents' texts, tools, counts, and the outcome.

  python -m experiments.show_run runs/quickstart --id=relay-000017

Without --id it shows the first question. All methods and rounds of the file are shown, or those
that --method and --rounds name.
"""

from absl import flags

from experiments import app
from rmas.errors import InputError
from rmas.evaluation.layout import FOLDER, RECORDS
from rmas.evaluation.show import choose, read_question, read_records, render, render_question
from rmas.places import expanded

_ID = flags.DEFINE_string("id", "", "Question to show (default: the first of the file).")
_METHOD = flags.DEFINE_string("method", "", "Only this method, as latent or single:planner.")
_ROUNDS = flags.DEFINE_integer("rounds", 0, "Only so many rounds; 0 shows all.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Prints recorded questions turn by turn."""
    if len(argv) < 2:
        raise InputError("name a workdir or its records, as runs/quickstart")
    path = expanded(argv[1])
    if path.is_dir():
        path = path / FOLDER / RECORDS
    chosen = choose(read_records(path), _ID.value, _METHOD.value, _ROUNDS.value)
    question = read_question(path, chosen[0]["id"])
    print("\n\n".join([*([render_question(question)] if question else []), *map(render, chosen)]))


if __name__ == "__main__":
    app.run(main, words=1)
