"""Finds tool calls in generated text: `<python>...</python>`, `<search>...</search>` and so on.

`find_call` is called after every chunk of tokens. The rules for unusual texts:

- Names are case-insensitive; attributes of an opening tag are ignored. `<name/>` is plain text.
  So are tags with other names, unless the name clearly means a tool (`<web_search>`,
  `<tool_call>`): such a pair of tags is a call, so that the agent gets an error message.
- Everything between a tag that opens a call and its closing tag is the body, including other tags.
  A tag within a line that is followed by a blank or punctuation may be a mention ("I use <python>
  for that"): it opens a call only if no other opening tag comes before the closing one.
- Text in `<result>...</result>` repeats a result and contains no calls.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

RESULT = "result"
"""The tag of a tool's result; a tool cannot have this name."""

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""The pattern of tool names."""

_TAG = re.compile(r"<(/?)([a-z][a-z0-9_-]{0,31})(?:\s[^<>]{0,200})?(/?)>", re.IGNORECASE)
_MEANS_A_TOOL = re.compile(
    r"([a-z0-9]+[_-])*(tools?|function|python|interpreter|search|browser?|calculator|wikipedia"
    r"|bash|shell)([_-][a-z0-9]+)*"
)
_MENTION = re.compile(r"""[ \t]*[.,;:!?)\]}"'`]|[ \t]+\S""")
"""The text after a tag that is only mentioned."""


@dataclass(frozen=True)
class Call:
    """A tool call in a text.

    Attributes:
      tool: the tag's name in lower case; there may be no tool of this name.
      body: the text between the tags.
      end: the index after the closing tag.
    """

    tool: str
    body: str
    end: int


@dataclass(frozen=True)
class _Opening:
    name: str
    end: int
    firm: bool


def find_call(text: str, names: Collection[str], start: int = 0) -> Call | None:
    """The first complete call in `text` at or after `start`.

    Args:
      text: the text generated so far.
      names: the tools' names, in lower case.
      start: where to begin: the end of the last result that was appended.
    """
    if text.find("</", start) < 0:  # the common case, without a regular expression
        return None
    found = _scan(text, names, start)
    return found if isinstance(found, Call) else None


def find_unclosed(text: str, names: Collection[str], start: int = 0) -> str | None:
    """The tool of a call that is not closed at the end of a finished text; None if there is none.

    A mere mention does not count. The arguments are those of `find_call`, which must have found
    nothing.
    """
    found = _scan(text, names, start)
    if isinstance(found, _Opening) and found.firm and found.name != RESULT:
        return found.name
    return None


def _scan(text: str, names: Collection[str], start: int) -> Call | _Opening | None:
    """The first complete call, else the opening tag that is not closed."""
    opening = None
    for tag in _TAG.finditer(text, start):
        closing, name, alone = tag[1], tag[2].lower(), tag[3]
        if alone or not (name in names or name == RESULT or _MEANS_A_TOOL.fullmatch(name)):
            continue
        if not closing:
            if opening is None or not opening.firm:
                opening = _Opening(name, tag.end(), _is_firm(text, tag))
        elif opening is not None and opening.name == name:
            if name != RESULT:
                return Call(name, text[opening.end : tag.start()], tag.end())
            opening = None
    return opening


def _is_firm(text: str, tag: re.Match[str]) -> bool:
    line = text[text.rfind("\n", 0, tag.start()) + 1 : tag.start()]
    return not line.strip() or not _MENTION.match(text, tag.end())
