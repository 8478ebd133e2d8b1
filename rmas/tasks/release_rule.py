r"""How the public release scores answers: its rules exactly, also where they flatter.

Published figures are by these rules, so `release_compatible` is what they give. Each function says
one thing that the release does; no time is more than linear in the length of a text.
"""

import re
from collections.abc import Callable, Sequence

_BOX_WITHOUT_BRACES = re.compile(r"\\boxed\{([^{}]+)\}")
_FINAL_ANSWER = re.compile(r"Final\s++Answer\s*+:\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_FINAL_CHOICE = re.compile(r"Final\s*+(?:Choice|Answer)\s*+:\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_LETTER_AFTER_WORDS = re.compile(
    r"(?:final\s*+(?:choice|answer)|correct\s*+(?:choice|option|answer)|choice|option|answer)"
    r"\s*+[:\-]?\s*+[(\[]?\s*+([A-D])\b",
    re.IGNORECASE,
)
_LETTER_AT_START = re.compile(r"\s*+[(\[]?\s*+([A-Da-d])(?:\s*+[)\]]|\s*+[:.\-]|$)")
_OPTION_LETTER = re.compile(r"\s*+[A-Da-d]\s*+[.):\-]\s*+")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac\{\s*+(-?\d+)\s*+\}\{\s*+(-?\d+)\s*+\}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_MONTH = re.compile(
    r"\b(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sep(?:tember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b"
)
_YEAR = re.compile(r"\b\d{4}\b")
_DAY_AND_MONTH = re.compile(r"\b\d{1,2}[/-]\d{1,2}(?:[/-]\d{2,4})?\b")
_DAY = re.compile(r"\b\d{1,2}(?:st|nd|rd|th)?\b")
_ORDINAL = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)\b")
_LONGEST_DATE = 200  # characters; a date is shorter, and parsing is not linear


def find_box(text: str) -> str | None:
    r"""The last `\boxed{...}` without inner braces, else the widest of the last line with any."""
    plain = _BOX_WITHOUT_BRACES.findall(text)
    if plain:
        return str(plain[-1]).strip()
    for line in reversed(text.split("\n")):
        start, end = line.find("\\boxed{"), line.rfind("}")
        if start >= 0 and start + len("\\boxed{") <= end:
            return line[start + len("\\boxed{") : end].strip()
    return None


def find_answer(text: str) -> str | None:
    """The boxed text, else what follows the last `Final Answer:`, else all of the text."""
    box = find_box(text)
    if box is not None:
        return box
    final = _FINAL_ANSWER.findall(text)
    return (final[-1].strip() if final else "") or text.strip() or None


def find_letter(text: str) -> str | None:
    """The letter in the box, else in the last final line, else in all of the text."""
    box = find_box(text)
    final = _FINAL_CHOICE.findall(text)
    for part in (box, final[-1] if final else None, text):
        letter = None if part is None else _letter(part.strip())
        if letter:
            return letter
    return None


def _letter(text: str) -> str | None:
    found = _LETTER_AFTER_WORDS.search(text) or _LETTER_AT_START.match(text)
    return found[1].upper() if found else None


def lacks_box(text: str) -> bool:
    """Whether the release asks once more for a mathematical answer."""
    return find_box(text) is None


def lacks_letter(text: str) -> bool:
    """Whether the release asks once more for a choice."""
    return find_letter(text) is None


def same_letter(text: str, gold: str) -> bool:
    """Whether a text chooses the gold letter; what has no letter counts as A, on both sides."""
    return (find_letter(text) or "A") == (find_letter(gold) or "A")


def same_math(text: str, gold: str) -> bool:
    """Whether one of four forms of the answer is that of the gold answer (MATH-500)."""
    return _same(text, gold.strip(), (first_integer, without_marks, without_blanks, leading_digits))


