"""Answers that graders once read wrongly."""

import json

import pytest

from rmas.errors import InputError
from rmas.tasks.boxed import said
from rmas.tasks.choice_answers import find_choice
from rmas.tasks.columns import livecodebench
from rmas.tasks.livecodebench_answers import _groups, _printed
from rmas.tasks.math_answers import equal, find_math
from rmas.tasks.qa_answers import score_fact
from rmas.tasks.rows import Row
from rmas.tasks.tables import Cells


@pytest.mark.parametrize(
    ("answer", "gold", "wanted"),
    [
        ("10080", "10,\\!080", True),
        ("10,080", "10,\\!080", True),
        ("11111111100", "11,\\! 111,\\! 111,\\! 100", True),
        ("(3, 100)", "(3,100)", True),
        ("(100,200)", "(100,\\ 200)", True),
        ("\\{1,100\\}", "\\{1, 100\\}", True),
        ("3100", "(3,100)", False),
        ("1+xy", "xy+1", True),
        ("2yx", "2xy", True),
        ("x^2y", "yx^2", True),
        ("\\frac{ab}{2}", "\\frac{ba}{2}", True),
        ("9x^{2}y^{3}", "9x^2y^3", True),
        ("y^3x^2", "x^2y^3", True),
        ("9^9^9", "9^9^9+0", False),
        ("9**9**9**9", "1", False),
    ],
)
def test_mathematics(answer, gold, wanted):
    assert equal(answer, gold) is wanted


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{A, C}", None),
        ("\\boxed{A. or B.}", None),
        ("Answer: A) or B)", None),
        ("\\boxed{A}", "A"),
        ("\\boxed{A. Iron}", "A"),
        ("\\boxed{B) A vitamin}", "B"),
        ("\\boxed{(C)}", "C"),
    ],
)
def test_several_letters_decide_for_none(text, letter):
    assert find_choice(text, {c: f"option {c}" for c in "ABCD"}) == letter


def test_an_unclosed_box_is_no_answer():
    assert find_math("So the final answer is: \\boxed{") is None
    assert said("The answer is \\boxed{42") is None
    assert find_math("The answer is 42.") == "42"


@pytest.mark.parametrize(
    ("text", "gold", "scores"),
    [
        ("\\boxed{\\text{Paris}}", "Paris", (1, 1, 1)),
        ("\\boxed{well known}", "well-known", (0, 1, 0)),
        ("\\boxed{the U.S.}", "US", (1, 0, 1)),
    ],
)
def test_facts(text, gold, scores):
    found = score_fact(text, Row("", "", gold))[1]
    assert tuple(found[k] for k in ("exact", "release_compatible", "f1")) == scores


def test_outputs_that_are_no_numbers():
    assert not _printed("snan", "1")
    assert not _printed("nan", "1")
    assert _printed("1.0", "1")


def test_large_tests_do_not_share_a_sandbox():
    tests = [{"input": "x" * (10 << 20)} for _ in range(3)] + [{"input": "y"}] * 9
    assert [len(group) for group in _groups(tests)] == [1, 1, 8, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private_test_cases": "garbage!!"}, "column 'private_test_cases'"),
        ({"public_test_cases": '[{"x": 1}]'}, "column 'public_test_cases'"),
        ({"metadata": "{}"}, "func_name, since tests are functional"),
        ({"public_test_cases": "[]"}, "tests, or private ones"),
    ],
)
def test_tests_that_cannot_be_run_are_told_when_rows_are_read(changes, message):
    test = {"input": "1", "output": "2", "testtype": "functional"}
    record = {
        "question_id": "q",
        "question_content": "Add one.",
        "starter_code": "class Solution: ...",
        "metadata": '{"func_name": "add"}',
        "public_test_cases": json.dumps([test]),
        "private_test_cases": "",
        "difficulty": "easy",
        "platform": "leetcode",
        "contest_date": "2026-01-01",
    }
    livecodebench(Cells(record, "file.jsonl, row 1"))
    with pytest.raises(InputError, match=message) as error:
        livecodebench(Cells(record | changes, "file.jsonl, row 1"))
    assert "file.jsonl, row 1" in str(error.value)
