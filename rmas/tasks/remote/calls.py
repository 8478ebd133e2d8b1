"""A script of tests in one process and the function that it tests in another one.

This package is a separate program that uses only the standard library (and numpy where values are
numpy's), so its imports are relative. It runs in two sandboxes, whose inputs and outputs are
connected:

    python -m remote.calls judge NAME SECONDS   runs `imports.py` and `tests.py`, which call NAME
    python -m remote.calls serve NAME           runs `candidate.py` and then what the judge asks for

So the function can neither see what is expected, nor change how it is compared, nor report that it
passed, nor stop the clock. The judge ends with status 0 where the script runs to its end, `TIMEOUT`
where the function does not answer in SECONDS, `BROKEN` where it no longer answers, and `UNSENT`
where the script gives it what cannot be sent.

Requests and replies are lines of JSON. Plain data are copied, and what the function changes in its
arguments is changed in the script's. Anything else of the function stays where it is, and the judge
has a `Held` for it. Functions of libraries that the script gives are sent by name. While the judge
waits for a reply the function may call other functions that the script has given, and nothing else.
"""

import builtins
import contextlib
import functools
import importlib
import json
import operator
import os
import select
import sys
import time
import types
from typing import Any

from .values import SCALARS, NotPlainError, change, decode, encode, for_large_values, refuse, text

TIMEOUT, BROKEN, UNSENT = 3, 4, 5
_START = 30.0  # seconds for the other process to be there
_REPLIES = {"value": (2, 4), "error": (3,), "call": (3,)}  # kinds, and how long they are
_COMPARISONS = (operator.eq, operator.lt, operator.le, operator.gt, operator.ge)
_OPERATIONS: dict[str, Any] = {
    "get": getattr,
    **{f.__name__: f for f in (bool, len, str, hash, iter, next)},
    **{f.__name__: f for f in (operator.getitem, operator.contains, *_COMPARISONS)},
}


def _compared(operation: str) -> Any:
    def compare(self: "Held", other: Any) -> Any:
        if not isinstance(other, Held):
            return NotImplemented
        return self._ask(operation, self, other) is True

    return compare


class Held:
    """What is not plain data, in the process of the function, which compares it with others.

    With what is no `Held`, such as what is expected, it is not equal, whatever the function says.
    """

    def __init__(self, ask: Any, number: int, kind: str):
        self._ask, self._number, self._kind = ask, number, kind

    def __repr__(self) -> str:
        return f"<{self._kind}>"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", self, [list(arguments), named])

    __eq__, __lt__, __le__, __gt__, __ge__ = (_compared(f.__name__) for f in _COMPARISONS)

    def __hash__(self) -> int:
        return int(self._ask("hash", self))

    def __getattr__(self, name: str) -> Any:
        if (
            name.startswith("_") and name != "__name__"
        ):  # such as those with which numpy reads memory
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __bool__(self) -> bool:
        return self._ask("bool", self) is True

    def __str__(self) -> str:
        return str(self._ask("str", self))

    def __len__(self) -> int:
        return int(self._ask("len", self))

    def __iter__(self) -> Any:
        return self._ask("iter", self)

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", self, key)

    def __contains__(self, item: Any) -> bool:
        return self._ask("contains", self, item) is True


