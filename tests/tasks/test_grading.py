import os
import subprocess
import sys

import pytest

from rmas.tasks import puzzle
from rmas.tasks.grading import GRADERS, Grade, exact_match
from rmas.tasks.relay import RELAY
from rmas.tasks.rows import Row


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


def test_every_task_reads_the_answer_that_its_opening_asks_for():
    for task in GRADERS.values():
        if task.opening:
            end = "print(1)\n```" if task.where == "sandbox" else "B}."
            assert task.extract("no idea\n" + task.opening + end) is not None
            assert task.extract("") is None


def test_grading_imports_no_input_pipeline_and_no_jax():
    code = (
        "import sys, rmas.tasks.grader_pool; "
        "print({'grain', 'tensorflow_datasets', 'jax', 'math_verify', 'sympy'} & {*sys.modules})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr


OPTIONS = {"A": "a vein", "B": "An artery.", "C": "a bone", "D": "none of them"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"), (r"\boxed{b}", "B"), (r"\boxed{A} no, \boxed{C}", "C"),
        (r"\boxed{\text{B}}", "B"), (r"\boxed{(D)}", "D"), (r"\boxed{B. An artery}", "B"),
        (r"\boxed{\mathbf{D}}", "D"), (r"\boxed{an artery}", "B"), (r"\boxed{Option C}", "C"),
        ("The answer is (B).", "B"), ("**Answer: D**", "D"), ("Final answer: A. a vein", "A"),
        (r"\boxed{E}", None), (r"\boxed{Bones}", None), ("A or B, hard to say", None),
        ("The answer is Apple", None), (r"\boxed{}", None), ("", None),
    ],
)  # fmt: skip
def test_choices(text, letter):
    row = Row("", "", "B", meta={"options": OPTIONS})
    grade = GRADERS["choice"].grade(text, row)
    assert grade.answer == letter
    assert grade.scores["exact"] == float(letter == "B")


def test_the_release_takes_an_unreadable_choice_for_a():
    row = Row("", "", "A", meta={"options": OPTIONS})
    assert GRADERS["choice"].grade("no idea", row).scores == {"exact": 0, "release_compatible": 1}
    row = Row("", "", "B", meta={"options": OPTIONS})
    assert GRADERS["choice"].grade("no idea", row).scores == {"exact": 0, "release_compatible": 0}


@pytest.mark.parametrize(
    ("text", "gold", "exact", "f1"),
    [
        (r"\boxed{the Tiber}", "Tiber", 1, 1), (r"\boxed{Tiber River}.", "The Tiber", 0, 2 / 3),
        ("Final answer: Leonardo da Vinci.", "leonardo  da vinci", 1, 1),
        ("I think so.\nYes", "yes", 1, 1), (r"\boxed{yes, it is}", "yes", 0, 0),
        (r"\boxed{no}", "yes", 0, 0), ("", "yes", 0, 0), (r"\boxed{\u201cX\u201d}", "Y", 0, 0),
        (r"\boxed{a b c}", "b c d", 0, 2 * (2 / 2 * 2 / 3) / (2 / 2 + 2 / 3)),
    ],
)  # fmt: skip
def test_facts(text, gold, exact, f1):
    scores = GRADERS["qa"].grade(text, Row("", "", gold)).scores
    assert scores["exact"] == scores["release_compatible"] == exact
    assert scores["f1"] == pytest.approx(f1)


def test_alike_quotes_and_dashes_count_as_one():
    row = Row("", "", "O'Brien's “well-known” plan")
    text = '\\boxed{O\u2019Brien\u2019s "well\u2013known" plan}'
    assert GRADERS["qa"].grade(text, row).scores["exact"] == 1
