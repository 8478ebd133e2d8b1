"""Tool calls in generated text: `<python>...</python>`, `<search>...</search>` and the like.

`find_call` is made to be asked after every chunk of tokens. What counts, where a text is odd:

- Names count in any case; an opening tag may have attributes, which are ignored. `<name/>` is
  plain text, and so are names of no tool, but for those that clearly mean one (`<web_search>`,
  `<tool_call>`): a pair of them is a call, so that its writer can be told.
- Everything between a tag that opens a call and its closing tag is the body, other tags included.
  A tag amid a line with a blank or punctuation behind it may be a mention ("I use <python> for
  that"): it opens a call only if no other opening tag comes before the closing one.
- What stands in `<result>...</result>` is an echo and calls nothing.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

RESULT = "result"
"""The tag of what comes back; no tool can have this name."""

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""What a tool may be called."""

_TAG = re.compile(r"<(/?)([a-z][a-z0-9_-]{0,31})(?:\s[^<>]{0,200})?(/?)>", re.IGNORECASE)
_MEANS_A_TOOL = re.compile(
    r"([a-z0-9]+[_-])*(tools?|function|python|interpreter|search|browser?|calculator|wikipedia"
    r"|bash|shell)([_-][a-z0-9]+)*"
)
_MENTION = re.compile(r"""[ \t]*[.,;:!?)\]}"'`]|[ \t]+\S""")
"""What stands behind a tag that is only talked about."""


@dataclass(frozen=True)
class Call:
    """A tool call in a text.

    Attributes:
      tool: the tag's name in lower case; there may be no tool of this name.
      body: what stands between the tags.
      end: where the text goes on after the closing tag.
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
    """The first call in `text` whose closing tag is there, at or after `start`.

    Args:
      text: the text generated so far.
      names: the tools' names, in lower case.
      start: where to begin: the end of the last result that was appended.
    """
    if text.find("</", start) < 0:  # the usual case, told without a regular expression
        return None
    found = _scan(text, names, start)
    return found if isinstance(found, Call) else None


def find_unclosed(text: str, names: Collection[str], start: int = 0) -> str | None:
    """The tool whose tag is open where `text`, which has ended, ends. A mention is not open.

    The arguments are those of `find_call`, which must have found nothing.
    """
    found = _scan(text, names, start)
    is_open = isinstance(found, _Opening) and found.firm and found.name != RESULT
    return found.name if is_open else None


def _scan(text: str, names: Collection[str], start: int) -> Call | _Opening | None:
    """The first call that is closed, else the opening tag that a closing one would close."""
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
