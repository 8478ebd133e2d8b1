r"""Mathematical answers: where they stand in a text, hostile ones, and the scores."""

import pytest

from rmas.tasks.boxed import MAX_ANSWER, said
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.grading import GRADERS
from rmas.tasks.math_answers import find_math
from rmas.tasks.math_equality import equal
from rmas.tasks.rows import Row


@pytest.fixture(scope="module")
def graders():
    with GraderPool(processes=1, seconds=10) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{3} then \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, \{2\}\}} done", r"\{1, \{2\}\}"),
        (r"\boxed{a} and \boxed{b", "a"),
        (r"\fbox{9}", "9"),
        (r"so \boxed 5.", "5"),
        (r"\boxed{}", None),
        ("The final answer is 42.", "42"),
        ("**Final Answer:** $12$", "12"),
        ("the answer is: x = 3\nmore", "x = 3"),
        ("answer: 1\nAnswer: 2", "2"),
        ("The answer is $\\frac{1}{2}$, since it halves.", r"\frac{1}{2}"),
        ("The answer is 3.5. It is not 4.", "3.5"),
        ("nothing here", None),
        ("", None),
        # Minerva's and GSM8K's forms, and delimiters of formulas.
        ("Final Answer: The final answer is $42$. I hope it is correct.", "42"),
        ("Final Answer: The final answer is 42. I hope it is correct.", "42"),
        ("5+3=8\n#### 8", "8"),
        ("#### 1,250", "1,250"),
        ("#### Final Answer\n12", "12"),
        ("Answer: \\[X\\]", "X"),
        ("Answer:\n\\[\nX\n\\]", "X"),
        ("Answer: $$x=3$$", "x=3"),
        ("The answer is \\((1,2)\\).", "(1,2)"),
        ("The answer is $\\$36$.", r"\$36"),
        (r"\boxed{\(9\)}", r"\(9\)"),
        ("The answers are $2$ and $3$.", "2, 3"),
        ("Answer: \\(2\\), \\(3\\)", "2, 3"),
        # Headings, and words in bold.
        ("**Answer:**\n\n$42$", "42"),
        ("**Answer**: 12", "12"),
        ("__Answer:__ 12", "12"),
        ("### Final Answer\n\n42", "42"),
        ("**Final Answer**\n\n\\boxed{7}", "7"),
        ("## Answer\n12 apples", "12 apples"),
        ("Final answer\n7", "7"),
        ("Final Answer: **73**", "73"),
        ("I hope my answer is right.", None),
        ("The answer to part (b) is 12.", "12"),
        ("The answer (in cm) is 12.", "12"),
        # Words of another kind.
        ("<answer>42</answer>", "42"),
        ("<answer> $42$ </answer>", "42"),
        ("Final Result: $42$", "42"),
        ("The result is $42$.", "42"),
        ("The answer is $41$. The result is surprising.", "41"),
        ("I think the answer should be $42$", "42"),
        ("the answer must be 42.", "42"),
        ("The answer would be \\(42\\).", "42"),
        ("ans: 42", "42"),
        ("####8", "8"),
        ("5 + 3\n#### **8**", "8"),
        # A value within a sentence.
        ("### Final Answer\n\nThe value is $(1,2)$.", "(1,2)"),
        ("### Final Answer\nThe value of $x$ is $(1,2)$.", "(1,2)"),
        ("**Answer:** The total is \\(5\\).", "5"),
        ("**Answer:** The total is **5** apples.", "5"),
        ("The answer is \\frac{1}{2}, since it fits.", "\\frac{1}{2}"),
        ("The answer is (1,2) because it fits.", "(1,2)"),
        ("The answer is x+1 (mod 7)", "x+1"),
        # Only the value.
        ("42", "42"),
        (" $42$ ", "42"),
        ("**42**", "42"),
        ("\\frac{3}{4}", "\\frac{3}{4}"),
        ("(1,2)", "(1,2)"),
        ("42 of them", None),
        ("We add 40 and 2.\n\n42", None),
        ("$$", None),
        # A conclusion, where nothing is called the answer.
        ("We add them. Therefore, the sum is $12$.", "12"),
        ("Thus, $x = 3$ and y is 4\nSo the largest value is **42**.", "42"),
        ("Hence AB = 12.5.", "12.5"),
        ("So the area is \\(9\\pi\\).", "9\\pi"),
        ("So x is 3. Now we try 4 and", None),
        ("Therefore, $x = 42$.", "x = 42"),
        ("Thus, the probability is $\\frac12$, or 50%.", "\\frac12"),
        ("So, we get $42$.", "42"),
        ("Therefore, there are 12 ways.", "12"),
        ("So she has 5 + 3 = 8 apples.", "8"),
        ("Therefore, she earns \\$18 per day.", "\\$18"),
        ("So we try 4 and 5.", None),
        ("So we try 4 and", None),
        ("It is 3.", None),
        # Several boxes.
        (r"\boxed{2} and \boxed{3}", "2, 3"),
        (r"\boxed{2}, \boxed{3}, and \boxed{5}", "2, 3, 5"),
        (r"$\boxed{2}$ \quad \text{or} \quad $\boxed{3}$", "2, 3"),
        (r"$x = \boxed{2}$ and $y = \boxed{3}$", "2, 3"),
        (r"\boxed{5} and \boxed{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{3}, so \boxed{4}", "4"),
        (r"first \boxed{1}. Final Answer: The final answer is $7$.", "7"),
        # Thinking.
        (r"<think>\boxed{5}</think> The answer is 7.", "7"),
        (r"\boxed{5}</think> The answer is 7.", "7"),
        (r"The answer is 7. <think>\boxed{5}", "7"),
        (r"<think>\boxed{5}</think>", "5"),
        ("<thinking>The answer is 3.</thinking>The answer is 4.", "4"),
        (r"<think>\boxed{5}</think> 7", "7"),
        ("<think>\\boxed{5}</think>\nWe checked it again.\n\n$(1,2)$", "(1,2)"),
        (r"<think>\boxed{5}</think> I am not sure", "5"),
        (r"[THINK]\boxed{5}[/THINK]The answer is 7.", "7"),
        (r"<seed:think>\boxed{5}</seed:think>The answer is 7", "7"),
        (
            r"<|begin_of_thought|>\boxed{5}<|end_of_thought|><|begin_of_solution|>"
            r"The answer is 7.<|end_of_solution|>",
            "7",
        ),
        (
            r"<|channel|>analysis<|message|>\boxed{5}<|end|><|start|>assistant"
            r"<|channel|>final<|message|>The answer is 7<|return|>",
            "7",
        ),
    ],
)
def test_where_an_answer_stands(text, answer):
    assert find_math(text) == answer


