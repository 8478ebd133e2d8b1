r"""Whether two mathematical answers are equal: by math-verify, which gets both in a form it reads.

Styles, sizes, units and thousands separators go; symbols of Unicode become commands. Our own rules
were each measured to help: number bases, kinds of brackets (a set is not a point), units that
differ, letters that differ only in case, decimal numbers and very small ones compared exactly.
Answers that could take very long (towers of powers, factorials, deep braces) are refused before
they are parsed; the time limit of the process that grades (`grader_pool.py`) covers the rest.
"""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rmas.tasks.units import split_unit

MAX_LENGTH = 400
"""Most characters of an answer that is parsed; gold answers are much shorter."""
_DEPTH = 12
_ROUNDING, _MOST_DIGITS = 6, 15  # digits after the point: math-verify's own, and most
_PRECISION = 50  # digits: with math-verify's own 15, numbers below 1e-15 would all be equal

_SYMBOLS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u00d7": "\\times ", "\u00f7": "/", "\u00b7": "\\cdot ",
        "\u03c0": "\\pi ", "\u03b8": "\\theta ", "\u221e": "\\infty ", "\u2264": "\\le ",
        "\u2265": "\\ge ", "\u2260": "\\ne ", "\u2248": "\\approx ", "\u00b1": "\\pm ",
        "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ", "\u2205": "\\emptyset ",
        "\u00b0": "^\\circ ", "\u2019": "'",
    }
)  # fmt: skip
_SMALL = (  # what loses its meaning as a full-size character
    (re.compile("([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)"), r"^{\1}"),
    (re.compile("([\u2080-\u2089]+)"), r"_{\1}"),
    (re.compile("([\u00bc-\u00be\u2150-\u215e])"), r"\\frac{\1}"),
)
_STYLES = (
    (r"(?<!\\)\\\\(?=[A-Za-z]{2}|[{}%!$])(?!(?s:.*)\\end\s*\{)", r"\\"),  # escaped twice
    (r"\\(?:left|right|middle|[Bb]igg?[lrm]?|(?:display|text|script)style|limits)"
     r"(?![A-Za-z])\.?", ""),
    (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:bf|it|sf|tt|bfseries)(?![A-Za-z])", ""),
    (r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm|underline|boxed|fbox)(?![A-Za-z])", ""),
    (r"\\[cdt]frac(?![A-Za-z])", r"\\frac"),
    (r"\b([AaPp])\. ?[Mm]\b\.?", r"\1m"),
)  # fmt: skip
_FORMS = (
    (r"\\(?:mathrm|operatorname|mbox|rm)\s*\{([^{}]*)\}", r"\1"),
    (r"\\varnothing", r"\\emptyset"),
    (r"(?<!\\)\\!\s*|\{,\}\s*(?=\d{3}(?!\d))", ""),
    (r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s+", " "),
    (r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree(?![A-Za-z])", ""),
    # Functions and numbers as they are typed.
    (r"\u221a\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt{\1}"),
    (r"(?:\u221a|\\?sqrt)\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![A-Za-z\\])(pi|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1 "),
    (r"\\frac\s*(\\pi(?![A-Za-z])|[A-Za-z0-9])\s*(\\pi(?![A-Za-z])|[A-Za-z0-9])",
     r"\\frac{\1}{\2}"),
    (r"(?<![\d.])(\d+) (\d+)/(\d+)(?![\d.])", r"\1\\frac{\2}{\3}"),
    (r"\*\*", "^"),
    # A value that is announced.
    (r"^(?:[A-Za-z] *)?\\(?:approx|simeq|sim|doteq)(?![A-Za-z])|^[A-Za-z' ]{4,}= *", ""),
)  # fmt: skip
_AREA = re.compile("(?<=[0-9A-Za-z)}]) ?[cdkm]?m[\u00b2\u00b3]")
_TEXT = re.compile(r"\\text(?:rm|bf|it|normal|sf)?\s*\{([^{}]*)\}")
_OPERATOR = re.compile(r" *([-+*/^=,(){}\[\]<>|&]) *")
_FACTORS = re.compile(r"(?<![A-Za-z\\])([A-Za-z0-9]) (?=[A-Za-z](?![A-Za-z]))")
_THOUSANDS = re.compile(r"(?<![\d.])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_COMMA = re.compile(r"[-+]?(?:0, \d{2,}|\d+, (?:\d{2}|\d{4,}))")
_DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_NAMED = re.compile(r"^[A-Za-z]=(?=[^=<>\\]+$)")
_SET, _POINT = re.compile(r"\\\{.*,.*\\\}"), re.compile(r"\([^()]*,[^()]*\)")
_BASED = re.compile(r"([0-9A-Z]+)_\{?(\d+)\}?")
_SCALE = re.compile(
    r"[\d}](?: |\\text *\{ *)*(?:not|dozen|hundred|thousand|million|billion|trillion)",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?<![A-Za-z\\{])(?:[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z']{2,})(?![A-Za-z])")
_RELATION = re.compile(r"[<>=]|\\(?:in|leq?|geq?|neq?|lt|gt|approx)(?![A-Za-z])")
_SUM = re.compile(r"[^=]*[A-Za-z0-9})][-+][^=]*=")
_COMMAND = re.compile(r"\\\\|\\(?:begin|end)\s*\{\w+\}(?:\s*\{[clr|\s]*\})?|\\[A-Za-z]+")

_ENDLESS = re.compile(r"\\(?:int|lim)|gamma|\\(?:prod|sum)(?=.*\d{3})", re.IGNORECASE)
_POWER = re.compile(r"\^|\*\*")
_TOKEN = re.compile(r"-?\s*(?:[\d.]+(?![({])|[A-Za-z](?![({])|\\[A-Za-z]+)")


def equal(answer: str, gold: str) -> bool:
    """Whether an answer equals the gold answer. No answer is executed, but some may take long.

    Raises only what math-verify raises.
    """
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    (one, unit), (other, unit_other) = _plain(answer), _plain(gold)
    if unit and unit_other and unit != unit_other:
        return False
    if one == other or _same_word(one, other):
        return bool(one)
    if not all(map(harmless, (answer, gold, one, other))):
        return False
    worded = [_WORD.search(_COMMAND.sub(" ", side)) is not None for side in (one, other)]
    if any(worded):
        return not all(worded) and _said(answer, gold)
    one, other = _squeezed(one), _squeezed(other)
    if not (_RELATION.search(one) and _RELATION.search(other)):
        one, other = _NAMED.sub("", one), _NAMED.sub("", other)
    if one == other:
        return bool(one)
    for decide in (_by_base, _by_digits, _by_brackets):
        decided = decide(one, other)
        if decided is not None:
            return decided
    return not _is_half(one, other) and _verified(one, other)


def harmless(text: str) -> bool:
    """Whether a text may be parsed and simplified: few nested brackets, no towers, small powers."""
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    if deepest > _DEPTH or len(text) > MAX_LENGTH or _ENDLESS.search(text):
        return False
    factorials = text.count("!") - text.count("\\!") + len(re.findall(r"\\[dt]?binom", text))
    if factorials and (factorials > 2 or "!!" in text or re.search(r"\d{3}|\)!|\}!", text)):
        return False
    if any(_is_tower(text[power.end() :].lstrip()) for power in _POWER.finditer(text)):
        return False
    exponents = re.split(_POWER, text)[1:]
    return all(len(digits) <= 3 for e in exponents for digits in re.findall(r"^\W*(\d+)", e))


def _is_tower(exponent: str) -> bool:
    """Whether the exponent at the start of a text has a power in it, or behind it."""
    token = _TOKEN.match(exponent)
    end, depth = token.end() if token else 0, 0
    while end < len(exponent) and (depth or exponent[end] in "({"):
        depth += (exponent[end] in "({") - (exponent[end] in ")}")
        end += 1
    within, behind = exponent[:end], exponent[end:].lstrip()
    return _POWER.search(within) is not None or _POWER.match(behind) is not None


def normalise(answer: str) -> str:
    r"""A normal form, in LaTeX; many equal answers have the same one."""
    return _squeezed(_plain(answer)[0])


def _plain(answer: str) -> tuple[str, str]:
    """An answer as plain LaTeX, and the name of its unit (empty without)."""
    text = _AREA.sub("", answer)
    for pattern, new in _SMALL:
        text = pattern.sub(new, text)
    text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS)).replace("\u2044", "}{").strip()
    text = re.sub(r"\\[()\[\]]", "", text).strip("* ").rstrip(".").strip("$ ")
    dollars = "dollar" if text.startswith("\\$") else ""
    text, unit = split_unit(_unbraced(_rewritten(text, _STYLES)))
    text = _unbraced(_TEXT.sub(r" \1", _rewritten(text, _FORMS)).strip().rstrip("."))
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    if "," not in text:
        text = text.replace(";", ",")
    # In brackets and lists a comma separates two numbers.
    if _THOUSANDS.sub("", text).count(",") == 0 and not text.startswith(("(", "[", "\\{")):
        text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text, plain = split_unit(text)
    return text.strip(" ,"), unit or plain or dollars


def _rewritten(text: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text


def _squeezed(text: str) -> str:
    """Without blanks around operators and between factors, which math-verify reads as units."""
    return _FACTORS.sub(r"\1", _OPERATOR.sub(r"\1", text)).replace(",", ", ")


def _same_word(one: str, other: str) -> bool:
    """Whether two words differ only in the case of their first letters."""
    words = one[1:].islower() and other[1:].islower() and one.replace(" ", "").isalpha()
    return words and one.casefold() == other.casefold()


def _unbraced(text: str) -> str:
    """Without braces around all of it."""
    text = text.strip()
    opened = (text[:n].count("{") > text[:n].count("}") for n in range(1, len(text)))
    return _unbraced(text[1:-1]) if len(text) > 1 and text[-1] == "}" and all(opened) else text


def _by_base(one: str, other: str) -> bool | None:
    """Numbers with a base: the same digits in the same base, which one side may leave out."""
    based, based_other = _BASED.fullmatch(one), _BASED.fullmatch(other)
    if not based and not based_other:
        return None
    digits, base = based.groups() if based else (one, None)
    digits_other, base_other = based_other.groups() if based_other else (other, None)
    return digits == digits_other and (base == base_other or None in (base, base_other))


def _by_digits(one: str, other: str) -> bool | None:
    """Decimal numbers, compared exactly; a comma is the point where the other side has a point."""
    if _COMMA.fullmatch(one) and "." in other:
        one = one.replace(", ", ".")
    elif _COMMA.fullmatch(other) and "." in one:
        other = other.replace(", ", ".")
    if _DECIMAL.fullmatch(one) and _DECIMAL.fullmatch(other):
        return Decimal(one) == Decimal(other)
    return None


def _by_brackets(one: str, other: str) -> bool | None:
    """A set is not a point."""
    kinds = [(_SET.fullmatch(side), _POINT.fullmatch(side)) for side in (one, other)]
    return False if any(a[0] and b[1] for a, b in (kinds, kinds[::-1])) else None


def _is_half(answer: str, gold: str) -> bool:
    """Whether the answer has no relation, and the gold answer is an equation of a sum: `x+y=3`."""
    return _SUM.match(gold) is not None and not _RELATION.search(answer)


def _verified(one: str, other: str) -> bool:
    from math_verify import verify

    answer, gold = _parsed(one), _parsed(other)
    if answer is None or gold is None:
        return one == other
    digits = [max(map(len, re.findall(r"\.(\d+)", side)), default=0) for side in (one, other)]
    # Of a number that is not a decimal one, no more digits are known than math-verify compares.
    rounding = min(max(_ROUNDING, *digits), _MOST_DIGITS) if min(digits) else _ROUNDING
    same = verify(gold, answer, rounding, numeric_precision=_PRECISION, timeout_seconds=None)
    return same and (_RELATION.search(one + other) is not None or not _differ_in_case(one, other))


def _said(answer: str, gold: str) -> bool:
    """Whether a number or formula within words is the other side, which has none."""
    from math_verify import parse, verify

    sides = [side if "$" in side or "\\" not in side else f"${side}$" for side in (answer, gold)]
    if not all(re.search(r"[0-9\\]", side) for side in sides) or _SCALE.search("\n".join(sides)):
        return False
    said = [parse(side, parsing_timeout=None) for side in sides]
    return bool(verify(said[1], said[0], timeout_seconds=None))


def _parsed(text: str) -> Any | None:
    """The expression of math-verify; None for what it cannot read."""
    from latex2sympy2_extended.math_normalization import NormalizationConfig
    from math_verify import parse
    from math_verify.parser import LatexExtractionConfig

    # Units are ours: those of math-verify are also the last letters of a product.
    form = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
    how = [LatexExtractionConfig(normalization_config=form)]
    text = re.sub(r"(?<=\d)i(?![A-Za-z])", " i", text)
    found = parse(
        f"${text}$", extraction_config=how, parsing_timeout=None, fallback_mode="no_fallback"
    )
    return found[0] if found else None


def _differ_in_case(one: str, other: str) -> bool:
    sides = (re.sub(r"[A-Za-z]{3,}", " ", _COMMAND.sub(" ", side)) for side in (one, other))
    letters, letters_other = (set(re.findall("[A-Za-z]", side)) for side in sides)
    lower = {c.lower() for c in letters} == {c.lower() for c in letters_other}
    return lower and letters != letters_other
