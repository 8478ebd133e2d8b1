"""Reads the text of compiled programs: loops, exchanges between devices, estimated cycles.

The text is `Compiled.as_text()` of XLA's compilers for CPUs, GPUs and TPUs. Only the compiler for
TPUs writes estimates of cycles; they leave out collectives, asynchronous copies and sorts.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
"""Operations that exchange data between devices, by their names in the text."""

Trips = tuple[int | None, ...]
"""How often each loop around an operation runs, from the outermost; None: it is not known."""

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?.*\{\s*$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_KNOWN_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,<= ]*)\]")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r" constant\((-?\d+)\)")
_SAME = ("copy", "bitcast", "convert")
_CALLS = ("fusion", "call", "conditional", "async-start", "custom-call")


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
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs, conditions of loops left out."""
        found: list[str] = []
        for one, several in _CALLED.findall(self.text):
            found += [one] if one else [name.strip(" %") for name in several.split(",")]
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
      kind: one of `COLLECTIVES`.
      bytes: of its result on one device.
      loops: how often the loops around it run.
      name: of the instruction.
      source: the JAX operation that it comes from.
    """

    kind: str
    bytes: int
    loops: Trips
    name: str
    source: str


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation with the compiler's estimate of one run, in cycles."""

    cycles: int
    opcode: str
    name: str
    shape: str
    source: str


@dataclasses.dataclass(frozen=True)
class LoopCycles:
    """What runs within one nest of loops, the loops inside it left out.

    Attributes:
      loops: how often each loop runs, from the outermost; empty outside of all loops.
      names: the loops' instructions.
      operations: those with an estimate, the costliest first.
    """

    loops: Trips
    names: tuple[str, ...]
    operations: tuple[Operation, ...]

    @property
    def once(self) -> int:
        """Cycles of one passage through the innermost loop."""
        return sum(operation.cycles for operation in self.operations)

    def total(self, unknown: int = 1) -> int:
        """Cycles in all; `unknown` as in `runs`."""
        return self.once * runs(self.loops, unknown)


def runs(loops: Trips, unknown: int = 1) -> int:
    """How often something in these loops runs.

    `unknown` stands for the outermost loop of unknown length. Such loops inside it count once: they
    are there for rows that differ, as where a token is written, and most batches run them once.
    """
    lengths = [1 if n is None else n for n in loops]
    if None in loops:
        lengths[loops.index(None)] = unknown
    return math.prod(lengths)


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


def collectives(text: str) -> list[Collective]:
    """All exchanges between devices, each once for the loops that it is in.

    An asynchronous one counts where it starts.
    """
    found = []
    for instruction, loops, _ in _visit(text, lambda instruction: instruction.opcode in _CALLS):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            shape = _result(instruction) if instruction.opcode != kind else instruction.shape
            size = shape_bytes(shape)
            found.append(Collective(kind, size, loops, instruction.name, instruction.source))
    return found


def cycles(text: str) -> list[LoopCycles]:
    """The compiler's estimates by nest of loops, in the order of the program.

    Both sides of a conditional count. What lacks an estimate counts nothing.
    """
    nests: dict[tuple[str, ...], tuple[Trips, list[Operation]]] = {}

    def inside(instruction: Instruction) -> bool:
        return instruction.cycles is None and instruction.opcode in ("call", "conditional")

    for instruction, loops, names in _visit(text, inside):
        own = nests.setdefault(names, (loops, []))[1]
        if (n := instruction.cycles) is not None and instruction.opcode != "while":
            found = (instruction.opcode, instruction.name, instruction.shape, instruction.source)
            own.append(Operation(n, *found))
    return [
        LoopCycles(loops, names, tuple(sorted(own, key=lambda o: -o.cycles)))
        for names, (loops, own) in nests.items()
    ]


def total_cycles(text: str, unknown: int = 1) -> int:
    """The sum of all estimates times trip counts (see `LoopCycles.total`)."""
    return sum(nest.total(unknown) for nest in cycles(text))


def shape_bytes(shape: str) -> int:
    """Bytes of a type as it is written in the text; of a tuple, of all its parts."""
    return sum(
        math.prod(int(n) for n in re.findall(r"\d+", dims)) * _width(dtype) // 8
        for dtype, dims in _ARRAY.findall(shape)
    )


