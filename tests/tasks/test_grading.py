"""What all graders share."""

import os
import subprocess
import sys

import pytest

from rmas.tasks import puzzle
from rmas.tasks.grader import Grade, exact_match
from rmas.tasks.grading import GRADERS
from rmas.tasks.relay import RELAY


@pytest.mark.parametrize(
    ("answer", "gold", "score"), [("3", "3", 1.0), ("3", "13", 0.0), (None, "3", 0.0)]
)
def test_exact_match(answer, gold, score):
    assert exact_match(answer, gold) == {"exact": score, "release_compatible": score}


def test_relay_grades_its_own_teacher_texts():
    for row in RELAY.make_rows(50, seed=2):
        grade = GRADERS["relay"].grade(row.text("solver", 2), row)
        assert (grade.answer, grade.scores["exact"]) == (row.answer, 1.0)
        assert GRADERS["relay"].grade("no number", row) == Grade(
            None, exact_match(None, row.answer)
        )
        first = GRADERS["relay"].grade(row.text("solver", 0), row)
        assert first.scores["exact"] == float(first.answer == row.answer)
        assert first.answer == str(puzzle.value_after(row, 1))


def test_every_grader_reads_the_answer_after_its_opening():
    for name, grader in GRADERS.items():
        assert grader.name == name
        if grader.opening:
            end = "print(1)\n```" if grader.isolation == "sandbox" else "B}."
            assert grader.extract("no idea\n" + grader.opening + end) is not None
            assert grader.extract("") is None


def test_grading_imports_no_input_pipeline_and_no_jax():
    code = (
        "import sys, rmas.tasks.grader_pool; "
        "print({'grain', 'tensorflow_datasets', 'jax', 'math_verify', 'sympy'} & {*sys.modules})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr


@pytest.mark.parametrize(
    ("grader", "text", "again"),
    [
        ("math", "The answer is 42.", False),
        ("math", "The answer is x", False),
        ("math", "whether the answer is likely to be found by", True),
        ("math", "no box", True),
        ("choice", "\\boxed{An artery}", False),
        ("choice", "The answer is B.", False),
        ("choice", "It is hard to say.", True),
        ("qa", "Let me think. First, the river that", True),
        ("qa", "Final answer: Paris", False),
        ("qa", "\\boxed{Paris}", False),
    ],
)
def test_who_is_asked_again(grader, text, again):
    assert GRADERS[grader].lacks(text) is again
