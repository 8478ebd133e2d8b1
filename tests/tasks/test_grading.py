"""What all graders share."""

import os
import subprocess
import sys

import pytest

from rmas.errors import InputError
from rmas.tasks import puzzle
from rmas.tasks.grader import Grade, exact_match
from rmas.tasks.grading import GRADERS
from rmas.tasks.relay import RELAY
from rmas.tasks.rows import Row


@pytest.mark.parametrize(
    ("answer", "gold", "score"), [("3", "3", 1.0), ("3", "13", 0.0), (None, "3", 0.0)]
)
def test_exact_match(answer, gold, score):
    assert exact_match(answer, gold) == {"exact": score}


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
        ("choice", "The answer is Ibuprofen.", False),
        ("choice", "The answer is likely to be found by", True),
        ("qa", "Let me think. First, the river that", True),
        ("qa", "Final answer: Paris", False),
        ("qa", "\\boxed{Paris}", False),
        ("qa", "The answer is Paris.", False),
        ("qa", "Answer: Paris", False),
        ("math", "42", False),
        ("integer", "no number", True),
        ("livecodebench", "no code", True),
        ("livecodebench", "```python\nprint(1)\n```", False),
    ],
)
def test_who_is_asked_again(grader, text, again):
    assert GRADERS[grader].is_unanswered(text) is again


@pytest.mark.parametrize(
    ("grader", "text", "again"),
    [
        ("math", "The answer is 42.", True),
        ("math", "\\boxed{42}", False),
        ("math", "\\boxed 42", True),
        ("gsm8k", "#### 42", True),
        ("integer", "The answer is 42.", True),
        ("choice", "The answer is B.", True),
        ("choice", "Final Choice: B", False),
        ("qa", "Final answer: Paris", True),
        ("mbpp", "```python\nprint(1)\n```", False),
        ("mbpp", "no code", True),
    ],
)
def test_who_is_asked_again_of_a_released_system(grader, text, again):
    """The release continues what has no box, and choices without a letter that it can read."""
    assert GRADERS[grader].is_unanswered(text, released=True) is again


def test_choices_are_continued_in_the_release_s_words():
    assert GRADERS["choice"].opening == "Final Choice: \\boxed{"
    assert GRADERS["math"].opening == "Final Answer: \\boxed{"


FACTS = {
    "script": "assert f() == 1", "interface": {"kind": "function", "name": "f"}, "public": "[]",
    "private": "", "options": {"A": "one", "B": "two"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("grader", "answer", "changes", "message"),
    [
        ("mbpp", "1", {"script": None}, "needs a script of tests in the field meta.script"),
        ("mbpp", "1", {"script": " "}, "field meta.script"),
        ("mbpp", "1", {"interface": {"kind": "program"}}, "field meta.interface"),
        ("mbpp", "1", {"interface": "f"}, "field meta.interface"),
        ("livecodebench", "1", {"public": None}, "field meta.public"),
        ("livecodebench", "1", {"private": None}, "field meta.private"),
        ("livecodebench", "1", {"interface": {}}, "field meta.interface"),
        ("choice", "A", {"options": None}, "field meta.options"),
        ("choice", "A", {"options": ["one", "two"]}, "field meta.options"),
        ("choice", "one", {}, "a capital letter in the field answer"),
        ("integer", "1/2", {}, "an integer in the field answer"),
        ("math", " ", {}, "a gold answer in the field answer"),
        ("relay", "", {}, "a gold answer in the field answer"),
    ],
)
def test_rows_that_lack_what_their_grader_needs(grader, answer, changes, message):
    good = "A" if grader == "choice" else "1"
    rows = [Row("a", "q", good, meta=FACTS), Row("b", "q", answer, meta=FACTS | changes)]
    GRADERS[grader].check(rows[:1], "mine.jsonl")
    with pytest.raises(InputError, match=r"mine\.jsonl, row b: the grader") as error:
        GRADERS[grader].check(rows, "mine.jsonl")
    assert message in str(error.value) and "\n" not in str(error.value)
