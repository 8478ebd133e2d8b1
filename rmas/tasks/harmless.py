"""Which mathematical answers may be evaluated: none that could take very long.

Towers of powers, factorials of factorials and deep brackets are refused by their look; the time
limit of the process that grades (`grader_pool.py`) ends what is slow for another reason.
"""

import re

MAX_LENGTH = 400
"""Most characters of an answer that is parsed; gold answers are much shorter."""
_DEPTH = 12
_DIGITS = 5  # in an exponent, or in what a factorial is of
_POWER = re.compile(r"\^|\*\*")
_ONE = re.compile(r"\s*-?\s*(?:[\d.]+|[A-Za-z]|\\[A-Za-z]+)")
# In an exponent: one power, of a letter or of a number up to 3, to 3 at most.
_INNER = re.compile(r"[^\d^]*[0-3]?[^\d^]*\^[^\d^]*[0-3][^\d^]*(?:[1-9][^\d^]*)?")
_LARGE = re.compile(r"\\(?:[dt]?binom|sum|prod|Gamma|choose)")


def harmless(text: str) -> bool:
    """Whether a text may be parsed and simplified: few nested brackets, and no huge numbers."""
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    if deepest > _DEPTH or len(text) > MAX_LENGTH or "!!" in text:
        return False
    if _LARGE.search(text) and re.search(r"\d{5}", text):
        return False
    for power in _POWER.finditer(text):
        end = _end(text, power.end())
        exponent = text[power.end() : end]
        base = text[_start(text, power.start()) : power.start()]
        if _POWER.match(text[end:].lstrip(" ")) or not _is_small(exponent, base):
            return False
    for mark in re.finditer("(?<!\\\\)!", text):
        if not _is_small(text[_start(text, mark.start()) : mark.start()], ""):
            return False
    return True


def _is_small(exponent: str, base: str) -> bool:
    """Whether an exponent (or what a factorial is of) has few digits, and small powers in it."""
    if "!" in exponent or _LARGE.search(exponent):
        return False
    if _POWER.search(exponent) and not _INNER.fullmatch(exponent):
        return False
    numbers = re.findall(r"\d+", exponent + (base if _POWER.search(base) else ""))
    return sum(map(len, numbers)) <= _DIGITS


def _end(text: str, at: int) -> int:
    """Where the group or the symbol ends that begins at an index, with what is in its brackets."""
    token = _ONE.match(text, at)
    end, depth = token.end() if token else at, 0
    while end < len(text) and (depth or text[end] in "({ "):
        depth += (text[end] in "({") - (text[end] in ")}")
        end += 1
    return end


def _start(text: str, at: int) -> int:
    """Where the group or the number begins that ends at an index."""
    begin, depth = at, 0
    while begin and (depth or text[begin - 1] in ")}" or text[begin - 1].isdigit()):
        begin -= 1
        depth += (text[begin] in ")}") - (text[begin] in "({")
    return begin