def same_text(text: str, gold: str) -> bool:
    """Whether one of three forms is the same: what the release does with all other answers.

    The gold answer is what follows `####`, where it has that.
    """
    mark = re.search(r"####\s*(.+)", gold, re.DOTALL)
    given = (mark[1].strip() if mark else "") or gold.strip()
    return _same(text, given, (date, without_articles, lower_case))


def _same(text: str, gold: str, forms: Sequence[Callable[[str], str]]) -> bool:
    answer = find_answer(text)
    return answer is not None and any(form(gold) and form(gold) == form(answer) for form in forms)


def first_integer(text: str) -> str:
    r"""The integer part of the first number with its sign; fractions of integers are decimals.

    Commas, `\left`, `\right` and `\circ` are dropped before.
    """
    plain = _FRACTION.sub(_as_decimal, _TEXT.sub(r"\1", text.strip()))
    for mark in ("\\left", "\\right", ",", "\\circ"):
        plain = plain.replace(mark, "")
    number = _NUMBER.search(plain)
    try:
        return str(int(number[0].split(".")[0])) if number else ""
    except ValueError:  # more digits than Python converts
        return ""


def _as_decimal(fraction: re.Match) -> str:
    try:
        return str(int(fraction[1]) / int(fraction[2]))
    except (ZeroDivisionError, OverflowError, ValueError):
        return fraction[0]


def without_marks(text: str) -> str:
    r"""Without `\text{}`, `\left`, `\right`, `$`, thin spaces, braces, quotes and blanks."""
    plain = _TEXT.sub(r"\1", text.strip())
    for mark in ("\\left", "\\right", "$", "\\,", "\\;", "\\!", "\\:", "{", "}", '"', "'"):
        plain = plain.replace(mark, "")
    return re.sub(r"\s+", "", plain)


def without_blanks(text: str) -> str:
    """Without blanks."""
    return re.sub(r"\s+", "", text)


def leading_digits(text: str) -> str:
    """The digits before the first point, without leading zeros and without a sign."""
    digits = "".join(re.findall(r"\d", text.split(".")[0]))
    return digits.lstrip("0") or ("0" if digits else "")


def lower_case(text: str) -> str:
    """In lower case, with plain quotes, hyphens and single blanks."""
    plain = text.strip().lower().replace("\u2019", "'").replace("`", "'")
    return re.sub(r"\s+", " ", re.sub("[\u2010-\u2015]", "-", plain)).strip()


def without_articles(text: str) -> str:
    """In lower case, without punctuation and articles."""
    plain = re.sub(r"[^\w\s]", " ", lower_case(text))
    return re.sub(r"\s+", " ", re.sub(r"\b(?:a|an|the)\b", " ", plain)).strip()


def date(text: str) -> str:
    """A date as `2020-03-05`, `2020-03` or `2020`, by what is given of it; empty for others."""
    plain = _ORDINAL.sub(r"\1", lower_case(text))
    year, month = _YEAR.search(plain), _MONTH.search(plain) or _DAY_AND_MONTH.search(plain)
    if not year or len(plain) > _LONGEST_DATE:
        return ""
    from dateutil import parser

    try:
        found = parser.parse(plain)
    except Exception:  # its parser raises many kinds
        return ""
    if not month:
        return found.strftime("%Y")
    return found.strftime("%Y-%m-%d" if _DAY.search(plain) else "%Y-%m")


def medqa_gold(answer: str, options: Sequence[str]) -> str:
    """The letter that the release takes for the right one of options with letters (`A: ...`).

    It is a letter in the answer's own text, else that of the first option whose text contains the
    answer's or is contained in it, else A.
    """
    named = find_letter(answer)
    if named:
        return named
    wanted = _option_text(answer)
    for option in options:
        own, letter = _option_text(option), _letter(option.strip())
        if letter and wanted and (wanted in own or own in wanted):
            return letter
    return "A"


def _option_text(text: str) -> str:
    plain = text.strip()
    letter = _OPTION_LETTER.match(plain)
    return re.sub(r"\s+", " ", plain[letter.end() if letter else 0 :]).strip().lower()