def _width(dtype: str) -> int:
    """Bits of a number."""
    if dtype in ("pred", "token"):
        return 8 if dtype == "pred" else 0
    found = re.match(r"[a-z]+(\d+)", dtype)
    assert found is not None
    return int(found[1])


def _result(start: Instruction) -> str:
    """The type of the result of an asynchronous operation, from that of its start.

    That is a tuple of operands, results and context, but for `all-reduce-start`: results alone.
    """
    if start.opcode == "all-reduce-start" or not start.shape.startswith("("):
        return start.shape
    parts = _parts(start.shape[1:-1])
    return parts[1] if len(parts) > 1 else parts[0]


def _parts(inside: str) -> list[str]:
    """The parts of a tuple's type."""
    found, depth, last = [], 0, 0
    for i, c in enumerate(inside):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and not depth:
            found.append(inside[last:i].strip())
            last = i + 1
    return [*found, inside[last:].strip()]


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


def _visit(
    text: str, inside: Callable[[Instruction], bool]
) -> Iterator[tuple[Instruction, Trips, tuple[str, ...]]]:
    """Every instruction that runs, with the loops around it: their trips and their names.

    Loops are always entered, their conditions too; other computations where `inside` says so.
    """
    found = computations(text)

    def visit(name: str, loops: Trips, names: tuple[str, ...]) -> Iterator:
        for instruction in found.get(name, ()):
            yield instruction, loops, names
            if instruction.opcode == "while":
                trips = (*loops, _trips(found, found[name], instruction))
                condition = _CONDITION.search(instruction.text)
                for called in (*([condition[1]] if condition else ()), *instruction.called):
                    yield from visit(called, trips, (*names, instruction.name))
            elif inside(instruction):
                for called in instruction.called:
                    yield from visit(called, loops, names)

    if found:
        yield from visit(next(iter(found)), (), ())


def _trips(found: Computations, around: Sequence[Instruction], loop: Instruction) -> int | None:
    """How often a loop runs: as the compiler says, else by its condition `i < n`, else None.

    Loops of JAX count up by one, from a constant of the computation `around` them or else from 0.
    """
    known, condition = _KNOWN_TRIPS.search(loop.text), _CONDITION.search(loop.text)
    if known or not condition:
        return int(known[1]) if known else None
    inside = found.get(condition[1], ())
    end = _limit(found, inside)
    if end is None:
        return None
    counter = next(
        (i for i in inside if i.opcode == "get-tuple-element" and i.shape in ("s32[]", "s64[]")),
        None,
    )
    number = counter and re.search(r"\bindex=(\d+)", counter.text)
    return end - (_start(around, loop, int(number[1])) if number else 0)


def _start(around: Sequence[Instruction], loop: Instruction, index: int) -> int:
    """The constant that one element of a loop's operand starts from; 0 where it is not one."""
    own = {instruction.name: instruction for instruction in around}
    at = own.get(loop.operands[0])
    if at is not None and at.opcode == "tuple":
        at = own.get(at.operands[index])
    while at is not None and at.opcode in _SAME:
        at = own.get(at.operands[0])
    value = at and _CONSTANT.search(at.text)
    return int(value[1]) if value else 0


def _limit(found: Computations, condition: Sequence[Instruction]) -> int | None:
    """The constant n of a condition whose result is `i < n`; None for any other condition."""
    own = {instruction.name: instruction for instruction in condition}
    root = next((instruction for instruction in condition if instruction.root), None)
    while root is not None and root.opcode in _SAME:
        root = own.get(root.operands[0])
    if root is None:
        return None
    constants = [
        int(n[1]) for x in root.operands if x in own and (n := _CONSTANT.search(own[x].text))
    ]
    if _less(root):
        return constants[-1] if constants else None
    if root.opcode in ("fusion", "call") and root.called:
        inner = found.get(root.called[0], ())
        if any(instruction.root and _less(instruction) for instruction in inner):
            return constants[-1] if constants else _limit(found, inner)
    return None


def _less(instruction: Instruction) -> bool:
    return instruction.opcode == "compare" and "direction=LT" in instruction.text
