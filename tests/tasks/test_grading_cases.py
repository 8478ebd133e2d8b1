"""Answers that graders once read wrongly."""

import json

import pytest

from rmas.errors import InputError
from rmas.tasks.boxed import said
from rmas.tasks.choice_answers import find_choice
from rmas.tasks.columns import livecodebench
from rmas.tasks.grading import GRADERS
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
        # Blanks around operators and between factors.
        ("p-q", "p - q", True),
        ("n - m", "n-m", True),
        ("a-b-c", "a - b - c", True),
        ("q-p", "p - q", False),
        ("3 x", "3x", True),
        ("6 - 5 i", "6 - 5i", True),
        ("10\\, a b", "10ab", True),
        ("5 x", "5", False),
        ("5\\,x", "5", False),
        ("5 x", "5 y", False),
        ("3 i", "3", False),
        ("\\pi r", "\\pi r", True),
        ("2 \\pi r", "2\\pi r", True),
        # Letters in lower and upper case are different symbols, words are not.
        ("X-y", "x-y", False),
        ("AB", "ab", False),
        ("k", "K", False),
        ("Evelyn", "\\text{evelyn}", True),
        ("No", "no", True),
        ("\\text{no}", "yes", False),
        ("Monday", "\\text{Tuesday}", False),
        # Units: one letter within \\text only, and not another unit.
        ("2h", "2s", False),
        ("2m", "2", False),
        ("\\frac{1}{2} h", "\\frac{1}{2} g", False),
        ("5\\text{ m}", "5", True),
        ("5\\text{ m}", "5 meters", True),
        ("5\\text{ m}", "5\\text{ s}", False),
        ("12 cm", "12 km", False),
        ("12 cm", "12", True),
        ("12 \\text{ square feet}", "12\\text{ ft}^2", True),
        ("12 apples", "12", True),
        ("\\frac{1}{2}ab", "\\frac{ab}{2}", True),
        ("\\frac{1}{2}ab", "\\frac{1}{2}", False),
        ("\\frac{1}{2}ab", "\\frac{1}{2}a", False),
        ("12\\text{ kJ}", "12", True),
        ("12\\text{ kJ}", "12\\text{ J}", False),
        ("(3\\text{ cm}, 4\\text{ cm})", "(3, 4)", True),
        ("x \\le 3", "x\\leq 3", True),
        ("2+3\\mathrm{i}", "2+3i", True),
        ("12 red apples", "12", True),
        ("5 dollars", "5 cents", False),
        # Number systems.
        ("52_9", "52_8", False),
        ("204_5", "204_8", False),
        ("52", "52_8", True),
        ("52_{8}", "52_8", True),
        ("53", "52_8", False),
        ("4C_{16}", "4C_{16}", True),
        # Matrices.
        ("\\begin{pmatrix}x\\\\y\\end{pmatrix}", "\\begin{pmatrix} x \\\\ y \\end{pmatrix}", True),
        (
            "\\left(\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right)",
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            True,
        ),
        ("\\begin{pmatrix}y\\\\x\\end{pmatrix}", "\\begin{pmatrix}x\\\\y\\end{pmatrix}", False),
        # Units behind anything, in any spelling.
        ("4\\pi\\text{ cm}", "4\\pi", True),
        ("24\\pi \\text{ square units}", "24\\pi", True),
        ("36\\pi\\,\\text{cm}^3", "36\\pi", True),
        ("24\\pi square units", "24\\pi", True),
        ("2x\\text{ cm}", "2x", True),
        ("5\\textrm{ cm}", "5", True),
        ("5\\rm{cm}", "5", True),
        ("5\\text{ sq. ft.}", "5", True),
        ("5\\text{ m/s}", "5", True),
        ("\\frac{\\pi}{3}\\text{ radians}", "\\frac\\pi3", True),
        ("3 \\text{ hr}", "3 \\text{ hours}", True),
        ("3\\text{ hrs}", "3 hours", True),
        ("5\\text{ s}", "5\\text{ sec}", True),
        ("5\\text{ L}", "5 liters", True),
        ("2\\text{ yr(s)}", "2\\text{ years}", True),
        ("(3\\text{ m}, 4\\text{ m})", "(3, 4)", True),
        ("12\\text{ qq}", "12", True),
        ("3+2\\text{i}", "3+2i", True),
        ("2 million", "2", False),
        ("3 dozen", "3", False),
        ("16 not", "16", False),
        ("\\$12", "12 cents", False),
        ("\\$12", "12", True),
        ("\\$12", "12 dollars", True),
        # Names in front, lists in words, and both signs.
        ("(x,y)=(1,2)", "(1,2)", True),
        ("(r,\\theta)=(3,\\pi/2)", "(3,\\pi/2)", True),
        ("(x,y)=(2,1)", "(1,2)", False),
        ("\\angle ABC = 30^\\circ", "30", True),
        ("\\text{Area} = 12", "12", True),
        ("x=1, y=2", "1,2", True),
        ("y = 2x+3", "2x+3", True),
        ("x = 3 = y", "4", False),
        ("x=2\\text{ or }-1", "2,-1", True),
        ("2, 3, and 5", "2,3,5", True),
        ("\\pm1,\\pm2", "1,-1,2,-2", True),
        ("-1\\pm\\sqrt2,3", "-1+\\sqrt2,-1-\\sqrt2,3", True),
        ("\\pm1", "1", False),
        ("\\varnothing", "\\emptyset", True),
        # Products of three letters.
        ("\\frac{abc}{2}", "\\frac{1}{2}abc", True),
        ("4abc", "4cab", True),
        ("pqr", "rqp", True),
        ("\\text{odd}", "\\text{even}", False),
        ("9^9^9", "9^9^9+0", False),
        ("9**9**9**9", "1", False),
    ],
)
def test_mathematics(answer, gold, wanted):
    assert equal(answer, gold) is wanted


