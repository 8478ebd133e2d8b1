"""Questions that their grader cannot grade are refused before anything is loaded."""

import dataclasses
import json

import pytest

from rmas import Experiment, InputError
from rmas.experiment.methods import retry_of
from support.experiments import experiment, settings


@pytest.mark.parametrize(
    ("method", "grader", "answer", "words"),
    [
        ("evaluate", "mbpp", "4",
         r"mine\.jsonl, row q1: the grader mbpp needs a script of tests in the field meta\.script, "
         r"not None; change it, or name another grader in evaluate\.grader"),
        ("evaluate", "livecodebench", "4", r"needs tests, .* in the field meta\.public"),
        ("evaluate", "choice", "A", r"needs an object of options, .* in the field meta\.options"),
        ("evaluate", "integer", "1/2", "needs an integer in the field answer"),
        ("dry_run", "mbpp", "4", r"in the field meta\.script"),
        ("make_rows", "mbpp", "4", r"in the field meta\.script"),
        ("check", "mbpp", "4", r"in the field meta\.script"),
    ],
)  # fmt: skip
def test_rows_without_what_their_grader_needs(tmp_path, monkeypatch, method, grader, answer, words):
    rows = tmp_path / "mine.jsonl"
    asked = {"id": "q1", "question": "start 4 ; stop one ?", "answer": answer}
    rows.write_text(json.dumps(asked) + "\n")
    run = experiment(tmp_path / "run", evaluate__data=str(rows), evaluate__grader=grader)
    monkeypatch.setattr(Experiment, "system", property(lambda _: pytest.fail("loaded")))
    monkeypatch.setattr("rmas.tools.sandbox.Sandbox.detect", lambda **_: None)
    with pytest.raises(InputError, match=words) as error:
        getattr(run, method)()
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run" / "evaluate").exists()


def test_only_the_rows_that_are_asked_count(tmp_path):
    rows = tmp_path / "mine.jsonl"
    asked = [{"id": name, "question": "q", "answer": answer} for name, answer in ("a1", "bx")]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    changes = {"evaluate__data": str(rows), "evaluate__grader": "integer"}
    experiment(tmp_path / "one", num_questions=1, **changes).check()
    with pytest.raises(InputError, match="row b"):
        experiment(tmp_path / "both", **changes).check()


@pytest.mark.parametrize(
    ("style", "grader", "text", "again"),
    [
        ("", "math", "The answer is 42.", False),
        ("sequential_light", "math", "The answer is 42.", True),
        ("sequential_light", "math", "\\boxed{42}", False),
        ("", "choice", "The answer is B.", False),
        ("sequential_light", "choice", "The answer is B.", True),
        ("sequential_light", "choice", "Final Choice: B", False),
    ],
)
def test_released_systems_are_asked_again_where_the_release_asks(style, grader, text, again):
    own = settings(evaluate__grader=grader, evaluate__retry=True)
    system = dataclasses.replace(own.system, style=style, agents={}) if style else own.system
    retry = retry_of(dataclasses.replace(own, system=system))
    assert retry.lacks(text) is again
    assert retry.opening == f"Final {'Choice' if grader == 'choice' else 'Answer'}: \\boxed{{"
