r"""The public release's rules, pair by pair, worked by hand; each form also where it flatters."""

import pytest

from rmas.tasks import release_rule as rule
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{3} and \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}} then \boxed{7}", "7"),  # the last without braces in it
        (r"\boxed{7} then \boxed{\frac{1}{2}}", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\frac{1}{2}} in {3}", r"\frac{1}{2}} in {3"),  # up to the line's last brace
        (r"\boxed{\sqrt{2}} or \boxed{\sqrt{3}}", r"\sqrt{2}} or \boxed{\sqrt{3}"),
        ("\\boxed{\\sqrt{2}}\n\\boxed{\\sqrt{3}}\n", r"\sqrt{3}"),
        (r"\boxed{}", ""),
        ("\\boxed{ 5\n}", "5"),
        (r"\boxed 5", None),
        (r"\boxed{5", None),
        ("The answer is 42.", None),
    ],
)
def test_the_box(text, box):
    assert rule.find_box(text) == box
    assert rule.lacks_box(text) is (box is None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Final Answer: 4 \boxed{3}", "3"),
        ("Final Answer: 3\nfinal answer : 4 \nThat is it.", "4"),
        ("Final Answer:\n\n5", "5"),
        ("  we get 7  ", "we get 7"),
        ("", None),
        (" \n", None),
    ],
)
def test_where_an_answer_stands(text, answer):
    assert rule.find_answer(text) == answer


