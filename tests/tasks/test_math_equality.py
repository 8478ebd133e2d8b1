r"""Mathematical answers: equal and unequal pairs."""

import pytest

from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.math_equality import equal
from rmas.tasks.rows import Row

EQUAL = [
    ("1/2", r"\frac{1}{2}"), (r"\dfrac{3}{4}", r"\frac34"), ("0.5", r"\frac{1}{2}"),
    (r"-\frac{1}{3}", "-1/3"), (r"\frac{-1}{3}", r"-\frac{1}{3}"), ("2.50", "2.5"),
    (".5", "0.5"), ("10,000", "10000"), (r"10{,}000", "10000"), ("1,234,567", "1234567"),
    ("007", "7"), (r"2\sqrt{2}", r"\sqrt{8}"), (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"3\pi/4", r"\frac{3}{4}\pi"), (r"\frac{3\pi}{4}", r"\frac34 \pi"), ("2^{10}", "1024"),
    ("x=5", "5"), ("5", "x = 5"), (r"f(x)=x+1", "x+1"), ("1+x", "x+1"), ("(x+1)^2", "x^2+2x+1"),
    ("4i+3", "3+4i"), ("90", r"90^\circ"), (r"90^{\circ}", r"90^\circ"), ("45 degrees", "45"),
    (r"5\text{ cm}", "5"), (r"5 \text{ square meters}", "5"), ("12 cm^2", "12"),
    (r"\$5", "5"), ("$5$", "5"), (r"50\%", r"50\%"), ("50%", r"50\%"), (r"50\%", "50"),
    ("(1, 2)", "(1,2)"), (r"\left(1, \frac{1}{2}\right)", "(1,0.5)"), ("1,2", "(1,2)"),
    ("[1,2)", "[1, 2)"), (r"(-\infty,3]", r"(-\infty, 3]"), (r"x\in[0,1]", "[0,1]"),
    (r"(-\infty,0)\cup(0,\infty)", r"(-\infty, 0) \cup (0, \infty)"),
    (r"\{1,2,3\}", r"\{3,2,1\}"), ("1,2", "2,1"), (r"1, 2", r"\{2,1\}"),
    (r"1 \pm \sqrt{2}", r"1+\sqrt{2},1-\sqrt{2}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\begin{pmatrix}0.5&1\\2&3\end{pmatrix}", r"\begin{pmatrix}\frac12&1\\2&3\end{pmatrix}"),
    (r"\text{east}", "east"), ("East", r"\text{east}"), (r"\text{Evelyn}", "Evelyn."),
    (r"\textbf{yes}", "Yes"), ("123456789012345678901234567890", "123456789012345678901234567890"),
    ("10!", "3628800"), (r"\binom{5}{2}", "10"), ("\u22123", "-3"),
    (r"\log_2 8", "3"), ("12 apples", "12"), (r"12 \text{ red apples}", "12"), (r"e^{2}", "e^2"),
    ("3.0", "3"), (r"6{,}000 ", "6000"),
]  # fmt: skip
UNEQUAL = [
    ("1/2", "1/3"), ("3", "4"), ("-3", "3"), ("0.33", r"\frac{1}{3}"), ("3.14", r"\pi"),
    ("(1,2)", "(2,1)"), ("(2,1)", "(3,1)"), ("[1,2)", "[1,2]"), ("[1,2]", "(1,2)"),
    ("1,2", "[1,2]"), ("(1,2)", r"\{1,2\}"), (r"\{1,2\}", r"\{1,2,3\}"),
    ("12345678901234567890", "12345678901234567891"), (r"2\sqrt{2}", r"2\sqrt{3}"),
    ("x+1", "x+2"), ("3+4i", "3-4i"), ("east", "west"), (r"\text{A}", r"\text{B}"),
    ("10000", "1000"), ("1,000", "(1,0)"), ("5", "(5,5)"), ("1", "1,2"), ("", "5"),
    (r"(-\infty,3)", r"(-\infty,3]"), (r"\begin{pmatrix}1\\2\end{pmatrix}",
     r"\begin{pmatrix}2\\1\end{pmatrix}"), ("2^{10}", "1025"),
    (r"\frac{1}{2}, \frac{1}{3}", r"\frac{1}{2}, \frac{1}{4}"), ("5x", "5"), ("5 or 6", "5"),
]  # fmt: skip


@pytest.fixture(scope="module")
def graders():
    with GraderPool(processes=1, seconds=10) as made:
        yield made


def test_equal_answers(graders):
    """In processes as in a run; texts before the box do not count."""
    texts = [f"we get 7, so \\boxed{{{answer}}}." for answer, _ in EQUAL]
    grades = graders.grade("math", texts, [Row("", "", gold) for _, gold in EQUAL])
    wrong = [(p, g) for p, g in zip(EQUAL, grades, strict=True) if g.scores["exact"] != 1]
    assert wrong == []


