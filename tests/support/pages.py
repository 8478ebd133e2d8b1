"""The Markdown pages of the project, and the blocks of code in them."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "launch/README.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run: [^\n]*|slow) -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_ARRAY = re.compile(r"^(\w+)=\((.*?)\)$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
      line: where its code begins.
      title: the file that it shows; empty for other blocks.
      mark: the comment before it: `slow`, or `not run: ` and the reason; empty for most.
    """

    page: str
    line: int
    language: str
    title: str
    mark: str
    code: str

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start("code")) + 1,
            language=found["language"],
            title=found["title"] or "",
            mark=found["mark"] or "",
            code=found["code"],
        )
        for found in _BLOCK.finditer(text)
    ]


def shown_files() -> dict[str, str]:
    """The files that pages show, by name."""
    return {b.title: b.code for page in PAGES for b in blocks(page) if b.title}


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a bash block as words: lines joined, arrays filled in, operators split."""
    code = block.code.replace("\\\n", " ")
    arrays = {name: shlex.split(inside, comments=True) for name, inside in _ARRAY.findall(code)}
    for line in _ARRAY.sub("", code).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                yield from [_filled(words, arrays)] if words else []
                words = []
            else:
                words.append(word)


def _filled(words: list[str], arrays: dict[str, list[str]]) -> list[str]:
    filled: list[str] = []
    for word in words:
        name = re.fullmatch(r"\$\{(\w+)\[@\]\}", word)
        filled += _filled(arrays[name[1]], arrays) if name else [word]
    return filled
