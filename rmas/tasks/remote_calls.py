"""A script of tests in one process and the function that it tests in another one.

This is a separate program that uses only the standard library (and numpy where values are numpy's).
It runs in two sandboxes, whose inputs and outputs are connected:

    remote_calls.py judge NAME SECONDS   runs `imports.py` and `tests.py`, which call NAME
    remote_calls.py serve NAME           runs `candidate.py` and then what the judge asks for

So the function can neither see what is expected, nor change how it is compared, nor report that it
passed, nor stop the clock. The judge ends with status 0 where the script runs to its end, `TIMEOUT`
where the function does not answer in SECONDS, and `BROKEN` where it no longer answers.

Requests and replies are lines of JSON. Plain data are copied. Anything else stays where it is, and
the judge has a `Held` for it.
"""

import builtins
import collections
import contextlib
import datetime
import decimal
import fractions
import gc
import itertools
import json
import operator
import os
import re
import select
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

TIMEOUT, BROKEN = 3, 4
_START = 30.0  # seconds for the other process to be there
_DEPTH = 10_000  # of nested values
_SCALARS = {type(None), bool, int, float, str}
_EXACT: dict[type, Any] = {int: int.__int__, float: float.__float__, str: str.__str__}
_BITS = 10_000  # larger integers are written in hexadecimal, which takes linear time
_COPIED: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)
_PLAIN: dict[str, Any] = {
    **{kind.__name__: kind for kind in _COPIED},
    "tuples": lambda data: list(map(tuple, data)),
    "dict": lambda data: dict(zip(*data, strict=True)),
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
}
_OPERATIONS: dict[str, Any] = {
    "call": lambda function, arguments, named: function(*arguments, **named),
    "get": getattr,
    **{f.__name__: f for f in (bool, len, str, iter, next, operator.getitem, operator.contains)},
}


def encode(x: Any, hold: Any) -> Any:
    """A value as lists, scalars and objects `{kind: data}`; `hold(x)` is the data of others."""
    kind = type(x)
    if kind in _SCALARS:
        if kind is int and x.bit_length() > _BITS:
            return {"int": hex(x)}
        return x
    if kind is list:
        return _items(x, hold)
    if kind is tuple:
        return {"tuple": _items(x, hold)}
    if kind is dict:
        return {"dict": [_items(list(x), hold), _items(list(x.values()), hold)]}
    return _other(x, hold)


def _items(x: Any, hold: Any) -> Any:
    """The items of a list or tuple; without a call for each, of which there may be millions."""
    kinds = set(map(type, x))
    if kinds <= _SCALARS:
        return x
    nested = kinds == {list} or kinds == {tuple}
    if nested and set(map(type, itertools.chain.from_iterable(x))) <= _SCALARS:
        return x if kinds == {list} else {"tuples": x}
    return [encode(v, hold) for v in x]


def _other(x: Any, hold: Any) -> Any:
    kind: Any = type(x)
    for scalar, exact in _EXACT.items():
        if isinstance(x, scalar):
            return encode(exact(x), hold)
    if isinstance(x, complex):
        return {"complex": [x.real, x.imag]}
    if isinstance(x, dict):
        return encode(dict(zip(dict.keys(x), dict.values(x), strict=True)), hold)
    if kind in (bytes, bytearray):
        return {kind.__name__: x.hex()}
    for copied in _COPIED:
        if isinstance(x, copied):
            return {copied.__name__: encode(list(copied.__iter__(x)), hold)}
    if isinstance(x, (type({}.keys()), type({}.items()))):
        return {kind.__name__: encode(list(x), hold)}
    if kind in (range, slice):
        return {kind.__name__: encode([x.start, x.stop, x.step], hold)}
    if kind in (decimal.Decimal, fractions.Fraction):
        return {kind.__name__: str(x)}
    if kind is datetime.date or (
        kind in (datetime.datetime, datetime.time) and x.tzinfo in (None, datetime.UTC)
    ):
        return {kind.__name__: x.isoformat()}
    if kind is datetime.timedelta:
        return {"timedelta": [x.days, x.seconds, x.microseconds]}
    if kind is type and x in vars(builtins).values():
        return {"type": x.__name__}
    numpy: Any = sys.modules.get("numpy")
    if numpy and isinstance(x, numpy.generic) and type(x.item()) is not type(x):
        return encode(x.item(), hold)
    if numpy and isinstance(x, numpy.ndarray) and x.dtype.kind in "biufcUO":
        data = encode(x.ravel().tolist(), hold)
        return {"ndarray": [x.dtype.str, list(x.shape), data]}
    return {"held": hold(x)}