def _lines() -> tuple[int, int]:
    """This process's input and output; what is printed from now on is lost."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for own in (0, 1):
        os.dup2(null, own)
    return requests, replies


def _compiled(name: str) -> types.CodeType:
    with open(name, encoding="utf-8") as file:
        return compile(file.read(), name, "exec")


def _write(descriptor: int, value: Any, hold: Any) -> None:
    line = text(value, hold).encode() + b"\n"
    left = memoryview(line)
    while left:
        left = left[os.write(descriptor, left) :]


def _read(line: str | bytes, held: Any) -> Any:
    with for_large_values():
        return json.loads(line, object_hook=lambda found: decode(found, held))


def _told(error: Exception) -> list[Any]:
    """The nearest kind of exceptions that Python has, and its arguments."""
    kind: Any = next(k for k in type(error).__mro__ if vars(builtins).get(k.__name__) is k)
    if type(error).__str__ is kind.__str__:
        with contextlib.suppress(NotPlainError):
            encode(error.args, refuse)
            return [kind.__name__, list(error.args)]
    return [kind.__name__, [str(error)]]


def _made(name: Any, arguments: Any) -> Exception:
    """The exception of which the other process has told."""
    kind: Any = vars(builtins).get(str(name))
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(Exception):
            return kind(*arguments)
    return RuntimeError(str(name))


def _serve(name: str) -> None:
    """Runs the candidate, and then answers requests until there are no more."""
    incoming, replies = _lines()
    os.dup2(1, 2)
    requests = os.fdopen(incoming)
    kept: list[Any] = []
    known: dict[int, list[Any]] = {}  # by id: how what is kept, or was given, is called

    def hold(x: Any) -> list[Any]:
        if id(x) not in known:
            known[id(x)] = ["own", len(kept), type(x).__name__]
            kept.append(x)
        return known[id(x)]

    def held(data: list[Any]) -> Any:
        kind, number, place = data
        if kind == "own":
            return kept[number]
        found = _found(place) if place else functools.partial(call_back, number)
        kept.append(found)
        known.setdefault(id(found), data)
        return found

    def call_back(number: int, *arguments: Any, **named: Any) -> Any:
        _write(replies, ["call", number, [list(arguments), named]], hold)
        return answer()

    def answer() -> Any:
        """Does what is asked, until the judge replies to a call of a function that it gave."""
        for line in requests:
            operation, *operands = _read(line, held)
            if operation == "value":
                return operands[0]
            if operation == "error":
                raise _made(*operands)
            try:
                if operation == "call":
                    _write(replies, call(line, *operands), hold)
                else:
                    _write(replies, ["value", _OPERATIONS[operation](*operands)], hold)
            except Exception as error:
                _write(replies, ["error", *_told(error)], refuse)
        os._exit(0)

    def call(line: str, function: Any, given: list[Any]) -> list[Any]:
        value = function(*given[0], **given[1])
        places = enumerate([*given[0], *given[1].values()])
        same = next((n for n, x in places if x is value and type(x) not in SCALARS), None)
        changed = text(["call", function, given], hold) != line.rstrip("\n")
        return ["value", None if same is not None else value, same, given if changed else None]

    _write(replies, ["value", "started"], hold)
    module = sys.modules["candidate"] = types.ModuleType("candidate")
    exec(_compiled("candidate.py"), module.__dict__)
    _write(replies, ["value", getattr(module, name, None)], hold)
    answer()


def _place(x: Any) -> list[str] | None:
    """The module and the name of a function of a library; None for others."""
    module, name = getattr(x, "__module__", None) or "builtins", getattr(x, "__qualname__", "")
    with contextlib.suppress(AttributeError, TypeError):
        if module in sys.modules and _found([module, name]) is x:
            return [module, name]
    return None


def _found(place: list[str]) -> Any:
    return operator.attrgetter(place[1])(importlib.import_module(place[0]))


def _judge(name: str, seconds: float) -> None:
    """Runs the script with the function of the other process."""
    replies, requests = _lines()
    pending = bytearray()
    given: list[Any] = []  # functions of the script, and of libraries
    numbers: dict[int, list[Any]] = {}  # by id: how they are called
    all_held: dict[int, Held] = {}

    def hold(x: Any) -> list[Any]:
        if isinstance(x, Held):
            return ["own", x._number, x._kind]
        if not callable(x):
            os._exit(UNSENT)
        if id(x) not in numbers:
            numbers[id(x)] = ["given", len(given), _place(x)]
            given.append(x)
        return numbers[id(x)]

    def held(data: list[Any]) -> Any:
        kind, number, more = data
        if kind == "given":
            return given[number]
        return all_held.setdefault(number, Held(ask, number, str(more)))

    def ask(operation: str, *operands: Any) -> Any:
        _write(requests, [operation, *operands], hold)
        until = time.monotonic() + seconds
        while True:
            kind, *values = reply(until)
            if kind == "value":
                return result(operands[1], *values) if operation == "call" else values[0]
            if kind != "call":
                raise _made(*values)
            answer(*values)

    def result(before: Any, value: Any, same: int | None, after: Any) -> Any:
        old = [*before[0], *before[1].values()]
        new = [*after[0], *after[1].values()] if after else old
        done = [change(*pair, hold) for pair in zip(old, new, strict=True)] if after else []
        if same is None:
            return value
        return old[same] if not after or done[same] else new[same]

    def answer(number: int, arguments: Any) -> None:
        """Calls a function of the script for the function that was given it."""
        if numbers[id(given[number])][2]:
            os._exit(BROKEN)  # one of a library is not called here
        try:
            out = ["value", given[number](*arguments[0], **arguments[1])]
        except Exception as error:
            out = ["error", *_told(error)]
        _write(requests, out, hold)

    def reply(until: float) -> list[Any]:
        at = 0
        while (end := pending.find(b"\n", at)) < 0:
            at = len(pending)
            if not select.select([replies], [], [], max(until - time.monotonic(), 0))[0]:
                os._exit(TIMEOUT)
            chunk = os.read(replies, 1 << 20)
            if not chunk:
                os._exit(BROKEN)
            pending.extend(chunk)
        line = bytes(pending[:end])
        del pending[: end + 1]
        try:
            found = _read(line, held)
            if found[0] not in _REPLIES or len(found) not in _REPLIES[found[0]]:
                os._exit(BROKEN)
            return list(found)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            os._exit(BROKEN)

    tests = _compiled("tests.py")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(_compiled("imports.py"), names)
    reply(time.monotonic() + _START)
    names[name] = reply(time.monotonic() + seconds)[1]
    exec(tests, names)


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    if sys.argv[1] == "judge":
        _judge(sys.argv[2], float(sys.argv[3]))
    else:
        _serve(sys.argv[2])
