"""Questions with options: the letter that a text decides for, and its score."""

import re
from collections.abc import Mapping

from rmas.tasks.boxed import boxed, said
from rmas.tasks.rows import Row

_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"^(?:option|choice|answer)?\s*[(\[]?\s*([A-Za-z])\s*(?:[)\]]|[.:,]|$)", re.I)
_OTHER = re.compile(r"^[\s,./;&]*(?:(?:and|or)\s+)?[(\[]?[A-Z](?:[)\].,:]|$)")


def find_choice(text: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter of the last boxed answer, or of one that is said; None where there is none.

    With `options` (letter -> text) only these letters count, and the text of exactly one of them
    counts as its letter.
    """
    for found in (boxed(text), said(text)):
        if found is None:
            continue
        plain = _WRAPPED.sub(r"\1", found).strip().strip("$*{} ")
        match = _LETTER.match(plain)
        if match and _OTHER.search(plain[match.end() :]):
            continue  # several letters decide for none
        if match and (options is None or match[1].upper() in options):
            return match[1].upper()
        same = [k for k, option in (options or {}).items() if _same(option, plain)]
        if len(same) == 1:
            return same[0]
    return None


def score_choice(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The letter and its scores; the release takes an answer that cannot be read for A."""
    letter = find_choice(text, row.meta.get("options"))
    return letter, {
        "exact": float(letter == row.answer),
        "release_compatible": float((letter or "A") == row.answer),
    }


def _same(one: str, other: str) -> bool:
    return " ".join(one.lower().split()).rstrip(".") == " ".join(other.lower().split()).rstrip(".")