def test_an_unclosed_box_is_not_an_answer():
    assert find_math("So the final answer is: \\boxed{") is None
    assert said("The answer is \\boxed{42") is None
    assert find_math("The answer is 42.") == "42"
    assert find_math("the answer isn't 5") is None


HOSTILE = [
    "9**9**9**9", "9^{9^{9}}", "10^{10^{10}}", "9^9^9^9", "(9^9)^{9^9}", "99999!", "((3!)!)!",
    "3!!!!!!", r"\sum_{n=1}^{99999999} n", "2^{99999}", "10^{99999999}",
    r"\binom{99999}{555}", "(" * 3000 + "1" + ")" * 3000, r"\frac{1}{" * 300 + "1" + "}" * 300,
    r"9^{\boldsymbol{9^{\boldsymbol{9}}}}", "9\u2079\u2079\u2079\u2079\u2079",
    r"99^{9\cdot9\cdot9\cdot99\cdot99}", "3^{3^{3^{3}}}", "(9^{9999})^{9999}", "9^{9!}",
    r"9^{\binom{99}{9}}", "1e99999999", "9^{9}^{9}", "(9!)!", "9^(9**9)",
    "1" * 300 + "^{" + "1" * 90 + "}", "x" * 399, "__import__('os').system('true')", "\x00\ud800",
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers_are_wrong_before_time_is_up(graders, answer):
    """None needs the time limit: what could run long is refused by its look."""
    (grade,) = graders.grade("math", [f"\\boxed{{{answer}}}"], [Row("", "", "7")])
    assert grade.scores["exact"] == 0
    assert grade.note != "timeout" and grade.note != "crashed"


def test_megabytes_are_read_once(graders):
    for text in (
        "{" * 1_000_000, r"\boxed{" * 150_000, "\\boxed{" + "{" * 1_000_000 + "}" * 1_000_000,
        "answer is " * 100_000, "1" * 1_000_000, "the result is " * 70_000, "<think>" * 140_000,
        "so " * 300_000, "**" * 500_000 + ".", "$" * 1_000_000, "the answer is the $" * 50_000,
    ):  # fmt: skip
        (grade,) = graders.grade("math", [text], [Row("", "", "7")])
        assert grade.scores["exact"] == 0
        assert grade.note == ""
    assert find_math("\\boxed{" + "1" * (MAX_ANSWER + 1) + "}") is None
    assert not equal("1" * 500, "7")


@pytest.mark.parametrize(
    ("text", "gold", "exact"),
    [(r"\boxed{62}", "62", 1), (r"\boxed{062}", "62", 1), (r"\boxed{336^\circ}", "336", 1),
     (r"\boxed{62.0}", "62", 1), (r"\boxed{61}", "62", 0), (r"\boxed{62.5}", "62", 0),
     (r"\boxed{m+n=62}", "62", 1), (r"\boxed{AB = 62}", "62", 1),
     (r"\boxed{62 = m + n}", "62", 0), (r"\boxed{124/2}", "62", 0), ("62", "62", 1),
     (r"\boxed{62\%}", "62", 1), (r"\boxed{\$62}", "62", 1),
     (r"\boxed{m+n = 30 + 32 = 62}", "62", 1), (r"\boxed{m+n = 62 + 1 = 63}", "62", 0)],
)  # fmt: skip
def test_answers_of_the_aime_are_whole_numbers(text, gold, exact):
    assert GRADERS["integer"].grade(text, Row("", "", gold)).scores["exact"] == exact


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "release"),
    [("3/4", "3/7", 0, 1), (r"\frac{1}{2}", "0.5", 1, 1), ("12 or 13", "12", 0, 1),
     ("1,234", "1234", 1, 1), ("x", "x", 1, 1), ("x", "y", 0, 0), ("-3", "3", 0, 1),
     (r"\frac{2}{3}", r"\frac{1}{3}", 0, 1), ("17", r"\frac{17}{21}", 0, 0)],
)  # fmt: skip
def test_the_release_s_score_stands_beside_ours(answer, gold, exact, release):
    grade = GRADERS["math"].grade(f"\\boxed{{{answer}}}", Row("", "", gold))
    assert grade.scores == {"exact": exact, "release_compatible": release}


def test_gsm8k_has_the_rule_for_texts_and_the_aime_has_none():
    row = Row("", "", "1250", meta={"release_gold": "1,250"})
    scores = {"exact": 1, "release_compatible": 1}
    assert GRADERS["gsm8k"].grade("1,000+250=1,250\n#### 1250", row).scores["exact"] == 1
    assert GRADERS["gsm8k"].grade(r"\boxed{1,250}", row).scores == scores
    assert GRADERS["gsm8k"].grade(r"\boxed{1250.0}", row).scores == scores | {
        "release_compatible": 0
    }
    assert GRADERS["integer"].grade(r"\boxed{62}", Row("", "", "62")).scores == {"exact": 1}
