r"""The answer in a text: the last `\boxed{...}`, or what follows `the answer is`."""

import re

MAX_ANSWER = 10_000
"""Most characters of an answer; a longer text is not one."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[A-Za-z0-9+-]))")
_BARE = re.compile(r"[^\s$.,;\\]+")  # after `\boxed ` without a brace
_SAID = re.compile(
    r"\b(?:final answer|the answer|answer)\s*(?:is\b|:|=)\s*:?[ \t]*([^\n]{1,400})", re.IGNORECASE
)
SENTENCE = re.compile(r"\.(?:\s|$)")
"""The end of a sentence, and of an answer in it."""


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with matching braces, or of `\boxed 5`; else None.

    The time is linear in the length of the text.
    """
    for match in reversed(list(_BOX.finditer(text))):
        start = match.end()
        if not match.group().endswith("{"):
            found = _BARE.match(text[start : start + 100])
            return found[0] if found else None
        end = _closing(text, start)
        if end is not None:
            return text[start:end].strip() or None
        if len(text) - start > MAX_ANSWER:
            return None
    return None


def said(text: str, end: re.Pattern | None = SENTENCE) -> str | None:
    """What follows the last `answer is` or `answer:`; None where nothing does.

    It is a formula, or ends before the first match of `end`, else with its line.
    """
    found = _SAID.findall(text)
    if not found:
        return None
    answer = found[-1].strip("*_ \t")
    if _BOX.search(answer):
        return None  # a box without its closing brace
    formula = re.match(r"\$([^$]+)\$", answer)
    if formula:
        return formula[1].strip() or None
    if end is not None:
        answer = end.split(answer, maxsplit=1)[0]
    return re.sub(r"^[*_\s$]+|[*_\s$.]+$", "", answer) or None


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`, within `MAX_ANSWER` characters."""
    depth, at = 1, start
    end = min(len(text), start + MAX_ANSWER)
    while at < end:
        c = text[at]
        if c == "\\":
            at += 2  # an escaped brace does not count
            continue
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return at
        at += 1
    return None
