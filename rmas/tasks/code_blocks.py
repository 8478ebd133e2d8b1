"""Finds the program in a text: fenced blocks, or code without fences."""

import ast
import builtins
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

MAX_CODE = 200_000
"""Most characters of a program."""

_LEAD = r"(?P<lead>(?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*)"  # of list items and quotes
_OPENING = re.compile(_LEAD + r"(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_CLOSING = re.compile(r"[ \t>]*(?P<fence>`{3,}|~{3,})[ \t\r]*$")
_PYTHON = re.compile(r"[{.\s]*(?:i?python|py)(?:\d[\d.]*)?(?![\w-])", re.IGNORECASE)
_STRINGS = re.compile(
    r"""'{3}|"{3}|'(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|\#.*""", re.DOTALL | re.VERBOSE
)
_ENDS = {quote: re.compile(rf"(?:\\.|[^\\])*?{quote}", re.DOTALL) for quote in ("'''", '"""')}
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|\bfileinput\b")
_WRITES = re.compile(r"\bprint\s*\(|\bstdout\b")
_BEGINS = re.compile(  # what a line begins with that may be code among prose
    r"(?:def|class|import|from|async|for|while|if|try|with)\b.*|@\w.*|[\w.]+\(.*|\w[\w, .\[\]]*=.*"
)
_THOUGHT = re.compile("</?think>")
_GOES_ON = re.compile(r"(?:else|elif|except|finally)\b")
_FENCE = re.compile(r"[ \t>]*(?:`{3,}|~{3,})")
_CHUNKS, _TRIES = 20, 2000  # most parts of one statement, and most that are parsed in a text
_REPAIRS, _ENDS_TRIED = 20, 20  # most repairs of blocks in a text, and ends tried in each of them
_ONE_LINE = re.compile(_LEAD + r"(`{3,})(?:python\s|py\s)?(?P<code>[^`]+)\2\s*$")
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?:[ \t](.*))?$", re.MULTILINE)
_BLANKS = dict.fromkeys(map(ord, "\xa0\u2007\u202f"), " ") | dict.fromkeys(map(ord, "\u200b\ufeff"))
_INDENTED = re.compile(r"^(?: {4}|\t)", re.MULTILINE)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINES = (*_FUNCTIONS, ast.ClassDef)
_MAKES = (ast.Lambda, ast.Call, ast.Name, ast.Attribute, ast.IfExp)  # a function, as a value
_GIVES = (*_DEFINES, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)

# Answers are parsed, and what Python has to say about their escapes is nobody's concern.
warnings.filterwarnings("ignore", module="<answer>")


@dataclass(frozen=True)
class _Block:
    """Code of a text; `python` is 2 where its fence says so, 1 for no mark, 0 for another.

    `whole` is the code with the indentation of its first line.
    """

    code: str
    python: int
    tree: ast.Module | None
    whole: str = ""


def find_code(text: str, interface: Mapping[str, str] | None = None) -> str | None:
    """The program in a text; None without any.

    The block that defines what is asked is preferred to others, such as an example of its use: the
    function `interface["name"]`, or a program that reads its input and prints. Among equals a fence
    that says Python is preferred, then code without syntax errors, then the last one. What is
    defined in another block and used here precedes the code. A block that is not closed ends with
    the text; a fence inside a string does not end a block. Blocks with syntax errors are tried as
    what they may mean: ended by a fence with text around it, lines behind prompts, blanks that
    Python does not know, or continued in the next block. What follows `</think>` is preferred.
    """
    name = (interface or {}).get("name", "")
    answer = text.rpartition("</think>")[2]
    for part in dict.fromkeys((answer, _THOUGHT.sub("\n", text))):
        blocks = _joined(_blocks(part))
        best = max(enumerate(blocks), key=lambda item: _rank(item, name), default=None)
        if best is None or _wanted(best[1], name) == 0:
            for bare in map(_bare, dict.fromkeys((part, _INDENTED.sub("", part)))):
                if bare is not None and _wanted(bare, name) and len(bare.code) <= MAX_CODE:
                    return bare.code
        if best is not None:
            code = _with_parts(best[1], blocks[: best[0]] + blocks[best[0] + 1 :])
            return code if len(code) <= MAX_CODE else best[1].code
    return None


