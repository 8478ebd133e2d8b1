r"""Units after a quantity in mathematical answers: finds, names and removes them.

In `\text{...}` every known unit counts, and so does a short word that is unknown. Among plain
letters only units of two letters or more count, since `2h` is a product.
"""

import re

_SPELLED = (
    "meter metre m", "centimeter centimetre cm", "millimeter mm", "kilometer km", "inch inche in",
    "foot feet ft", "yard yd", "mile mi", "second sec s", "minute min", "hour hr h", "day",
    "week wk", "month", "year yr", "gram g", "kilogram kg", "pound lb", "ounce oz", "liter litre l",
    "milliliter ml", "gallon gal", "dollar", "cent", "mile/hour mph", "joule j", "kilojoule kj",
    "newton n", "watt w", "volt v", "am", "pm",
)  # fmt: skip
_NAMES = {word: names.split()[0] for names in _SPELLED for word in names.split()}
# Words that name no dimension.
_PLAIN_WORDS = "unit square sq cubic cu per degree deg radian rad nd rd th percent point people way"
_NAMES |= dict.fromkeys(_PLAIN_WORDS.split(), "")
_POWER = r"(?:\^\s*(?:\{\s*[23]\s*\}|[23]))?"
_WORDS = "|".join(sorted((word for word in _NAMES if len(word) > 1), key=len, reverse=True))
_PLAIN = re.compile(
    rf"(?:(?<=[0-9}})\]|!'])|(?<=\\pi)) *"
    rf"((?:(?<![A-Za-z])(?:{_WORDS}|(?<=/)[a-z]|m(?=/))s?\b\.?{_POWER}(?: |/|$))+)$",
    re.IGNORECASE,
)
_STYLED = re.compile(
    r"(?<=[0-9A-Za-z})\]$|!'])(?:\\[,;:! ]|~|\s)*"
    r"((?:\\(?:text(?:rm|bf|it|normal)?|mathrm|mbox|rm)\s*\{[A-Za-z0-9./()~^\s-]*\}"
    rf"\s*{_POWER}\s*/?\s*)+)(?=,|$|[)\]]|\\right|\\\}})"
)
_NO_UNIT = ("e", "i", "or", "and", "is", "not", "no")


def split_unit(text: str) -> tuple[str, str]:
    """A text without the units of its quantities, and the name of the last unit.

    The name is empty where there is no unit, or one that is unknown or has no dimension.
    """
    names = []

    def remove(match: re.Match) -> str:
        words = [
            word.lower()
            for word in re.findall(r"(?<![\\A-Za-z])[A-Za-z]+", match[1].replace("(s)", ""))
        ]
        known = [_NAMES.get(word, _NAMES.get(word.removesuffix("s"))) for word in words]
        if not words or None in known:
            alone = len(words) == 1 and len(words[0]) <= 3 and words[0] not in _NO_UNIT
            return "" if alone else match[0]
        names.append("/".join(filter(None, known)))
        return ""

    text = _PLAIN.sub(remove, _STYLED.sub(remove, text))
    return text.rstrip(), next(filter(None, reversed(names)), "")