OPTIONS = {"A": "S. aureus", "B": "E. coli", "C": "H. pylori", "D": "$\\frac{1}{2}$"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # Several letters decide for none.
        ("\\boxed{A, C}", None),
        ("\\boxed{A. or B.}", None),
        ("Answer: A) or B)", None),
        ("\\boxed{A, B and C}", None),
        ("\\boxed{A, B or C}", None),
        ("\\boxed{a, b}", None),
        ("\\boxed{E}", None),
        # One does, with its option's text or without.
        ("\\boxed{A}", "A"),
        ("\\boxed{b}", "B"),
        ("\\boxed{A. Iron}", "A"),
        ("\\boxed{B) A vitamin}", "B"),
        ("\\boxed{(C)}", "C"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("\\boxed{B. E. coli}", "B"),
        ("\\boxed{C. H. pylori}", "C"),
        ("The answer is B) S. aureus", "B"),
        ("\\boxed{B. I, II}", "B"),
        ("The answer is B because it fits.", "B"),
        ("The answer is B. A is wrong.", "B"),
        ("**Answer: C**", "C"),
        ("The answer is C. A, B and D are wrong because they lack it.", "C"),
        ("The answer is (C). (A) and (B) are wrong", "C"),
        ("The answer is C. B) is wrong", "C"),
        # The text of an option.
        ("\\boxed{$\\frac{1}{2}$}", "D"),
        ("\\boxed{\\frac{1}{2}}", "D"),
        ("\\boxed{e. coli}", "B"),
        ("The answer is A patient", None),
    ],
)
def test_choices(text, letter):
    assert find_choice(text, OPTIONS) == letter


def test_an_option_may_name_another_letter():
    assert find_choice("\\boxed{A. C. difficile}", {"A": "C. difficile", "C": "E. coli"}) == "A"
    assert find_choice("\\boxed{A. C. difficile}", {"A": "Iron", "C": "E. coli"}) is None


@pytest.mark.parametrize(
    ("task", "text", "again"),
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
def test_who_is_asked_again(task, text, again):
    assert GRADERS[task].lacks(text) is again


def test_an_unclosed_box_is_no_answer():
    assert find_math("So the final answer is: \\boxed{") is None
    assert said("The answer is \\boxed{42") is None
    assert find_math("The answer is 42.") == "42"
    assert find_math("the answer isn't 5") is None


@pytest.mark.parametrize(
    ("text", "gold", "scores"),
    [
        ("\\boxed{\\text{Paris}}", "Paris", (1, 1, 1)),
        ("\\boxed{well known}", "well-known", (0, 1, 0)),
        ("\\boxed{the U.S.}", "US", (1, 0, 1)),
        ("The answer is J. R. R. Tolkien.", "J. R. R. Tolkien", (1, 1, 1)),
        ("The answer is St. Louis. It lies on a river.", "St. Louis", (1, 1, 1)),
        ("Final answer: U.S. Navy", "U.S. Navy", (1, 1, 1)),
        ("The answer is Paris. It is a city.", "Paris", (1, 1, 1)),
        ("The final answer is No. They were of different nationality.", "no", (1, 1, 1)),
        ("The answer is vitamin C. It is in fruit.", "vitamin C", (1, 1, 1)),
        ("The answer is World War I. It ended in 1918.", "World War I", (1, 1, 1)),
        ("The answer is Apple Inc. It is big.", "Apple Inc", (1, 1, 1)),
        ("The answer is George W. Bush. He was president.", "George W. Bush", (1, 1, 1)),
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
