"""Questions with options: the letter that a text chooses, and its score."""

import re
from collections.abc import Mapping

from rmas.tasks import release_rule
from rmas.tasks.boxed import beyond_thinking, boxed, said
from rmas.tasks.grader import CHOICE_BOX, Grader, Need, ReleaseRule
from rmas.tasks.rows import Row

_WRAPPED = re.compile(
    r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}|\\displaystyle\b|\\[()\[\]]"
)
_LETTER = re.compile(
    r"^(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\b(?:\s+is\b)?)?[\s:]*[(\[]?\s*"
    r"([A-Za-z])\s*(?:[)\]][.:,]?|[.:,]|$|(?=\s(?:because|since|as|due|is\s+correct|(?:and|but)\s+not)\b)"
    r"|(?=\s+[-\u2013\u2014/]\s))",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    r"^[\s,./;&]*(?:(?:and|or)\s+)?[(\[]?([A-Za-z])(?:[)\].,:;]|$|\s+(?:and|or)\b)"
)
_CORRECT = re.compile(
    r"(?:(?i:option|choice|answer)\s*\(?|\(|^|[.:,]\s+)([A-Z])\)?\s+is\s+(?:the\s+)?"
    r"(?:correct|right|best)\b|(?i:option|choice)\s*:?\s*\(?([A-Z])\b\)?[.\s]*\Z"
    r"|(?i:\b(?:I|we)\s+(?:would\s+)?(?:choose|select|pick)\s+(?:option\s+)?\(?)([A-Z])\b",
    re.MULTILINE,
)
_QUOTES = re.compile(r"[\"`<>\u201c\u201d]|(?<!\w)'|'(?!\w)")
_EXPLAINED = re.compile(r"\W*(?:explanation|reason|because|since|rationale)", re.IGNORECASE)
_NAME = re.compile(r"[A-Z0-9\\$]\S*(?: \S+){0,7}")
_ALONE = re.compile(r"[*_\s]*[(\[]?([A-Z])(?:[)\]]?[.:)]?[*_\s]*|\s+(?:because|since)\b.*)")
_WITH_TEXT = re.compile(r"[*_\s]*[(\[]?([A-Z])[)\]]?(?:[.:)]|\s[-\u2013])[*_]*\s+\S.*")


def find_choice(text: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter in the last boxed answer, or that is said to be the answer; None without any.

    With `options` (letter -> text) only these letters count, and the text of exactly one option
    counts as its letter, alone or after it. An answer with several letters has none. Without a
    statement a last line counts that is a letter, alone or before an option's text.
    """
    return beyond_thinking(lambda own: _find(own, options), text)


def _find(text: str, options: Mapping[str, str] | None) -> str | None:
    stated = said(text, None)  # further sentences may follow
    box = boxed(text)
    for found in (box, stated):
        if found is None:
            continue
        plain = _WRAPPED.sub(lambda match: match[1] or "", found)
        plain = _QUOTES.sub("", plain).strip().strip("$* ")
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
    return None if box or stated else _unmarked(text, options)


def _unmarked(text: str, options: Mapping[str, str] | None) -> str | None:
    """The letter of `Option B is correct`, or of a last line `B`, `(B)`, `**B**` or `B: text`.

    Also that of a first line before an explanation, and of a last line that is an option's text.
    """
    named = ["".join(letters) for letters in _CORRECT.findall(text)]
    lines = text.strip().split("\n")
    if len(lines) == 1 and len(lines[0]) == 1:
        lines = [lines[0].upper()]
    after = next((line for line in lines[1:] if line.strip()), "")
    alone = _ALONE.fullmatch(lines[0] if _EXPLAINED.match(after) else lines[-1])
    listed = [line[1] for line in map(_WITH_TEXT.fullmatch, lines) if line]
    same = [k for k, option in (options or {}).items() if _same(option, lines[-1].strip("*_ "))]
    letters = named[-1:] or ([alone[1]] if alone else same or listed)
    return letters[0] if len(letters) == 1 and letters[0] in (options or "ABCDEFGHIJ") else None


def lacks_choice(text: str) -> bool:
    """Whether a text has neither a letter as its answer nor a box or name (an option's text)."""
    named = beyond_thinking(lambda own: boxed(own) or said(own), text) or ""
    return find_choice(text) is None and boxed(text) is None and not _NAME.fullmatch(named)


def score_choice(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The letter, and whether it is the right one."""
    letter = find_choice(text, row.meta.get("options"))
    return letter, {"exact": float(letter == row.answer)}


def _same(one: str, other: str) -> bool:
    plain = (" ".join(side.lower().split()).strip("$. ") for side in (one, other))
    return next(plain) == next(plain)


def _are_options(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 1
        and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
    )


CHOICE = Grader(
    "choice",
    find_choice,
    score_choice,
    "process",
    opening=CHOICE_BOX,
    lacks=lacks_choice,
    release_lacks=release_rule.lacks_letter,
    needs=(
        Need("options", _are_options, "an object of options, letter -> text,"),
        Need("answer", lambda gold: re.fullmatch("[A-Z]", gold) is not None, "a capital letter"),
    ),
    release=ReleaseRule(
        "it takes a letter behind words such as `answer` from anywhere in the text, and counts an "
        "answer without any letter as A",
        release_rule.same_letter,
    ),
)
"""Grades answers that are the letter of an option."""
