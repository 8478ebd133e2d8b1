"""Questions of fact: exact match and F1 after the usual normalisation."""

import re
import string
import unicodedata
from collections import Counter

from rmas.tasks import release_rule
from rmas.tasks.boxed import MAX_ANSWER, beyond_thinking, boxed, said
from rmas.tasks.grader import BOX, Grader, Need, is_text
from rmas.tasks.rows import Row

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))
_ALIKE = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212", "''\"\"---")
_SHORT = (
    *("St", "Dr", "Mr", "Mrs", "Ms", "Jr", "Sr", "Prof", "Mt", "Ft", "Lt", "Col", "Gen"),
    *("Sgt", "Capt", "Rev", "vs", "Inc", "Co", "Adm", "Cmdr", "Maj", "Brig", "Cpl", "Pvt"),
    *("Gov", "Sen", "Rep", "Pres", "Hon", "Fr", "Bros", "Ltd", "Corp", "Ave", "Blvd", "Rd"),
    *("Univ", "Dept", "Esq", "Ph", "etc", "feat", "Rt", "Messrs", "Mme", "Mlle", "Msgr", "Supt"),
)
_NUMBERED = (
    *("No", "Nos", "Op", "Vol", "Ch", "Pt", "Art", "Fig", "Sec", "pp", "Bk", "Jan", "Feb", "Mar"),
    *("Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec"),
)
_BEGIN = (
    *("It", "He", "She", "They", "The", "This", "That", "These", "There", "We", "I", "In", "A"),
    *("An", "His", "Her", "Its", "Their", "So", "Thus", "Both", "But", "However", "Therefore"),
    *("Hence", "Because", "Since"),
)
_NAMES_END = re.compile(
    # Not after initials (J. R. R. Tolkien, U.S. Navy) and short words, unless a sentence begins.
    r"(?<![^\w][A-Za-z])(?<!^[A-Za-z])(?<!\.[A-Za-z])"
    + "".join(rf"(?<!\b{word})" for word in _SHORT)
    # Nor between `No.` and its number.
    + "".join(rf"(?!(?<=\b{word})\.\s*\d)" for word in _NUMBERED)
    + rf"\.(?:\s|$)|\.\s+(?=(?:{'|'.join(_BEGIN)})\b(?!\.))"
)
_CLOSED = ("yes", "no", "noanswer")


def find_fact(text: str) -> str | None:
    """The boxed answer, what follows `the answer is`, or the last line; None for an empty text."""
    found = beyond_thinking(lambda own: _stated(own) or _last_line(own), text)
    return _WRAPPED.sub(r"\1", found[:MAX_ANSWER]) if found else None


def _stated(text: str) -> str | None:
    return boxed(text) or said(text, _NAMES_END)


def _last_line(text: str) -> str | None:
    return text.strip().rsplit("\n", 1)[-1].strip() or None


def lacks_fact(text: str) -> bool:
    """Whether a text has neither a boxed answer nor one that is said to be it."""
    return beyond_thinking(_stated, text) is None


def normalise(text: str) -> str:
    """A text in lower case, without punctuation, articles and repeated blanks."""
    plain = unicodedata.normalize("NFKC", text).translate(_ALIKE).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def f1(answer: str, gold: str) -> float:
    """F1 of the words of two normalised texts; 0 where only one is `yes`, `no` or `noanswer`."""
    one, other = normalise(answer), normalise(gold)
    if one != other and (one in _CLOSED or other in _CLOSED):
        return 0.0
    a, b = one.split(), other.split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def score_fact(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The answer, its exact match and its F1."""
    answer = find_fact(text)
    if answer is None:
        return None, {"exact": 0.0, "f1": 0.0}
    hit = float(normalise(answer) == normalise(row.answer))
    return answer, {"exact": hit, "f1": f1(answer, row.answer)}


QA = Grader(
    "qa",
    find_fact,
    score_fact,
    "process",
    opening=BOX,
    lacks=lacks_fact,
    release_lacks=release_rule.lacks_box,
    needs=(Need("answer", is_text, "a gold answer"),),
)
"""Grades answers that are short texts, by exact match and F1."""