@pytest.mark.parametrize(
    ("form", "text", "wanted"),
    [
        (rule.first_integer, "-3.7", "-3"),
        (rule.first_integer, "x = 12, y = 5", "12"),
        (rule.first_integer, "1,234.5", "1234"),
        (rule.first_integer, r"\frac{7}{2}", "3"),
        (rule.first_integer, r"\frac{ -7 }{2}", "-3"),
        (rule.first_integer, r"\frac{1}{3}", "0"),
        (rule.first_integer, r"-\frac{1}{3}", "0"),
        (rule.first_integer, r"\frac{17}{21}", "0"),
        (rule.first_integer, r"\frac{1}{0}", "1"),
        (rule.first_integer, r"\dfrac{9}{2}", "9"),
        (rule.first_integer, r"\text{about }8", "8"),
        (rule.first_integer, r"\left(2,3\right)", "23"),  # the comma goes before
        (rule.first_integer, r"90^\circ", "90"),
        (rule.first_integer, "007", "7"),
        (rule.first_integer, "1-2", "1"),
        (rule.first_integer, "x", ""),
        (rule.first_integer, r"\frac{x}{2}", "2"),
        (rule.first_integer, f"\\frac{{{10**400}}}{{3}}", str(10**400)),
        (rule.first_integer, "9" * 5000, ""),
        (rule.without_marks, r"\text{Evelyn}", "Evelyn"),
        (rule.without_marks, r"\left( 1,\! 2 \right)", "(1,2)"),
        (rule.without_marks, r"$\frac{1}{2}$", r"\frac12"),
        (rule.without_marks, 'it\'s "5"', "its5"),
        (rule.without_marks, r"1\,000\;\:", "1000"),
        (rule.without_blanks, " p - q\n", "p-q"),
        (rule.leading_digits, "-3.5", "3"),  # the sign is lost
        (rule.leading_digits, "3, 4", "34"),
        (rule.leading_digits, "x_1 + 20", "120"),
        (rule.leading_digits, "0012", "12"),
        (rule.leading_digits, "0.5", "0"),
        (rule.leading_digits, ".5", ""),
        (rule.leading_digits, "x", ""),
        (rule.lower_case, "  The\u2019 A\u2014B\n c ", "the' a-b c"),
        (rule.without_articles, "The U.S. Navy, an arm", "u s navy arm"),
        (rule.without_articles, "an a the", ""),
        (rule.date, "March 5th, 2020", "2020-03-05"),
        (rule.date, "2020-03-05", "2020-03-05"),
        (rule.date, "3/5/2020", "2020-03-05"),
        (rule.date, "march 2020", "2020-03"),
        (rule.date, "2020", "2020"),
        (rule.date, "March 5", ""),
        (rule.date, "the year 2020", ""),
        (rule.date, "12", ""),
    ],
)
def test_forms(form, text, wanted):
    assert form(text) == wanted


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        (r"\boxed{-3}", "3", True),
        (r"\boxed{\frac{2}{3}}", r"\frac{1}{3}", True),
        (r"\boxed{17}", r"\frac{17}{21}", False),
        (r"\boxed{3, 4}", "34", True),
        (r"\boxed{3.9}", "3.1", True),
        (r"\boxed{x+1}", "x + 1", True),
        (r"\boxed{\text{east}}", "east", True),
        (r"\boxed{x}", "y", False),
        (r"\boxed{4}", "5", False),
        (r"\boxed{}", "", False),
        ("So 7 is wrong.\nFinal Answer: 8", "8", True),
        ("We get 7 of 8", "7", True),
        ("", "7", False),
    ],
)
def test_math500(text, gold, right):
    assert rule.same_math(text, gold) is right
    graded = GRADERS["math"].grade(text, Row("", "", gold)).scores
    assert graded["release_compatible"] == right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{(c) iron}", "C"),
        (r"\boxed{Iron} Answer: D", "D"),
        ("Final Choice: B\nFinal Answer: (C)", "C"),
        ("Final Choice:\n\nB", "B"),
        ("The correct answer - [d]", "D"),
        ("I think option a is right", "A"),
        ("answer\n: b", "B"),
        ("The choice C", "C"),
        ("The answer is B.", None),  # no letter stands right behind the word
        ("The answer Because", None),
        ("B", "B"),
        ("  (B) is it", "B"),
        ("c: iron", "C"),
        ("B-cell lymphoma", "B"),
        ("A patient", None),
        ("E", None),
        ("", None),
    ],
)
def test_choices(text, letter):
    assert rule.find_letter(text) == letter
    assert rule.lacks_letter(text) is (letter is None)
    for gold in "ABCD":
        assert rule.same_letter(text, gold) is ((letter or "A") == gold)
    assert rule.same_letter(text, "no letter") is ((letter or "A") == "A")


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        (r"\boxed{1,250}", "He has it. #### 1,250", True),
        (r"\boxed{1250}", "#### 1,250", False),
        (r"\boxed{The Tiber}", "tiber", True),
        (r"\boxed{5 March 2020}", "2020-03-05", True),
        (r"\boxed{March 2020}", "2020-03-05", False),
        (r"\boxed{...}", "...", True),
        (r"\boxed{-3}", "3", True),  # the sign is punctuation
        (r"\boxed{3.0}", "3", False),
        ("", "3", False),
    ],
)
def test_everything_else(text, gold, right):
    assert rule.same_text(text, gold) is right


OPTIONS = ["A: Iron deficiency", "B: Iron", "C: B-cell lymphoma", "D: None"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Iron", "A"),  # the first option that contains it
        ("Iron deficiency", "A"),
        ("None", "D"),
        ("iron  and more", "B"),  # or is contained in it
        ("B-cell lymphoma", "B"),  # a letter at its start
        ("Zinc", "A"),
    ],
)
def test_the_gold_letter_of_the_release_s_own_medqa_rows(answer, letter):
    assert rule.medqa_gold(answer, OPTIONS) == letter


def test_a_megabyte_is_read_in_no_time():
    """Each of these was chosen to make a careless pattern try everything twice."""
    for text in ("answer" + " " * 300_000, "\\boxed{" * 40_000, "Final Answer:" + "\n" * 300_000):
        assert not rule.same_math(text, "7")
        assert rule.same_letter(text, "A")
        assert not rule.same_text(text, "7")