def decode(found: dict[str, Any], held: Any) -> Any:
    """The value of an object; `held(data)` is that of one that was held."""
    ((kind, data),) = found.items()
    if kind in _PLAIN:
        return _PLAIN[kind](data)
    if kind == "held":
        return held(data)
    if kind == "int":
        return int(data, 16)
    if kind == "complex":
        return complex(*data)
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind).fromhex(data)
    if kind == "dict_keys":
        return dict.fromkeys(data).keys()
    if kind == "dict_items":
        return dict(data).items()
    if kind in ("range", "slice"):
        return getattr(builtins, kind)(*data)
    if kind == "type" and isinstance(getattr(builtins, data), type):
        return getattr(builtins, data)
    if kind in ("datetime", "date", "time"):
        return getattr(datetime, kind).fromisoformat(data)
    if kind == "timedelta":
        return datetime.timedelta(*data)
    if kind != "ndarray":
        raise ValueError(kind)
    import numpy

    name, shape, values = data
    if not re.fullmatch(r"[<>=|](b1|[iu][1248]|f[248]|c(8|16)|U\d{1,6}|O)", name):
        raise ValueError(name)
    return numpy.array(values, dtype=name).reshape(shape)


class Held:
    """What is not plain data, in the process of the function. It is equal to itself alone."""

    def __init__(self, ask: Any, number: int, kind: str):
        self._ask, self._number, self._kind = ask, number, kind

    def __repr__(self) -> str:
        return f"<{self._kind}>"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # such as those with which numpy reads memory
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


@contextlib.contextmanager
def _for_large_values() -> Iterator[None]:
    """Values may be deep, and while they are copied nothing becomes garbage."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        sys.setrecursionlimit(limit)


def _write(descriptor: int, value: Any, hold: Any) -> None:
    with _for_large_values():
        line = json.dumps(encode(value, hold)).encode() + b"\n"
    left = memoryview(line)
    while left:
        left = left[os.write(descriptor, left) :]


def _read(line: str | bytes, held: Any) -> Any:
    with _for_large_values():
        return json.loads(line, object_hook=lambda found: decode(found, held))


def _serve(name: str) -> None:
    """Runs the candidate, and then answers requests until there are no more."""
    incoming, replies = _lines()
    os.dup2(1, 2)
    kept: list[Any] = []

    def hold(x: Any) -> list[Any]:
        kept.append(x)
        return [len(kept) - 1, type(x).__name__]

    _write(replies, ["value", "started"], hold)
    module = sys.modules["candidate"] = types.ModuleType("candidate")
    exec(_compiled("candidate.py"), module.__dict__)
    _write(replies, ["value", getattr(module, name, None)], hold)
    for line in os.fdopen(incoming):
        operation, *operands = _read(line, kept.__getitem__)
        try:
            _write(replies, ["value", _OPERATIONS[operation](*operands)], hold)
        except Exception as error:
            _write(replies, ["error", type(error).__name__, str(error)[:200]], hold)


def _judge(name: str, seconds: float) -> None:
    """Runs the script with the function of the other process."""
    replies, requests = _lines()
    pending = bytearray()

    def ask(operation: str, *operands: Any) -> Any:
        _write(requests, [operation, *operands], lambda x: x._number)
        return reply(seconds)

    def reply(within: float) -> Any:
        until, at = time.monotonic() + within, 0
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
            kind, *values = _read(line, held)
        except (ValueError, TypeError, KeyError, RecursionError):
            os._exit(BROKEN)
        if kind == "value":
            return values[0]
        error: Any = getattr(builtins, str(values[0]), None)
        known = isinstance(error, type) and issubclass(error, Exception)
        raise error(values[1]) if known else RuntimeError(*values)

    def held(data: list[Any]) -> Held:
        return Held(ask, data[0], str(data[1]))

    tests = _compiled("tests.py")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(_compiled("imports.py"), names)
    reply(_START)
    names[name] = reply(seconds)
    exec(tests, names)


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    if sys.argv[1] == "judge":
        _judge(sys.argv[2], float(sys.argv[3]))
    else:
        _serve(sys.argv[2])
