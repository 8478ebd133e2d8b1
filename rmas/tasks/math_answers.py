r"""Mathematical answers: finds them in a text, and compares two of them.

Both sides are normalised (units, degrees, currency, thousands separators and a leading `x =` do
not count) and compared by math-verify. Lists in brackets are compared here, part by part and with
their brackets, since an interval and a point look alike. Answers that could take very long (towers
of powers, factorials, deep braces) are refused before they are parsed; the time limit of the
process that grades (`grader_pool.py`) covers the rest.
"""

import re
import string

from rmas.tasks.boxed import boxed, said
from rmas.tasks.grader import BOX, Grader
from rmas.tasks.rows import Row
from rmas.tasks.units import split_unit

MAX_LENGTH = 400
"""Most characters of an answer that is parsed; gold answers are much shorter."""
_DEPTH = 12

_NO_SPACE = re.compile(r"(?<!\\)\\!\s*|\{,\}\s*(?=\d{3}(?!\d))")
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\(?:quad|qquad)\b|~|\s+")
_SIZES = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits)(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FACTORS = re.compile(r"(?<=[})])([A-Za-z]{2,})$")  # math-verify drops these as units
_BARE = re.compile(r"\\frac\s*(\\pi|[A-Za-z0-9])\s*(\\pi(?![A-Za-z])|[A-Za-z0-9])")
_RELATION = re.compile(r"[<>=]|\\(?:in|leq?|geq?|neq?|lt|gt)(?![A-Za-z])")
_BASED = re.compile(r"([0-9A-Z]+)(?:_\{?(\d+)\}?)?")
_BLANK = re.compile(r"(?<![A-Za-z\\])([A-Za-z0-9]) (?=[A-Za-z](?![A-Za-z]))")
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_NAMED = re.compile(r"^\s*[A-Za-z](?:\([A-Za-z]\))?\s*(?:=|\\in\b)\s*(?=[^=]+$)")
_ENDLESS = re.compile(r"\\(?:prod|sum|int|lim)|gamma", re.IGNORECASE)
_POWER = re.compile(r"\^|\*\*")
_TOWER = re.compile(r"(?:\^|\*\*) *(?:\{[^{}]*\^|\(?(?:[\d.]+|\w)\)? *(?:\^|\*\*))")
_INTEGER = re.compile(r"-?\d+")
_PROSE = re.compile(
    r"(?<![A-Za-z\\])(?!(?:sin|cos|tan|log|ln|exp|sqrt|pi)\b)[A-Za-z]{3,}(?![A-Za-z{])"
)
_COUNTED = re.compile(
    r"([-+]?[\d./]+|[-+]?\\frac\{\d+\}\{\d+\})"
    r"(?: (?!(?:not|dozen|hundred|thousand|million|billion|trillion)s?\b)[A-Za-z]{3,})+"
)
_OR = re.compile(r",? +(?:or|and) +")
_WORDS = re.compile(r"(?i:yes|no)|(?=.*[A-Za-z]{3})[A-Za-z](?:[A-Za-z']| (?!-)|-(?! ))*")
_COMMANDS = re.compile(r"\\\\|\\(?:begin|end)\s*\{\w+\}(?:\s*\{[clr|\s]*\})?|\\[A-Za-z]+")
_FEW = 4  # letters of a product
_ALPHABET = set(string.ascii_letters)
_BRACKETS = {"(": ")]", "[": ")]", "\\{": ("\\}",)}


def find_math(text: str) -> str | None:
    r"""The last `\boxed{...}`, or what follows `the answer is`; None where there is neither."""
    return boxed(text) or said(text)


def lacks_math(text: str) -> bool:
    """Whether a text has no answer, or only words without digits after `the answer is`."""
    answer = find_math(text)
    return answer is None or (
        boxed(text) is None and len(answer.split()) > 1 and not re.search(r"[0-9\\]", answer)
    )


def score_math(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The answer and its scores; the release compares only the first integers."""
    answer = find_math(text)
    if answer is None:
        return None, {"exact": 0.0, "release_compatible": 0.0}
    exact = float(equal(answer, row.answer))
    return answer, {"exact": exact, "release_compatible": float(same_integer(answer, row.answer))}


def score_integer(text: str, row: Row) -> tuple[str | None, dict[str, float]]:
    """The same for answers that are integers, as those of AIME; leading zeros do not count."""
    answer = find_math(text)
    if answer is None:
        return None, {"exact": 0.0, "release_compatible": 0.0}
    plain = _unnamed(normalise(answer), "")
    hit = re.fullmatch(r"[+-]?\d{1,18}(?:\.0*)?", plain) is not None
    hit = hit and int(plain.split(".")[0]) == int(row.answer)
    return answer, {
        "exact": float(hit),
        "release_compatible": float(same_integer(answer, row.answer)),
    }


def equal(answer: str, gold: str) -> bool:
    """Whether an answer equals the gold answer. No answer is executed, but some may take long.

    Raises only what math-verify raises.
    """
    if len(answer) > MAX_LENGTH:
        return False
    (one, unit), (other, unit_other) = _measured(answer), _measured(gold)
    if unit and unit_other and unit != unit_other:
        return False
    one, other = _unnamed(one, other), _unnamed(other, one)
    if one == other:
        return bool(one)
    if not (_harmless(one) and _harmless(other)):
        return False
    return _equal(one, other)


def normalise(answer: str) -> str:
    r"""A normal form, in LaTeX; many equal answers have the same one."""
    return _measured(answer)[0]


def _measured(answer: str) -> tuple[str, str]:
    """The normal form of an answer, and the name of its unit (empty without)."""
    text = answer.strip().strip("$").strip()
    dollars = "dollar" if text.startswith("\\$") else ""
    text, unit = split_unit(text)
    text, plain = split_unit(_plain(text))
    text = _NAMED.sub("", text.strip())
    text = text.rstrip(".").strip()
    if re.fullmatch(r"[-+]?\d*\.\d+", text):
        text = text.rstrip("0").rstrip(".") or "0"
    if _is_words(text):
        return text.lower(), ""
    text = re.sub(r" *([-+*/^=,(){}\[\]<>|]) *", r"\1", _OR.sub(",", text))
    return _BLANK.sub(r"\1", text), unit or plain or dollars


def _plain(text: str) -> str:
    """Without sizes, styles, currency and thousands commas."""
    text = _SIZES.sub("", text)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.replace("\\varnothing", "\\emptyset")
    text = _BARE.sub(r"\\frac{\1}{\2}", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°", "", text)
    text = text.replace("\\%", "%").replace("\\$", "").replace("$", "").replace("\u2212", "-")
    text = _TEXT.sub(r" \1", text)
    text = _NO_SPACE.sub(lambda m: "," if m[0].startswith("{") else "", text)
    text = _SPACES.sub(" ", text).strip()
    # In brackets and lists a comma separates two numbers.
    if _THOUSANDS.sub("", text).count(",") == 0 and not text.startswith(("(", "[", "\\{")):
        text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def _unnamed(text: str, other: str) -> str:
    """What follows the `=` of a name, or of a tuple of names, unless the other side has one."""
    name, equals, value = text.rpartition("=")
    named = equals and not _RELATION.search(name + other) and _split(value)
    return value if named and (_split(name) or [""])[1:] == [] else text


def _is_words(text: str) -> bool:
    """Whether a text is words, and not a product, difference or function of symbols."""
    return _WORDS.fullmatch(text) is not None and (len(text) < 3 or _prose(text))


def _equal(one: str, other: str) -> bool:
    list_one, list_other = _parts(one), _parts(other)
    if list_one is None and list_other is None:
        return _single(one, other)
    if list_one is None or list_other is None:
        return False
    (kind, parts), (kind_other, parts_other) = list_one, list_other
    kinds = {kind, kind_other}
    # A list without brackets may stand for a point or a set, never for an interval.
    if len(kinds) > 1 and kinds not in ({"", "()"}, {"", "\\{\\}"}):
        return False
    if len(parts) != len(parts_other):
        return False
    if "()" not in kinds and kinds <= {"", "\\{\\}"}:
        return _same_set(parts, parts_other)
    return all(_single(a, b) for a, b in zip(parts, parts_other, strict=True))


def _single(one: str, other: str) -> bool:
    if one == other:
        return True
    same_words, factors = one.lower() == other.lower(), _are_factors(one, other)
    if _is_words(one) and _is_words(other) and not factors:
        return same_words
    based, based_other = _BASED.fullmatch(one), _BASED.fullmatch(other)
    if based and based_other and (based[2] or based_other[2]):  # a base, on one side at least
        same = based[2] == based_other[2] or None in (based[2], based_other[2])
        return same and based[1] == based_other[1]
    one, other = split_unit(one)[0], split_unit(other)[0]
    one, other = _unnamed(one, other), _unnamed(other, one)
    one, other = _without_words(one, other), _without_words(other, one)
    if (_prose(one) or _prose(other)) and not factors:
        return same_words
    if re.fullmatch(r"[-+]?\d+", one) and re.fullmatch(r"[-+]?\d+", other):
        return int(one) == int(other)
    if not _RELATION.search(one + other) and _symbols(one) != _symbols(other):
        return False  # math-verify reads some letters as units, and x as X
    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    how = [LatexExtractionConfig(), ExprExtractionConfig()]
    sides = (_FACTORS.sub(r"(\1)", side) for side in (one, other))
    answer, gold = (parse(f"${s}$", extraction_config=how, parsing_timeout=None) for s in sides)
    return bool(verify(gold, answer, timeout_seconds=None))


def _without_words(text: str, other: str) -> str:
    """A number without the words after it, where the other side has none."""
    match = _COUNTED.fullmatch(text)
    return match[1] if match and not _prose(other) else text


def _prose(text: str) -> bool:
    """Whether a text has words that are not mathematical functions or constants."""
    return _PROSE.search(re.sub(r"\\(?:begin|end)\{\w+\}", "", text)) is not None


def _are_factors(one: str, other: str) -> bool:
    """Whether runs of letters on both sides are short products of the same letters, not words."""
    runs = [re.findall(r"[A-Za-z]+", _COMMANDS.sub(" ", side)) for side in (one, other)]
    letters = [sorted("".join(own)) for own in runs]
    return letters[0] == letters[1] and max(map(len, [*runs[0], *runs[1], ""])) <= _FEW


def _symbols(text: str) -> set[str]:
    """The letters of a formula, except those of commands and functions, and `e`."""
    return set(re.sub(r"[A-Za-z]{3,}|e", " ", _COMMANDS.sub(" ", text))) & _ALPHABET


def _same_set(one: list[str], other: list[str]) -> bool:
    left = list(other)
    for part in one:
        same = next((p for p in left if _single(part, p)), None)
        if same is None:
            return False
        left.remove(same)
    return True


def _parts(text: str) -> tuple[str, list[str]] | None:
    """Brackets and parts of a list of two or more; None for other texts."""
    for opening, closings in _BRACKETS.items():
        for closing in closings:
            if text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : len(text) - len(closing)]
                parts = _split(inner)
                if parts and len(parts) > 1:
                    return opening + closing, parts
    parts = [
        part.replace("\\pm", sign).lstrip("+")
        for part in _split(text) or ()
        for sign in ("+-" if part.count("\\pm") == 1 else ("\\pm",))
    ]
    return ("", parts) if len(parts) > 1 else None


def _split(text: str) -> list[str] | None:
    """Split at the commas outside of all brackets; None where brackets do not match."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return None
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts] if depth == 0 else None


def _harmless(text: str) -> bool:
    """Whether a text may be parsed and simplified: few nested brackets, no towers, small powers."""
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    if deepest > _DEPTH or len(text) > MAX_LENGTH or _ENDLESS.search(text):
        return False
    factorials = text.count("!") + len(re.findall(r"\\[dt]?binom", text))
    if factorials and (factorials > 2 or "!!" in text or re.search(r"\d{3}|\)!|\}!", text)):
        return False
    if _TOWER.search(text):
        return False
    exponents = re.split(_POWER, text)[1:]
    return all(len(digits) <= 3 for e in exponents for digits in re.findall(r"^\W*(\d+)", e))


def same_integer(answer: str, gold: str) -> bool:
    """The release's rule: equal first integers, or equal texts where a side has no integer."""
    one, other = (_INTEGER.search(side.replace(",", "")) for side in (answer, gold))
    if one and other:
        return one[0].lstrip("0") == other[0].lstrip("0")
    return answer.strip() == gold.strip()


MATH = Grader(
    "math",
    find_math,
    score_math,
    "process",
    opening=BOX,
    lacks=lacks_math,
    release=same_integer,
    release_rule="it compares the first integers of both answers, which other answers may share",
)
"""Grades answers that are mathematical expressions."""

INTEGER = Grader(
    "integer",
    find_math,
    score_integer,
    "process",
    opening=BOX,
    lacks=lacks_math,
    release=same_integer,
    release_rule="it compares the first integer of an answer, whatever else the answer has",
)
"""Grades answers that are integers."""
