r"""Where a text gives its answer: the last `\boxed{...}`, or what it says is its answer."""

import re

MAX_ANSWER = 10_000
"""Characters of an answer; a longer one is no answer."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[A-Za-z0-9+-]))")
_SAID = re.compile(
    r"\b(?:final answer|the answer|answer)\s*(?:is\b|:|=)\s*:?[ \t]*([^\n]{1,400})", re.IGNORECASE
)
SENTENCE = re.compile(r"\.(?:\s|$)")
"""Where a sentence ends, and with it an answer in one."""


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` that is closed, braces in it matched; or None.

    `\boxed 5` counts as well. Linear in the length of the text.
    """
    for match in reversed(list(_BOX.finditer(text))):
        start = match.end()
        if not match.group().endswith("{"):
            return re.match(r"[^\s$.,;\\]*", text[start : start + 100])[0] or None
        end = _closing(text, start)
        if end is not None:
            return text[start:end].strip() or None
        if len(text) - start > MAX_ANSWER:
            return None
    return None


def said(text: str, end: re.Pattern | None = SENTENCE) -> str | None:
    """What stands behind the last `answer is` or `answer:`; None where nothing does.

    It is a formula, or goes on to the first `end`, or else to the end of its line.
    """
    found = _SAID.findall(text)
    if not found:
        return None
    answer = found[-1].strip("*_ \t")
    if _BOX.search(answer):
        return None  # a box that was not closed: the text ends in its answer
    formula = re.match(r"\$([^$]+)\$", answer)
    if formula:
        return formula[1].strip() or None
    if end is not None:
        answer = end.split(answer, maxsplit=1)[0]
    return re.sub(r"^[*_\s$]+|[*_\s$.]+$", "", answer) or None


def _closing(text: str, start: int) -> int | None:
    """The place of the brace that closes the one before `start`, within `MAX_ANSWER`."""
    depth, at = 1, start
    end = min(len(text), start + MAX_ANSWER)
    while at < end:
        c = text[at]
        if c == "\\":
            at += 2  # an escaped brace is none
            continue
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return at
        at += 1
    return None
