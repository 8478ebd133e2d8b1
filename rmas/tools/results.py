r"""The text that returns a tool's output to an agent, with the output escaped.

- `<` becomes `&lt;` where a tag could begin (unless a blank, a digit, or one of `=<-."'()`
  follows), so that output can neither end its own result nor call a tool. Characters that Unicode
  normalization maps to `<` always become `&lt;`. `&` becomes `&amp;` only before `lt;` and `amp;`,
  so that escapes are unambiguous.
- Control characters, direction overrides, other invisible characters (except the two joiners,
  which some scripts need) and lone surrogates become escapes such as `\x1b` or `\u202e`. Newlines
  and tabs are kept.

Control tokens of tokenizers are not escaped: encode results with `ChatTokenizer.data_ids`.
"""

import unicodedata

from rmas.errors import InputError
from rmas.tools.tags import RESULT

LIMIT = 6000
"""Characters of a tool's output that an agent sees, by default."""

_LESS_THAN = "<\ufe64\uff1c"
_NO_TAG = " \n\t0123456789=<-.\"'()"
_ENTITIES = ("lt;", "amp;")
_KEPT = "\n\t\u200c\u200d"


def render(output: str, limit: int = LIMIT) -> str:
    """`<result>`, the escaped output and `</result>`, on separate lines.

    Of an output that is longer than `limit` escaped characters, the first two thirds and the last
    third of the limit are kept, with a note between them of how many characters are left out.

    Raises:
      InputError: `limit` is less than 100.
    """
    if limit < 100:
        raise InputError(f"limit of a result is {limit} characters; it must be at least 100")
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
    """As many of the escaped characters at `places`, in their order, as fit."""
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
