"""Questions with options: the letter that a text chooses, and its scores."""

import pytest

from rmas.tasks.choice_answers import find_choice
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row

ORGANS = {"A": "a vein", "B": "An artery.", "C": "a bone", "D": "none of them"}


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
def test_the_answer_and_its_score(text, letter):
    row = Row("", "", "B", meta={"options": ORGANS})
    grade = GRADERS["choice"].grade(text, row)
    assert grade.answer == letter
    assert grade.scores["exact"] == float(letter == "B")


def test_the_release_counts_an_unreadable_choice_as_a():
    row = Row("", "", "A", meta={"options": ORGANS})
    assert GRADERS["choice"].grade("no idea", row).scores == {"exact": 0, "release_compatible": 1}
    row = Row("", "", "B", meta={"options": ORGANS})
    assert GRADERS["choice"].grade("no idea", row).scores == {"exact": 0, "release_compatible": 0}


SPECIES = {"A": "S. aureus", "B": "E. coli", "C": "H. pylori", "D": "$\\frac{1}{2}$"}


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
        # Without a box, in other words, and alone.
        ("Final Choice: B", "B"),
        ("**Final Choice:** (B)", "B"),
        ("The correct option is B.", "B"),
        ("The correct answer is (B).", "B"),
        ("The answer is option (B).", "B"),
        ("Option B is correct.", "B"),
        ("(A) is wrong. (B) is correct.", "B"),
        ("The answer: \\(B\\)", "B"),
        ("The answer is **B**.", "B"),
        ("Answer: B) text", "B"),
        ("### Final Answer\nB", "B"),
        ("B", "B"),
        ("(B)", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("B: E. coli", "B"),
        ("It grows there.\n\nB.", "B"),
        ("Vitamin C is the best source.", None),
        ("A. S. aureus\nB. E. coli", None),
        ("A patient with pain", None),
        ("\\boxed{A} and \\boxed{B}", None),
        ("The answer should be C.", "C"),
        ("The best choice is B", "B"),
        ("My choice is B.", "B"),
        ("I choose B.", "B"),
        ("I would select option (B).", "B"),
        ("Thus, B is the correct answer.", "B"),
        ('The answer is "C".', "C"),
        ("The answer is `C`", "C"),
        ("The answer is C and not A.", "C"),
        ("Answer: C - H. pylori", "C"),
        ("<answer>B</answer>", "B"),
        ("C\n\nExplanation: A and B do not grow there.", "C"),
        ("It is a rod.\n\nE. coli", "B"),
        ("e. coli", "B"),
        ("b", "B"),
        ("I choose A or maybe not.\nI choose B.", "B"),
        ("The answer is C and A.", None),
        # Thinking does not outweigh what follows it.
        ("<think>\\boxed{A}</think> The answer is B.", "B"),
        ("<think>\\boxed{A}</think>\nB", "B"),
        ("\\boxed{A}</think>\nOption B is correct.", "B"),
    ],
)
def test_the_letter_that_a_text_chooses(text, letter):
    assert find_choice(text, SPECIES) == letter


def test_an_option_may_name_another_letter():
    assert find_choice("\\boxed{A. C. difficile}", {"A": "C. difficile", "C": "E. coli"}) == "A"
    assert find_choice("\\boxed{A. C. difficile}", {"A": "Iron", "C": "E. coli"}) is None