def _rank(item: tuple[int, _Block], name: str) -> tuple[int, int, bool, int]:
    place, block = item
    return _wanted(block, name), block.python, block.tree is not None, place


def _wanted(block: _Block, name: str) -> int:
    """How much a block is what is asked; 0 for not at all."""
    if not name:
        if _READS.search(block.code):
            return 2 + bool(_WRITES.search(block.code))
        return int(bool(re.search(r"^\s*(?:def|class|async|import|from)\b", block.code, re.M)))
    if block.tree is None:
        return 2 * bool(re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(name)}\b", block.code, re.M))
    found = [node for node in _members(block.tree) if _makes(node, name)]
    return 2 - all(_is_stub(node) for node in found) if found else 0


def _members(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements outside of functions, also those of classes, conditions and the like."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, _FUNCTIONS):
            parts = (ast.stmt, ast.excepthandler, ast.match_case)
            left += [part for part in ast.iter_child_nodes(node) if isinstance(part, parts)]


def _makes(node: ast.AST, name: str) -> bool:
    """Whether a statement makes a function or class of this name; its use makes none."""
    if isinstance(node, _DEFINES):
        return node.name == name
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(node.value, _MAKES):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    own = any(isinstance(part, ast.Lambda) for part in ast.walk(node.value))  # may call itself
    return any(isinstance(t, ast.Name) and t.id == name for t in targets) and (
        own or name not in _read(node.value)
    )


def _is_stub(node: ast.AST) -> bool:
    """Whether a function has no body but a docstring, `pass`, `...` or `NotImplementedError`."""
    return isinstance(node, _DEFINES) and all(
        isinstance(s, ast.Pass)
        or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        or (isinstance(s, ast.Raise) and s.exc and "NotImplementedError" in _read(s.exc))
        for s in node.body
    )


# --- fences ------------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[_Block]:
    lines, at, repairs = text.split("\n"), 0, _REPAIRS
    while at < len(lines):
        opening, short = _OPENING.match(lines[at]), _ONE_LINE.match(lines[at])
        at += 1
        if short and (tree := _parse(short["code"])):
            yield _Block(f"{short['code'].strip()}\n", 1, tree)
        if opening is None or opening["info"].strip().lower() in ("markdown", "md"):
            continue
        end, lead = _end(lines, at, opening["fence"]), len(opening["lead"])
        found, after = _read_block(lines[at:end], lead), end + 1
        if found.tree is None and repairs > 0:
            repairs -= 1
            for n, code in _other_ends(lines[at:end], opening["fence"]):
                if (other := _read_block(code, lead)).tree and other.code.strip():
                    again = _OPENING.match(lines[at + n])
                    found = other
                    after = at + n + (not (again and _PYTHON.match(again["info"])))
                    break
        at = after
        if found.code.strip() and len(found.code) <= MAX_CODE:
            marked = opening["info"].strip()
            python = 1 if not marked else 2 * bool(_PYTHON.match(marked))
            yield replace(found, python=python)


def _read_block(lines: Sequence[str], lead: int) -> _Block:
    """The code of lines, whose fence is indented by `lead`."""
    whole = "\n".join(_cut(line, lead, " \t>") for line in lines) + "\n"
    code = _dedent(whole)
    if len(code) > MAX_CODE or (tree := _parse(code)):
        return _Block(code, 0, None if len(code) > MAX_CODE else tree, whole)
    prompted = "".join(f"{line}\n" for line in _PROMPT.findall(whole))
    for other in (prompted, whole.translate(_BLANKS)):
        if other.strip() and other != whole and (tree := _parse(_dedent(other))):
            return _Block(_dedent(other), 0, tree, other)
    return _Block(code, 0, None, whole)


def _other_ends(lines: Sequence[str], fence: str) -> Iterator[tuple[int, list[str]]]:
    """Where a block may end otherwise: lines with a fence behind code or before other text."""
    places = ((n, line.find(fence)) for n, line in enumerate(lines))
    for n, place in itertools.islice(((n, p) for n, p in places if p >= 0), _ENDS_TRIED):
        yield n, [*lines[:n], lines[n][:place]]


def _joined(blocks: Iterable[_Block]) -> list[_Block]:
    """The blocks; two that only together are a program are one."""
    found: list[_Block] = []
    tries = _REPAIRS
    for block in blocks:
        last = found[-1] if found else None
        if last and tries > 0 and (last.tree is None or _continues(block)):
            tries -= 1
            whole = last.whole + block.whole
            if len(whole) <= MAX_CODE and (tree := _parse(whole)):
                found[-1] = replace(last, code=whole, tree=tree, whole=whole)
                continue
        found.append(block)
    return found


def _continues(block: _Block) -> bool:
    """Whether a block cannot be a program of its own."""
    return block.tree is None or any(isinstance(node, ast.Return) for node in _members(block.tree))


def _end(lines: Sequence[str], start: int, fence: str) -> int:
    """The line that closes a block: the first such fence outside of strings, else the first."""
    first, quote = len(lines), ""
    for n in range(start, len(lines)):
        closing = _CLOSING.match(lines[n])
        if closing and closing["fence"].startswith(fence):
            if not quote:
                return n
            first = min(first, n)
        quote = _quote_after(lines[n], quote)
    return first


def _quote_after(line: str, quote: str) -> str:
    """The triple quote that is open after a line; `quote` is open before it."""
    at = 0
    while True:
        if quote:
            end = _ENDS[quote].match(line, at)
            if end is None:
                return quote
            at, quote = end.end(), ""
        for found in _STRINGS.finditer(line, at):
            if found[0] in _ENDS:
                at, quote = found.end(), found[0]
                break
        else:
            return ""


def _dedent(code: str) -> str:
    """The code without the indentation of its first line."""
    lines = code.split("\n")
    first = next((line for line in lines if line.strip()), "")
    indent = len(first) - len(first.lstrip(" \t"))
    return "\n".join(_cut(line, indent, " \t") for line in lines)


def _cut(line: str, most: int, characters: str) -> str:
    """The line without its first characters, at most `most`, as far as they are of these."""
    return line[:most].lstrip(characters) + line[most:]


# --- code without fences -----------------------------------------------------------------------


def _bare(text: str) -> _Block | None:
    """The statements in a text of prose; None without any."""
    if len(text) > MAX_CODE:
        return None
    chunks: list[str] = []  # each begins with a line that is not indented
    for line in text.split("\n"):
        if chunks and (not line.strip() or line[0] in " \t"):
            chunks[-1] += f"\n{line}"
        elif not _FENCE.match(line):
            chunks.append(line)
    found: list[str] = []
    at, tries = 0, _TRIES
    while at < len(chunks) and tries > 0:
        size = 0
        if _BEGINS.match(chunks[at]):
            for more in range(1, min(_CHUNKS, len(chunks) - at) + 1):
                goes_on = at + more < len(chunks) and _GOES_ON.match(chunks[at + more])
                tries -= 1
                if not goes_on and _parse("\n".join(chunks[at : at + more])):
                    size = more
                    break
        found += chunks[at : at + size]
        at += max(size, 1)
    code = "\n".join(found).strip("\n") + "\n"
    return _Block(code, 1, _parse(code)) if found else None


# --- names -------------------------------------------------------------------------------------


def _parse(code: str) -> ast.Module | None:
    try:
        return ast.parse(code, "<answer>")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement gives to those after it."""
    return {node.name} if isinstance(node, _DEFINES) else _given(node)


def _given(tree: ast.AST) -> set[str]:
    """All names that get a value anywhere in code."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, _DEFINES):
            found.add(node.name)
    return found


def _read(tree: ast.AST) -> set[str]:
    """All names whose value is read anywhere in code."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}


def _missing(tree: ast.AST) -> set[str]:
    """The names that code reads and nowhere gives."""
    return _read(tree) - _given(tree) - set(dir(builtins))


def _with_parts(block: _Block, others: Sequence[_Block]) -> str:
    """The code of a block, after what it reads and only other blocks define."""
    if block.tree is None:
        return block.code
    missing, parts = _missing(block.tree), list[ast.stmt]()
    for other in reversed([b for b in others if b.tree and b.python]):
        assert other.tree is not None
        for node in reversed([n for n in other.tree.body if isinstance(n, _GIVES)]):
            if _bound(node) & missing:
                missing = (missing - _bound(node)) | _missing(node)
                parts.insert(0, node)
    given = "".join(f"{ast.unparse(node)}\n" for node in parts)
    return given + block.code
