"""Questions with options: the letter that a text chooses, and its score."""

import re
from collections.abc import Mapping

from rmas.tasks.boxed import boxed, said
from rmas.tasks.grader import BOX, Grader
from rmas.tasks.rows import Row

_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_LETTER = re.compile(
    r"^(?:(?:option|choice|answer)\b)?\s*[(\[]?\s*([A-Za-z])\s*"
    r"(?:[)\]][.:,]?|[.:,]|$|(?=\s(?:because|since|as|due)\b))",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    r"^[\s,./;&]*(?:(?:and|or)\s+)?[(\[]?([A-Za-z])(?:[)\].,:;]|$|\s+(?:and|or)\b)"
)


def find_choice(text: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter in the last boxed answer, or after `the answer is`; None where there is none.

    With `options` (letter -> text) only these letters count, and the text of exactly one option
    counts as its letter, alone or after it. An answer with several letters has none.
    """
    stated = said(text, None)  # further sentences may follow
    for found in (boxed(text), stated):
        if found is None:
            continue
        plain = _WRAPPED.sub(r"\1", found).strip().strip("$* ")
        match = _LETTER.match(plain)
        letter, rest = (match[1].upper(), plain[match.end() :]) if match else ("", "")
        same = [k for k, option in (options or {}).items() if _same(option, plain)]
        if len(same) == 1 and len(plain) > 1:
            return same[0]
        if not match or (options is not None and letter not in options):
            continue
        if options is not None and rest.strip() and _same(options[letter], rest):
            return letter
        ended = found is stated and match[0].rstrip().endswith(".")
        other = None if ended else _ANOTHER.match(rest)
        if other and (options is None or other[1].upper() in options):
            continue
        return letter
    return None


def lacks_choice(text: str) -> bool:
    """Whether a text has neither a letter as its answer nor a box (as with an option's text)."""
    return find_choice(text) is None and boxed(text) is None


def score_choice(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The letter and its scores; the release counts an answer that cannot be parsed as A."""
    letter = find_choice(text, row.meta.get("options"))
    return letter, {
        "exact": float(letter == row.answer),
        "release_compatible": float((letter or "A") == row.answer),
    }


def _same(one: str, other: str) -> bool:
    plain = (" ".join(side.lower().split()).strip("$. ") for side in (one, other))
    return next(plain) == next(plain)


CHOICE = Grader(
    "choice",
    find_choice,
    score_choice,
    "process",
    opening=BOX,
    lacks=lacks_choice,
    release_rule="it counts an answer that cannot be parsed as A",
)
"""Grades answers that are the letter of an option."""
