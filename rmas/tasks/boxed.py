r"""The answer in a text: the last `\boxed{...}`, or what is said to be the answer.

Boxes that are joined (`\boxed{2} and \boxed{3}`) are one list. What stands after a model's thinking
(`<think>...</think>`) comes before what stands in it.
"""

import re
from collections.abc import Callable

MAX_ANSWER = 10_000
"""Most characters of an answer; a longer text is not one."""
_MAX_LINE = 400

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[A-Za-z0-9+-]))")
_BARE = re.compile(r"[^\s$.,;\\]+")  # after `\boxed ` without a brace
_BETWEEN = re.compile(r"[$*]+|\\[()\[\]]|\\q?quad|\\text\s*\{([^{}]*)\}|\\[,;:! ]")
_JOINED = re.compile(
    r" *|\s*[,;&]\s*(?:and|or)?\s*(?:[A-Za-z][\w ]{0,9}= *)?|[ +]+"
    r"|\s*(?:[a-z()]+ +){0,4}(?:and|or)\s+(?:[A-Za-z]\w{0,9} *= *)?"
)
_THINKING = re.compile(
    r"[<\[](/?)(?:seed:)?(?:think|thinking|thought|reasoning)[>\]]"
    r"|<\|(?:begin|(end))_of_thought\|>"
    r"|<\|channel\|>(?:analysis|commentary|(final))(?:<\|message\|>)?",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"</?answer>|<\|\w+\|>")
_IS = (
    r"\**\s*(?:(?:to|for|of) [^\n.:=]{1,60}?\s|\([^()\n]{1,40}\)\s*)?"
    r"(?:(?:is|are|(?:should|would|must|will|can only) be)\b|:|=)\s*:?[*_]*"
)
_SAID = re.compile(
    r"(?<![A-Za-z])(?:answers?|ans\.?|(?:final|correct|right|best|my) (?:choice|option)"
    rf"|final result){_IS}|<answer>"
    # A heading of its own; the answer is in the next line.
    r"|^[ \t]*+(?:[#*]++[ \t*]*+(?:the )?(?:(?:final|correct) )?|final )answer[*: \t]*+$",
    re.IGNORECASE | re.MULTILINE,
)
_RESULT = re.compile(
    rf"(?<![A-Za-z])the (?:result|value|solution){_IS}", re.IGNORECASE
)  # where none is the answer
_HASHES = re.compile(r"^#{4}[ \t]*+(?:\*\*)?(?=[-+$\\(\d.])", re.MULTILINE)
_CONCLUDES = re.compile(
    r"\W*(?:therefore|thus|hence|so|consequently|in conclusion|finally)\b", re.IGNORECASE
)
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$((?:\\.|[^$\\])+)\$(?!\d)|\\\((.+?)\\\)", re.DOTALL
)
_FILLER = re.compile(r"(?:therefore|thus|then|simply|just|exactly|equal to|given by)\b[ ,:]*")
_NO_VALUE = re.compile(r"(?:in)?correct\b|right\b|wrong\b", re.IGNORECASE)
_MORE = re.compile(r"\s*(?:,|,?\s*(?:and|or)\b)\s*")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_PART = r"\$(?:\\.|[^$\\])+\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\]|\*\*[^*\n]+\*\*"
_NUMBER = r"(?<![\w.])[-+]?\\?\$?\d[\d,./]*(?<![,./])(?:\\?%)?(?![\w(^])"
_NUMBERS = re.compile(_NUMBER)
_VERB = r"(?:\b(?:is|are|be|equals?|gets?|gives?|have|has)\b|=)\s*(?:therefore |then |just )?"
_VALUES = re.compile(rf"({_VERB})?({_PART})|{_VERB}({_NUMBER})", re.IGNORECASE)
_REASON = re.compile(
    r",?\s(?:because|since|which|as (?:it|we|the)|and (?:so|we))\b|, as\b|\s\((?:exact\b|mod )"
)
_WORDS = re.compile(r"(?<![A-Za-z\\])(?:[A-Za-z]{3,}|[A-Za-z]{2} )")
SENTENCE = re.compile(r"\.(?:\s|$)")
"""The end of a sentence, and of an answer in it."""


