"""The text of compiled programs as instructions by computation.

The text is `Compiled.as_text()` of XLA's compilers for CPUs, GPUs and TPUs.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?.*\{\s*$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without the percent sign.
      shape: the type of its result, without layouts.
      opcode: `fusion`, `while`, `all-reduce-start`, ...
      text: the whole line.
      root: whether it is the result of its computation.
    """

    name: str
    shape: str
    opcode: str
    text: str
    root: bool

    @property
    def source(self) -> str:
        """The JAX operation that it comes from (`op_name`); empty if it has none."""
        found = _SOURCE.search(self.text)
        return found[1] if found else ""

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate of one run; None if it wrote none."""
        found = _CYCLES.search(self.text)
        return int(found[1]) if found else None

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of its operands."""
        start = self.text.index(f" {self.opcode}(") + len(self.opcode) + 2
        inside = self.text[start : _closing(self.text, start - 1)]
        return tuple(re.findall(r"%([\w.\-]+)", inside))

    @property
    def condition(self) -> str:
        """The name of the computation that says whether a loop goes on; empty if it is none."""
        found = _CONDITION.search(self.text)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs, conditions of loops left out."""
        found: list[str] = []
        for one, several in _CALLED.findall(self.text):
            found += [one] if one else [name.strip(" %") for name in several.split(",")]
        return tuple(found)


Computations = Mapping[str, tuple[Instruction, ...]]
"""The computations of a compiled program by name."""


@functools.lru_cache(maxsize=4)
def computations(text: str) -> Computations:
    """The computations of a compiled program by name; the first is its entry."""
    found: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", list[Instruction]()
    for line in text.splitlines():
        if not name:
            header = None if line.startswith(" ") else _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                name, lines = header[2], []
                entry = name if header[1] else entry
        elif line.startswith("}"):
            found[name], name = tuple(lines), ""
        elif instruction := _instruction(line):
            lines.append(instruction)
    return {entry: found[entry]} | found if entry else found


def _instruction(line: str) -> Instruction | None:
    named = _NAMED.match(line)
    if not named:
        return None
    at = named.end()
    if line[at] == "(":
        end = _closing(line, at) + 1
    else:
        end, depth = at, 0
        while end < len(line) and (depth or line[end] != " "):
            depth += (line[end] in "[{(") - (line[end] in "]})")
            end += 1
    opcode = re.match(r" ([\w\-]+)\(", line[end:])
    if not opcode:
        return None
    return Instruction(named[2], _without_layouts(line[at:end]), opcode[1], line, bool(named[1]))


def _closing(line: str, at: int) -> int:
    """The index of the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return len(line)


def _without_layouts(shape: str) -> str:
    return re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shape)
