r"""Units after a quantity in mathematical answers: finds, names and removes them.

In `\text{...}` every known unit counts, and so does a single short word that is unknown. Among
plain letters only units of two letters or more count, since `2h` is a product.
"""

import re

_WRITTEN = {
    "meter": "m|met(?:er|re)s?", "centimeter": "cm|centimet(?:er|re)s?",
    "millimeter": "mm|millimet(?:er|re)s?", "kilometer": "km|kilomet(?:er|re)s?",
    "inch": "in|inch(?:es)?", "foot": "ft|foot|feet", "yard": "yds?|yards?", "mile": "mi|miles?",
    "second": "s|secs?|seconds?", "minute": "mins?|minutes?", "hour": "h|hrs?|hours?",
    "day": "days?", "week": "wks?|weeks?", "month": "months?", "year": "yrs?|years?",
    "gram": "g|grams?", "kilogram": "kg|kilograms?", "pound": "lbs?|pounds?",
    "ounce": "oz|ounces?", "liter": "l|lit(?:er|re)s?", "milliliter": "ml|millilit(?:er|re)s?",
    "gallon": "gals?|gallons?", "dollar": "dollars?", "cent": "cents?", "mile/hour": "mph",
    "joule": "j|joules?", "kilojoule": "kj|kilojoules?", "newton": "n|newtons?",
    "watt": "w|watts?", "volt": "v|volts?", "am": "am", "pm": "pm",
    "": "units?|square|sq|cubic|cu|per|degrees?|deg|radians?|rad|percent|points?|people|ways",
}  # fmt: skip
_POWER = r"(?:\^\s*(?:\{\s*[23]\s*\}|[23]))?"
_PLAIN = re.compile(
    r"(?:(?<=[0-9})\]])|(?<=\\pi)) *"
    rf"((?:\b(?=[A-Za-z]{{2}})(?:{'|'.join(_WRITTEN.values())})\b\.?{_POWER}(?: |/|$))+)$",
    re.IGNORECASE,
)
_STYLED = re.compile(
    r"(?<=[0-9A-Za-z})\]$])(?:\\[,;:! ]|~|\s)*"
    r"\\(?:text(?:rm|bf|it)?|mathrm|mbox|rm)\s*\{([A-Za-z0-9./()^\s-]*)\}"
    rf"\s*{_POWER}\s*(?=,|$|[)\]]|\\right|\\\}})"
)
_SHORT = 3
_NO_UNIT = ("e", "i", "or", "and", "is", "not", "no")


def split_unit(text: str) -> tuple[str, str]:
    """A text without the units of its quantities, and the name of the last unit.

    The name is empty where there is no unit, or one that is unknown or has no dimension.
    """
    names = []

    def remove(match: re.Match) -> str:
        name = _name(match[1], styled=True)
        names.append(name or "")
        return match[0] if name is None else ""

    text = _STYLED.sub(remove, text)
    match = _PLAIN.search(text)
    if match:
        names.append(_name(match[1], styled=False) or "")
        text = text[: match.start()]
    return text.rstrip(), next(filter(None, reversed(names)), "")


def _name(words: str, styled: bool) -> str | None:
    """The name of a unit in any spelling; None for other words."""
    found = re.findall(r"[A-Za-z]+", words.replace("(s)", ""))
    if not 0 < len(found) <= 5:
        return None
    known = [
        next((name for name, how in _WRITTEN.items() if re.fullmatch(how, word.lower())), None)
        for word in found
    ]
    if None in known:
        alone = styled and len(found) == 1 and len(found[0]) <= _SHORT
        return "" if alone and found[0].lower() not in _NO_UNIT else None
    return "/".join(name for name in known if name)
