"""How often the loops of compiled programs run, from their conditions and counters."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from rmas.plans.instructions import Computations, Instruction

_KNOWN_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
_CONSTANT = re.compile(r" constant\((-?\d+)\)")
_INTEGER = re.compile(r"[su]\d+\[\]")
_SAME = ("copy", "bitcast", "convert")


def trips(found: Computations, around: Sequence[Instruction], loop: Instruction) -> int | None:
    """How often a loop runs: as the compiler says, else by its counter, else None.

    Args:
      around: the computation that the loop is in.
      loop: its `while`.

    A counter is an integer that starts from a constant of the computation `around`, goes up by a
    constant, and is compared with a constant: `i < n`.
    """
    if known := _KNOWN_TRIPS.search(loop.text):
        return int(known[1])
    until = _Scope.of(found.get(loop.condition, ()))
    less = _value(found, until, until.result)
    if less is None or less[1].opcode != "compare" or "direction=LT" not in less[1].text:
        return None
    counter, end = (_value(found, less[0], name) for name in less[1].operands)
    index = None
    if counter and counter[1].opcode == "get-tuple-element":
        index = _number(counter[1], "index=")
    body = next(iter(loop.called), "")
    step = _step(found, _Scope.of(found.get(body, ())), index)
    start = _constant(_element(found, _Scope.of(around), loop.operands[0], index))
    last = _constant(end)
    if not _is_counter(found, counter, index) or start is None or last is None or step is None:
        return None
    return max(-(-(last - start) // step), 0)


@dataclasses.dataclass(frozen=True)
class _Scope:
    """A computation; its parameters are values of the scope that calls it, if one is given."""

    own: Mapping[str, Instruction]
    outer: "_Scope | None" = None
    given: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        instructions: Sequence[Instruction],
        outer: "_Scope | None" = None,
        given: tuple[str, ...] = (),
    ) -> "_Scope":
        return cls({instruction.name: instruction for instruction in instructions}, outer, given)

    @property
    def result(self) -> str:
        """The name of its result; empty if the text has none."""
        return next((name for name, instruction in self.own.items() if instruction.root), "")


_Value = tuple[_Scope, Instruction] | None
"""What makes a value, and the scope in which its operands are named; None: it is not known."""


def _value(found: Computations, scope: _Scope, name: str) -> _Value:
    """What makes a value: copies, tuples, fusions and calls are looked through."""
    at = scope.own.get(name)
    if at is None:
        return None
    if at.opcode in _SAME:
        return _value(found, scope, at.operands[0])
    if at.opcode == "parameter" and scope.outer:
        return _value(found, scope.outer, scope.given[_number(at, "parameter(")])
    if at.opcode in ("fusion", "call") and at.called:
        inside = _Scope.of(found.get(at.called[0], ()), scope, at.operands)
        return _value(found, inside, inside.result)
    if at.opcode == "get-tuple-element":
        whole = _value(found, scope, at.operands[0])
        if whole and whole[1].opcode == "tuple":
            return _value(found, whole[0], whole[1].operands[_number(at, "index=")])
    return scope, at


def _element(found: Computations, scope: _Scope, name: str, index: int | None) -> _Value:
    """One element of a value that is a tuple; the value itself where `index` is None."""
    value = _value(found, scope, name)
    if index is None or value is None:
        return value
    inside, whole = value
    return _value(found, inside, whole.operands[index]) if whole.opcode == "tuple" else None


def _number(instruction: Instruction, word: str) -> int:
    """The number after a word of an instruction's text."""
    return int(instruction.text.split(f" {word}", 1)[1].split(",")[0].split(")")[0])


def _constant(value: _Value) -> int | None:
    """The number that a value is; None where it is no constant integer."""
    if value is None or not _INTEGER.fullmatch(value[1].shape):
        return None
    number = _CONSTANT.search(value[1].text)
    return int(number[1]) if number else None


def _is_counter(found: Computations, value: _Value, index: int | None) -> bool:
    """Whether a value is an integer of the loop's state, at `index` where that is a tuple."""
    if value is None or not _INTEGER.fullmatch(value[1].shape):
        return False
    scope, at = value
    if index is None:
        return at.opcode == "parameter"
    if at.opcode != "get-tuple-element" or _number(at, "index=") != index:
        return False
    state = _value(found, scope, at.operands[0])
    return state is not None and state[1].opcode == "parameter"


def _step(found: Computations, body: _Scope, index: int | None) -> int | None:
    """The constant by which the body of a loop raises its counter; None where it does not."""
    after = _element(found, body, body.result, index)
    if after is None or after[1].opcode != "add":
        return None
    one, other = (_value(found, after[0], name) for name in after[1].operands)
    if not _is_counter(found, one, index):
        one, other = other, one
    step = _constant(other) if _is_counter(found, one, index) else None
    return step if step is not None and step > 0 else None
