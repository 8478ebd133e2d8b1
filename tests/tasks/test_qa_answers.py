"""Questions of fact: exact match and F1."""

import pytest

from rmas.tasks.grading import GRADERS
from rmas.tasks.qa_answers import score_fact
from rmas.tasks.rows import Row


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
def test_exact_match_and_f1(text, gold, exact, f1):
    scores = GRADERS["qa"].grade(text, Row("", "", gold)).scores
    assert scores["exact"] == exact
    assert scores["f1"] == pytest.approx(f1)


def test_alike_quotes_and_dashes_count_as_one():
    row = Row("", "", "O'Brien's “well-known” plan")
    text = '\\boxed{O\u2019Brien\u2019s "well\u2013known" plan}'
    assert GRADERS["qa"].grade(text, row).scores["exact"] == 1


@pytest.mark.parametrize(
    ("text", "gold", "scores"),
    [
        ("\\boxed{\\text{Paris}}", "Paris", (1, 1)),
        ("\\boxed{well known}", "well-known", (0, 0)),
        ("\\boxed{the U.S.}", "US", (1, 1)),
        ("The answer is J. R. R. Tolkien.", "J. R. R. Tolkien", (1, 1)),
        ("The answer is St. Louis. It lies on a river.", "St. Louis", (1, 1)),
        ("Final answer: U.S. Navy", "U.S. Navy", (1, 1)),
        ("The answer is Paris. It is a city.", "Paris", (1, 1)),
        ("The final answer is No. They were of different nationality.", "no", (1, 1)),
        ("The answer is vitamin C. It is in fruit.", "vitamin C", (1, 1)),
        ("The answer is World War I. It ended in 1918.", "World War I", (1, 1)),
        ("The answer is Apple Inc. It is big.", "Apple Inc", (1, 1)),
        ("The answer is George W. Bush. He was president.", "George W. Bush", (1, 1)),
        ("The answer is Symphony No. 7.", "Symphony No. 7", (1, 1)),
        ("The answer is Symphony No. 7. It is in A.", "Symphony No. 7", (1, 1)),
        ("The answer is Rear Adm. J. Edward Snyder.", "Rear Adm. J. Edward Snyder", (1, 1)),
        ("The answer is Gov. George Ryan. He ruled.", "Gov. George Ryan", (1, 1)),
        ("Final answer: Op. 12 No. 3 in G.", "Op. 12 No. 3 in G", (1, 1)),
        ("The answer is Warner Bros. Pictures.", "Warner Bros. Pictures", (1, 1)),
        ("The answer is Nov. 5, 1990.", "Nov. 5, 1990", (1, 1)),
        ("The answer is Feb. 14.", "Feb. 14", (1, 1)),
        ("The answer is Rt. Hon. David Cameron.", "Rt. Hon. David Cameron", (1, 1)),
        ("The answer is Messrs. Smith and Co. They sold tea.", "Messrs. Smith and Co", (1, 1)),
        ("**Answer:** Mt. Everest", "Mt. Everest", (1, 1)),
        ("<think>The answer is Rome.</think>\nParis", "Paris", (1, 1)),
    ],
)
def test_names_with_dots(text, gold, scores):
    found = score_fact(text, Row("", "", gold))[1]
    assert tuple(found[k] for k in ("exact", "f1")) == scores


def test_the_release_has_no_rule_for_facts():
    assert "release_compatible" not in GRADERS["qa"].grade("Paris", Row("", "", "Paris")).scores
