"""Reads the text of compiled programs: loops, exchanges between devices, estimated cycles.

The text is `Compiled.as_text()` of XLA's compilers for CPUs, GPUs and TPUs. Only the compiler for
TPUs writes estimates of cycles; they leave out collectives, asynchronous copies and sorts.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

from rmas.plans.instructions import Instruction, computations
from rmas.plans.trips import trips

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

_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,<= ]*)\]")
_CALLS = ("fusion", "call", "conditional", "async-start", "custom-call")


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
                inner = (*loops, trips(found, found[name], instruction))
                for called in (instruction.condition, *instruction.called):
                    yield from visit(called, inner, (*names, instruction.name))
            elif inside(instruction):
                for called in instruction.called:
                    yield from visit(called, loops, names)

    if found:
        yield from visit(next(iter(found)), (), ())
