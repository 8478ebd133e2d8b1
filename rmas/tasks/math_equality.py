"""Whether two mathematical answers are equal: by math-verify, which gets both in forms it reads.

It first gets our form (without styles, units and thousands separators), and where that differs
also the answers as they stand. Our own rules were each measured to help: number bases, kinds of
brackets (a set is not a point), units that differ, letters that differ, decimal numbers and very
small ones compared exactly, scale words such as `million`, and one side of an equation.
"""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rmas.tasks.harmless import MAX_LENGTH, harmless
from rmas.tasks.units import split_unit

_ROUNDING, _MOST_DIGITS = 6, 15  # digits after the point: math-verify's own, and most
_PRECISION = 50  # digits: with math-verify's own 15, numbers below 1e-15 would all be equal

_SYMBOLS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u00b7": "\\cdot ", "\u221e": "\\infty ",
        "\u2264": "\\le ", "\u2265": "\\ge ", "\u00b1": "\\pm ", "\u2208": "\\in ",
    }
)  # fmt: skip
_SMALL = (  # what loses its meaning as a full-size character
    (re.compile("([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)"), r"^{\1}"),
    (re.compile("([\u2080-\u2089]+)"), r"_{\1}"),
    (re.compile("([\u00bc-\u00be\u2150-\u215e])"), r"\\frac{\1}"),
)
_STYLES = (
    (r"\\(?:left|right|middle|[Bb]igg?[lrm]?|(?:display|text|script)style|limits)"
     r"(?![A-Za-z])\.?", ""),
    (r"^\s*\\text(?:bf)?\s*\{\s*\([A-J]\)\s*\}(?:\\ |\\quad|~|\s)*(?=.)", ""),  # an option's letter
    (r"\\(?:text)?color(?:box)?\s*\{[^{}]*\}|\\(?:bf|it|sf|tt|bfseries)(?![A-Za-z])", ""),
    (r"\\(?:math(?:bf|it|sf)|boldsymbol|bm|pmb|underline|boxed|fbox|cancel|[Ll]arge)(?![A-Za-z])"
     r"|\\(?:text\w*|mathrm)\s*(?=\{\s*[\\$])", ""),
    (r"[\u20ac\u00a3\u00a5]|\bUSD\b|\bRs\.(?= ?\d)", ""),
    (r"\b([AaPp])\. ?[Mm]\b\.?", r"\1m"),
)  # fmt: skip
_FORMS = (
    (r"\\varnothing", r"\\emptyset"),
    (r"(?<!\\)\\!\s*|\{,\}\s*(?=\d{3}(?!\d))", ""),
    (r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s+", " "),
    (r"(?:\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree(?![A-Za-z]))(?: ?[CF](?![A-Za-z]))?", ""),
    (r"(?<=\d) (?:[NJWV]|Hz|[kMG]B|\\Omega)$", ""),
    (r"(?<=\d)[eE]([-+]?\d+)(?!\w)", r"\\times 10^{\1}"),
    (r"^\\\{ *[A-Za-z] *(?:\\mid|[:|]) *([^{}]*)\\\}$", r"\1"),
    # Functions and numbers as they are typed.
    (r"(?<![A-Za-z\\])(pi|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1 "),
    (r"\\frac\s*(\\pi(?![A-Za-z])|[A-Za-z0-9])\s*(\\pi(?![A-Za-z])|[A-Za-z0-9])",
     r"\\frac{\1}{\2}"),
    (r"(?<![\d.])(\d+) (\d+)/(\d+)(?![\d.])", r"\1\\frac{\2}{\3}"),
    (r"\*\*", "^"),
)  # fmt: skip
_TYPED = (
    (r"\u221a\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt{\1}"),
    (r"(?:\u221a|\\?sqrt)\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1"),
)
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
_VARIABLE = re.compile(r"\\(?:theta|alpha|beta|gamma|phi|omega|lambda|mu|rho|sigma)(?![a-z])")
_INDEX = re.compile(r"_(?:\{[^{}]*\}|\w)|'+|(?<=[A-Za-z])\([^()]*\)|(?<=[A-Za-z])\^\{-1\}")
_NAME = re.compile(
    r"[A-Za-z]|\([A-Za-z, ]+\)|m? ?\\[a-z]+ ?[A-Z]*|[A-Za-z](?:, ?[A-Za-z])+|[A-Za-z' ]{4,}"
)
_COMMAND = re.compile(r"\\\\|\\(?:begin|end)\s*\{\w+\}(?:\s*\{[clr|\s]*\})?|\\[A-Za-z]+")


def equal(answer: str, gold: str) -> bool:
    """Whether an answer equals the gold answer. No answer is executed, but some may take long.

    Raises only what math-verify raises.
    """
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    answer, gold = _rewritten(answer, _TYPED), _rewritten(gold, _TYPED)
    (one, unit), (other, unit_other) = _plain(answer), _plain(gold)
    if unit and unit_other and unit != unit_other:
        return False
    if one == other or _same_word(one, other):
        return bool(one)
    if not all(map(harmless, (answer, gold, one, other))):
        return False
    worded = [_WORD.search(_COMMAND.sub(" ", side)) is not None for side in (one, other)]
    one, other = _squeezed(one), _squeezed(other)
    if not (_RELATION.search(one) and _RELATION.search(other)):
        one, other = _NAMED.sub("", one), _NAMED.sub("", other)
    if one == other:
        return bool(one)
    for decide in (_by_base, _by_digits, _by_brackets):
        decided = decide(one, other)
        if decided is not None:
            return decided
    if _is_half(one, other) or _SCALE.search(f"{answer}\n{gold}"):
        return False
    if not any(worded) and _verified(f"${one}$", f"${other}$", one, other, own=True):
        return True
    if one.endswith("%") != other.endswith("%"):
        return equal(one.rstrip("\\%"), other.rstrip("\\%"))
    if not (any(worded) or _RELATION.search(one + other)) and _letters(one) != _letters(other):
        return False
    return any(
        _verified(said, wanted, one, other)
        for said in _marked(answer, worded == [True, False])
        for wanted in _marked(gold, worded == [False, True])
    )


def _letters(side: str) -> set[str]:
    """The letters of a side that are variables, also those of products."""
    found = re.findall("(?<![A-Za-z])[a-z]{1,2}(?![A-Za-z])", _COMMAND.sub(" ", side))
    return set("".join(found)) - {*"eid"}


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
    numbers, others = one.split(", "), other.split(", ")
    if all(map(_DECIMAL.fullmatch, (*numbers, *others))):
        return sorted(map(Decimal, numbers)) == sorted(map(Decimal, others))
    return None


def _by_brackets(one: str, other: str) -> bool | None:
    """A set is not a point."""
    kinds = [(_SET.fullmatch(side), _POINT.fullmatch(side)) for side in (one, other)]
    return False if any(a[0] and b[1] for a, b in (kinds, kinds[::-1])) else None


def _is_half(answer: str, gold: str) -> bool:
    """Whether the answer has no relation, but the gold one is an equation that names no value."""
    plain = _VARIABLE.sub("x", _INDEX.sub("", gold))
    if "=" not in plain or _RELATION.search(answer):
        return False
    left = plain.split("=")[0]
    has_letters = re.search("[a-z]", _COMMAND.sub("", plain if left.isdigit() else left))
    return has_letters is not None and not _NAME.fullmatch(left)


def _marked(text: str, worded: bool) -> list[str]:
    """An answer as math-verify finds it: between dollars; in words also the only number."""
    if "$" in text.replace("\\$", "") or re.search(r"\\[(\[]|\\boxed", text):
        return [text]
    alone = worded and len(re.findall(r"\d[\d.,/]*", text)) == 1
    return [f"${text}$", text] if alone else [f"${text}$"]


def _verified(answer: str, gold: str, one: str, other: str, own: bool = False) -> bool:
    """Whether math-verify says so; `one` and `other` are their normal forms."""
    from math_verify import verify

    said, wanted = _parsed(answer, own), _parsed(gold, own)
    digits = [max(map(len, re.findall(r"\.(\d+)", side)), default=0) for side in (one, other)]
    # Of a number that is not a decimal one, no more digits are known than math-verify compares.
    rounding = min(max(_ROUNDING, *digits), _MOST_DIGITS) if min(digits) else _ROUNDING
    same = verify(
        wanted, said, rounding, numeric_precision=_PRECISION, timeout_seconds=None,
        allow_set_relation_comp=True,
    )  # fmt: skip
    return same and (_RELATION.search(one + other) is not None or not _differ_in_case(one, other))


def _parsed(text: str, own: bool) -> list[Any]:
    """The expressions of math-verify; `own`: without its rules for units."""
    from latex2sympy2_extended.math_normalization import NormalizationConfig
    from math_verify import parse
    from math_verify.parser import LatexExtractionConfig

    if not own:
        return parse(text, parsing_timeout=None)
    # Units are ours: those of math-verify are also the last letters of a product.
    form = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
    text = re.sub(r"(?<=\d)i(?![A-Za-z])", " i", text)
    found = parse(
        text, [LatexExtractionConfig(normalization_config=form)], parsing_timeout=None,
        fallback_mode="no_fallback",
    )  # fmt: skip
    return found[:1]


def _differ_in_case(one: str, other: str) -> bool:
    sides = (re.sub(r"[A-Za-z]{3,}", " ", _COMMAND.sub(" ", side)) for side in (one, other))
    letters, letters_other = (set(re.findall("[A-Za-z]", side)) for side in sides)
    lower = {c.lower() for c in letters} == {c.lower() for c in letters_other}
    return lower and letters != letters_other
