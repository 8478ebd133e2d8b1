"""The text in which a tool's output comes back to an agent, safe whatever the output holds.

The escapes, all readable and none that another text could be mistaken for:

- `<` is written `&lt;` where a tag could begin (before anything but a blank, a digit, or one of
  `=<-."'()`), so that no output closes its own result or calls a tool. Characters that Unicode
  normalisation turns into `<` are written so everywhere. `&` is written `&amp;` before `lt;` and
  `amp;` only.
- Control characters, direction overrides, other invisible characters (but for the two joiners,
  which scripts need) and lone surrogates are written as `\x1b` or `\u202e`. Newlines and tabs stay.

Control tokens of a tokenizer are not known here: encode results with `ChatTokenizer.data_ids`.
"""

import unicodedata

from rmas.errors import InputError
from rmas.tools.tags import RESULT

LIMIT = 6000
"""Characters of a tool's output that an agent sees, unless told otherwise."""

_LESS_THAN = "<\ufe64\uff1c"
_NO_TAG = " \n\t0123456789=<-.\"'()"
_ENTITIES = ("lt;", "amp;")
_KEPT = "\n\t\u200c\u200d"


def render(output: str, limit: int = LIMIT) -> str:
    """`<result>`, the escaped output, `</result>`, each on lines of its own.

    Of a longer output the first two thirds and the last third of `limit` escaped characters are
    kept, and a note between them says how many characters are left out.

    Raises InputError where `limit` is below 100.
    """
    if limit < 100:
        raise InputError(f"limit of a result is {limit} characters; it must be 100 or more")
    output = output.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return f"<{RESULT}>\n{_cut(output, limit)}\n</{RESULT}>"


def _cut(output: str, limit: int) -> str:
    whole = _take(output, range(len(output)), limit)
    if len(whole) == len(output):
        return "".join(whole)
    head = _take(output, range(len(output)), limit - limit // 3)
    tail = _take(output, range(len(output) - 1, -1, -1), limit // 3)
    left_out = len(output) - len(head) - len(tail)
    return "".join([*head, f"\n[{left_out:,} characters left out]\n", *reversed(tail)])


def _take(text: str, places: range, limit: int) -> list[str]:
    """The escaped characters at the first of `places`, as many as fit."""
    taken, length = [], 0
    for at in places:
        escaped = _escaped(text, at)
        length += len(escaped)
        if length > limit:
            break
        taken.append(escaped)
    return taken


def _escaped(text: str, at: int) -> str:
    char, after = text[at], text[at + 1 : at + 2]
    if char in _LESS_THAN:
        return char if char == "<" and after in _NO_TAG else "&lt;"
    if char == "&":
        return "&amp;" if text.startswith(_ENTITIES, at + 1) else char
    if char.isprintable() or char in _KEPT or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode("ascii")
