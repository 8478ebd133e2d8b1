r"""Mathematical answers: finds them in a text, and scores them."""

import dataclasses
import re

from rmas.tasks import release_rule
from rmas.tasks.boxed import alone, beyond_thinking, boxed, concluded, said
from rmas.tasks.grader import BOX, Grader, Need, ReleaseRule, is_text
from rmas.tasks.harmless import MAX_LENGTH
from rmas.tasks.math_equality import equal, normalise
from rmas.tasks.rows import Row

_FINAL = re.compile(r"\bfinal answer\b", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,18}(?:\.0*)?")
_NAMED = re.compile(r"^[^=<>]*[A-Za-z][^<>]*=")


def find_math(text: str) -> str | None:
    r"""The last `\boxed{...}`, or what is said to be the answer; None where there is neither."""
    return beyond_thinking(_find, text)


def _find(text: str) -> str | None:
    box = boxed(text)
    if box is None:
        return said(text) or concluded(text) or alone(text)
    # A final answer after the last box is the later word, unless it is words.
    later = text[text.rfind("\\boxed") :]
    final = said(later) if _FINAL.search(later) else None
    return final if final and re.search(r"\d", final) else box


def lacks_math(text: str) -> bool:
    """Whether a text has no answer, or only words without digits after `the answer is`."""
    answer = find_math(text)
    if answer is None:
        return True
    words = len(answer.split()) > 1 and not re.search(r"[0-9\\]", answer)
    return words and beyond_thinking(boxed, text) is None


def score_math(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The answer, and whether it equals the gold answer."""
    answer = find_math(text)
    return answer, {"exact": float(answer is not None and equal(answer, row.answer))}


def score_integer(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The same for answers that are integers, as those of AIME; leading zeros do not count."""
    answer = find_math(text)
    short = answer if answer and len(answer) <= MAX_LENGTH else ""
    plain = _NAMED.sub("", normalise(short)).strip("\\$%")
    hit = _INTEGER.fullmatch(plain) and int(plain.split(".")[0]) == int(row.answer)
    return answer, {"exact": float(bool(hit))}


MATH = Grader(
    "math",
    find_math,
    score_math,
    "process",
    opening=BOX,
    lacks=lacks_math,
    release_lacks=release_rule.lacks_box,
    needs=(Need("answer", is_text, "a gold answer"),),
    release=ReleaseRule(
        "an answer is right if the integer parts of the first numbers agree, or the texts without "
        "LaTeX's marks, or the digits before the first point: 3 equals -3, and 2/3 equals 1/3",
        release_rule.same_math,
    ),
)
"""Grades answers that are mathematical expressions."""

WORD_PROBLEM = dataclasses.replace(
    MATH,
    name="gsm8k",
    release=ReleaseRule(
        "its command does not offer this benchmark, but its code compares such answers as dates, "
        "and as texts without case, punctuation and articles",
        release_rule.same_text,
    ),
)
"""The same for GSM8K, which the release's code compares as texts."""

INTEGER = Grader(
    "integer",
    find_math,
    score_integer,
    "process",
    opening=BOX,
    lacks=lacks_math,
    release_lacks=release_rule.lacks_box,
    needs=(
        Need("answer", lambda gold: re.fullmatch(r"-?\d{1,18}", gold) is not None, "an integer"),
    ),
)
"""Grades answers that are integers."""