def test_unequal_answers(graders):
    texts = [f"it is \\boxed{{{answer}}}" for answer, _ in UNEQUAL]
    grades = graders.grade("math", texts, [Row("", "", gold) for _, gold in UNEQUAL])
    wrong = [(p, g) for p, g in zip(UNEQUAL, grades, strict=True) if g.scores["exact"] != 0]
    assert wrong == []
    assert not any(grade.note for grade in grades)


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
        # Numbers, exactly.
        ("0.00000012", "0.00000034", False),
        ("0.1234567", "0.1234568", False),
        ("(0.5, 0.00000012)", "(0.5, 0.00000034)", False),
        ("0.333333", "\\frac{1}{3}", True),
        ("\\frac{1}{2^{98}}", "\\frac{1}{2^{99}}", False),
        ("\\{1, \\frac{1}{2^{98}}\\}", "\\{1, \\frac{1}{2^{99}}\\}", False),
        ("1e3", "1000", True),
        ("1000,99", "1000.99", True),
        ("2,5", "2.5", False),
        ("4\\sqrt(2)", "4", False),
        ("2\\sqrt(3)", "2\\sqrt{3}", True),
        ("1 - \\frac{1}{\\mathrm{e}}", "1 + \\frac{1}{\\mathrm{e}}", False),
        # Equations: one side alone is not the answer, but the value of a name is.
        ("0", "5x - 7y + 11z + 4 = 0", False),
        ("-50", "4x-5y=-50", False),
        ("1", "\\frac{x^2}{16} - \\frac{y^2}{9} = 1", False),
        ("3", "x+y=3", False),
        ("11a+c", "7 = 11a+c", False),
        ("5", "x=5", True),
        ("x=5", "5", True),
        ("x+y=5", "y=5-x", True),
        ("2x+4y-3=0", "y=-\\frac{1}{2}x+\\frac{3}{4}", True),
        ("5+3=8", "8", True),
        ("[\\sqrt{2},\\infty)", "m \\geq \\sqrt{2}", True),
        ("\\frac{NO}{BO}=\\frac{1}{\\sqrt{6}}", "\\frac{1}{\\sqrt{6}}", True),
        # As people and models type it.
        ("pi/2", "\\frac{\\pi}{2}", True),
        ("(-\u221a3, \u221a3)", "(-\\sqrt{3}, \\sqrt{3})", True),
        ("11 \u221a23", "11\\sqrt{23}", True),
        ("(2,\u221e)", "(2,\\infty)", True),
        ("14.0 + -1.0i", "14-i", True),
        ("x\u00b2 + 2\u2075", "x^2+32", True),
        ("10\u00b9\u00b2", "10^{12}", True),
        ("204\u2085", "204_5", True),
        ("3\u00bd", "\\frac{7}{2}", True),
        ("31/2", "3\u00bd", False),
        ("3*s**2", "3s^2", True),
        ("137 1/2", "137 \\frac{1}{2}", True),
        ("\\\\frac{1}{2}", "\\frac{1}{2}", True),
        ("\\(9\\)", "9", True),
        ("\\approx -2", "-2", True),
        ("x \u2248 7.5", "7.5", True),
        ("5\u00a0000", "5000", True),
        ("10\\,080", "10080", True),
        ("10 080", "10080", True),
        ("1,\n2", "1,2", True),
        ("-1 m\u00b2", "-1", True),
        ("80 cm^2", "80", True),
        ("6:00\\text{ p.m.}", "6:00", True),
        ("\\$36", "36", True),
        ("$\\$36$", "36", True),
        # Styles, braces and separators.
        ("\\Bigl(0,9) \\cup (9,36\\Bigr)", "(0,9) \\cup (9,36)", True),
        ("{\\bf -2}", "-2", True),
        ("\\color{red}{-2}", "-2", True),
        ("\\textcolor{blue}{-2}", "-2", True),
        ("\\underline{\\frac{1}{2}}", "\\frac{1}{2}", True),
        ("\\boxed{204_5}", "204_5", True),
        ("**9**", "9", True),
        ("[0; 3)", "[0,3)", True),
        ("|x-3|\\text{ units}", "|x-3|", True),
        ("\\sqrt{51} m\u00b2", "\\sqrt{51}", True),
        ("x = 204_5", "204_5", True),
        ("x = 204_5", "y = 204_5", False),
        ("-125\\textnormal{ miles}", "-125", True),
        ("{3, 5, 7}", "3, 5, 7", True),
        ("{(-1,6)}", "(-1,6)", True),
        ("{60^\\circ \\text{C}}", "60^\\circ \\text{C}", True),
        ("3; 5; 7", "3, 5, 7", True),
        ("(5,2),(7,2)", "p=5,q=2;p=7,q=2", True),
        ("\\displaystyle \\text{(B)}", "\\text{(B)}", True),
        # Words around a number or a formula.
        ("the answer is 5", "5", True),
        ("The largest $n$ is 34", "34", True),
        ("The sum is $\\frac{1}{2}$", "0.5", True),
        ("twelve", "12", False),
        ("\\text{July 20}", "\\text{June 20}", False),
        ("12 \\text{ feet}+1", "12 \\text{ feet}", False),
        ("12 million", "12", False),
        ("9^9^9", "9^9^9+0", False),
        ("\\dfrac{2^{2005}}{3}", "\\frac{2^{2005}}{3}", True),  # too large to be evaluated
        ("9**9**9**9", "1", False),
    ],
)
def test_pairs(answer, gold, wanted):
    assert equal(answer, gold) is wanted