def beyond_thinking(find: Callable[[str], str | None], text: str) -> str | None:
    """What `find` finds in a text without its model's thinking; where that is None, in all of it.

    A tag that is not closed hides what follows it, one that was not opened what is before it.
    """
    outside: list[str] = []
    start, thinks = 0, False
    for tag in _THINKING.finditer(text):
        closes = any(tag.groups())
        if not closes and not thinks:
            outside.append(text[start : tag.start()])
        elif closes and not thinks:
            outside.clear()
        start, thinks = tag.end(), not closes
    if not thinks:
        outside.append(text[start:])
    own = "".join(outside)
    if own == text:
        return find(text)
    return find(own) or find(own.strip().rsplit("\n", 1)[-1]) or find(text)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with matching braces, or of `\boxed 5`; else None.

    Of boxes with at most a few words between them, a list. The time is linear in the length of the
    text.
    """
    found: list[str] = []
    later = len(text)  # where the box after the current one begins
    for match in reversed(list(_BOX.finditer(text))):
        start = match.end()
        end: int | None
        if match.group().endswith("{"):
            end = _closing(text, start)
            after = len(text) if end is None else end + 1
        else:
            bare = _BARE.match(text[start : start + 100])
            end = after = start + bare.end() if bare else start
        if found and not (after <= later and _are_joined(text[after:later])):
            break
        if end is None:
            if len(text) - start > MAX_ANSWER:
                break
            continue  # an earlier box may be closed
        content = text[start:end].strip()
        if not content:
            break
        if content not in found:
            found.insert(0, content)
        later = match.start()
    return ", ".join(found) or None


def _are_joined(between: str) -> bool:
    """Whether the text between two boxes makes one list of them."""
    if len(between) > 80:
        return False
    plain = _BETWEEN.sub(lambda match: match[1] or "", between)
    return _JOINED.fullmatch(plain) is not None


def said(text: str, end: re.Pattern | None = SENTENCE) -> str | None:
    """What follows the last `answer is`, `answer:`, heading `Answer` or `####`; None without any.

    It is a formula, or ends before the first match of `end`, else with its line.
    """
    marks = sorted(mark.end() for form in (_SAID, _HASHES) for mark in form.finditer(text))
    marks = marks or [mark.end() for mark in _RESULT.finditer(text)]
    rests = (text[at : at + 2 * _MAX_LINE].lstrip('*_`" \t\r\n:') for at in reversed(marks))
    rest = next((rest for rest in rests if not _NO_VALUE.match(rest)), "")
    return _value(_FILLER.sub("", rest, count=1) if _FILLER.match(rest) else rest, end)


def concluded(text: str) -> str | None:
    """The value in a last sentence that begins with `therefore` or so."""
    last = text.rstrip()[-_MAX_LINE:].rsplit("\n", 1)[-1]
    sentence = SENTENCE.split(last.removesuffix("."))[-1]
    start = _CONCLUDES.match(sentence)
    return _within(sentence[start.end() :], last.endswith(".")) if start else None


def alone(text: str) -> str | None:
    """A text that is only a formula or a number, without words; None for others."""
    line = text.strip()
    if not 0 < len(line) <= _MAX_LINE or _BOX.search(line):
        return None
    plain = re.sub(r"\\text\w*\s*\{[^{}]*\}|\\[A-Za-z]+", " ", line)
    if "\n\n" in line or _WORDS.search(plain) or not re.search(r"[0-9\\]|^\$.+\$$", line):
        return None
    return _value(line, None)


def _within(sentence: str, ended: bool) -> str | None:
    """The value in a sentence: the last one that something is, else the only one in it."""
    if _BOX.search(sentence):
        return None  # a box that is empty or not closed
    values = list(_VALUES.finditer(sentence))
    parts = [value[2] for value in values if value[2]]
    found = [value[2] or value[3] for value in values if value[1] or value[3]]
    if not found and len(parts) == 1:
        found = parts
    elif not found and not parts and ended:
        numbers = _NUMBERS.findall(sentence)
        found = numbers if len(numbers) == 1 else []
    return _value(found[-1], None) if found else None


def _value(rest: str, end: re.Pattern | None) -> str | None:
    """The answer at the start of a text."""
    rest = _SPECIAL.split(rest, maxsplit=1)[0]
    if _BOX.match(rest):
        return None  # a box without its closing brace
    formulas, at = [], 0
    while formula := _FORMULA.match(rest, at):
        formulas.append(next(filter(None, formula.groups())).strip())
        more = _MORE.match(rest, formula.end())
        at = more.end() if more else len(rest)
    if formulas:
        return ", ".join(formulas) or None
    bold = _BOLD.match(rest)
    answer = bold[1] if bold else rest.split("\n")[0][:_MAX_LINE]
    if end is not None:
        answer = end.split(answer, maxsplit=1)[0]
    if end is SENTENCE:
        inner = _within(answer, True) if _WORDS.match(answer) else None
        answer = inner or _REASON.split(answer, maxsplit=1)[0]
    return re.sub(r"^[*_`\s$]+|[*_`\s$.]+$", "", answer) or None


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`, within `MAX_ANSWER` characters."""
    depth, at = 1, start
    end = text.rfind("}", start, start + MAX_ANSWER) + 1
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
