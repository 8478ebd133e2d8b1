"""Values as JSON, for two processes of which one does not trust the other.

Nothing of what is decoded is run, and only kinds of plain data are made.
"""

import builtins
import collections
import contextlib
import datetime
import decimal
import fractions
import functools
import gc
import itertools
import json
import re
import sys
from collections.abc import Iterator
from typing import Any


class NotPlainError(Exception):
    """A value would have to be held."""


def refuse(x: Any) -> Any:
    """For `encode`: only plain data. Raises NotPlainError."""
    raise NotPlainError(type(x).__name__)


@functools.cache
def _tuple_kind(name: str, *fields: str) -> Any:
    """A kind of named tuples. Raises ValueError where a name is none."""
    make: Any = collections.namedtuple
    return make(name, fields)


_DEPTH = 10_000  # of nested values
SCALARS: set[type] = {type(None), bool, int, float, str}
"""What JSON has."""
_EXACT: dict[type, Any] = {int: int.__int__, float: float.__float__, str: str.__str__}
_BITS = 10_000  # larger integers are written in hexadecimal, which takes linear time
_COPIED: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)
_MAPPINGS: tuple[Any, ...] = (collections.OrderedDict, collections.Counter, collections.defaultdict)
_PLAIN: dict[str, Any] = {
    **{kind.__name__: kind for kind in _COPIED},
    "tuples": lambda data: list(map(tuple, data)),
    "dict": lambda data: dict(zip(*data, strict=True)),
    "OrderedDict": lambda data: collections.OrderedDict(zip(*data, strict=True)),
    "Counter": lambda data: collections.Counter(dict(zip(*data, strict=True))),
    "defaultdict": lambda data: collections.defaultdict(data[0], zip(*data[1:], strict=True)),
    "namedtuple": lambda data: _tuple_kind(*data[0])(*data[1]),
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
}
_KINDS: tuple[Any, ...] = (
    *(kind for name, kind in vars(builtins).items() if isinstance(kind, type) and name[0] != "_"),
    *(type(None), *_COPIED, *_MAPPINGS, decimal.Decimal, fractions.Fraction),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta),
)
_TYPES: dict[str, Any] = {kind.__name__: kind for kind in _KINDS}


def encode(x: Any, hold: Any) -> Any:
    """A value as lists, scalars and objects `{kind: data}`; `hold(x)` is the data of others."""
    kind = type(x)
    if kind in SCALARS:
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
    if kinds <= SCALARS:
        return x
    nested = kinds == {list} or kinds == {tuple}
    if nested and set(map(type, itertools.chain.from_iterable(x))) <= SCALARS:
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
        return _mapping(x, hold)
    fields = getattr(kind, "_fields", None)
    if isinstance(x, tuple) and isinstance(fields, tuple) and len(fields) == len(x):
        with contextlib.suppress(ValueError, TypeError):
            _tuple_kind(kind.__name__, *fields)
            return {"namedtuple": [[kind.__name__, *fields], _items(list(x), hold)]}
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
    if isinstance(x, type) and _TYPES.get(name := getattr(x, "__name__", "")) is x:
        return {"type": name}
    numpy: Any = sys.modules.get("numpy")
    if numpy and isinstance(x, numpy.floating):  # one that is longer than a float, too
        return encode(float(x), hold)
    if numpy and isinstance(x, numpy.generic) and type(x.item()) is not type(x):
        return encode(x.item(), hold)
    if numpy and isinstance(x, numpy.ndarray) and x.dtype.kind in "biufcUO":
        data = encode(x.ravel().tolist(), hold)
        return {"ndarray": [x.dtype.str, list(x.shape), data]}
    return {"held": hold(x)}


def _mapping(x: Any, hold: Any) -> Any:
    """A dictionary of another kind; that of a subclass is the nearest kind that Python has."""
    kind = next((kind for kind in _MAPPINGS if isinstance(x, kind)), dict)
    data = [_items(list(kind.keys(x)), hold), _items(list(kind.values(x)), hold)]
    if kind is collections.defaultdict:
        data.insert(0, encode(x.default_factory, hold))
    return {kind.__name__: data}


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
    if kind == "type":
        return _TYPES[data]
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


@contextlib.contextmanager
def for_large_values() -> Iterator[None]:
    """Values may be deep, and while they are copied nothing becomes garbage."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        sys.setrecursionlimit(limit)


def text(x: Any, hold: Any) -> str:
    """A value as one line of JSON."""
    with for_large_values():
        return json.dumps(encode(x, hold))


def change(old: Any, new: Any, hold: Any) -> bool:
    """Makes an argument what the function made of its copy; whether it is that now."""
    if text(old, hold) == text(new, hold):
        return True
    if type(old) is tuple and type(new) is tuple and len(old) == len(new):
        done = [change(*pair, hold) for pair in zip(old, new, strict=True)]
        return all(done)
    if type(old) is not type(new):
        return False
    if type(old) in (list, bytearray):
        old[:] = new
    elif type(old) in (set, collections.deque, dict, *_MAPPINGS):
        old.clear()
        (old.extend if type(old) is collections.deque else old.update)(new)
    elif (numpy := sys.modules.get("numpy")) and type(old) is numpy.ndarray:
        old[...] = new
    return text(old, hold) == text(new, hold)
