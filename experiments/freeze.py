"""From a ConfigDict to frozen dataclasses, once, with every field checked."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ml_collections import ConfigDict

from rmas.errors import InputError

T = TypeVar("T")


def freeze(config: ConfigDict | Mapping[str, Any], cls: type[T], where: str = "config") -> T:
    """A `cls` (a dataclass, nested as it likes) from a config with the same fields.

    Field types may be scalars, Path, tuples, dicts, Literal, dataclasses, and unions of these;
    an int is taken for a float, a list for a tuple, a str for a Path, and nothing else is
    converted. Raises InputError, naming the field by its dotted path, for a field that `cls`
    lacks (with close matches), a missing field without a default, a value of the wrong type, and
    a ValueError that the dataclass itself raises.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    given = dict(config.items())
    for name in given:
        if name not in fields:
            raise InputError(f"{where}.{name}: no such field{did_you_mean(name, fields)}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING
        if name not in given and no_default and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{name} is missing; wanted {type_name(hints[name])}")
    values = {name: _value(v, hints[name], f"{where}.{name}") for name, v in given.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean a or b?`, or the whole list where nothing is close."""
    names = list(names)
    last = name.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    close += [n for n in names if n.rsplit(".", 1)[-1] == last and n not in close]
    if close:
        return f"; did you mean {' or '.join(close[:3])}?"
    more = ", ..." if len(names) > 20 else ""
    return f"; the fields are {', '.join(names[:20])}{more}" if names else ""


def type_name(hint: Any) -> str:
    """A type as a reader of an error wants it: `float`, `tuple[str, ...]`, `'a' or 'b'`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    if hint is type(None):
        return "None"
    if origin is not None:
        return str(hint).replace("typing.", "")
    return getattr(hint, "__name__", str(hint))


def _value(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    mapping = isinstance(value, ConfigDict | Mapping)
    wrong = InputError(
        f"{where} is {'a group of fields' if mapping else _shown(value)}; wanted {type_name(hint)}"
    )
    if hint is Any:
        return value.to_dict() if isinstance(value, ConfigDict) else value
    if origin in (Union, types.UnionType):
        return _one_of(value, args, where, wrong)
    if origin is Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        raise wrong
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if mapping:
            return freeze(value, hint, where)
        raise wrong
    kind = origin or hint
    if kind is tuple and isinstance(value, list | tuple):
        if len(value) == 1 and isinstance(value[0], str):  # a,b on the command line
            value = tuple(part.strip() for part in value[0].split(","))
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        elif args and len(args) != len(value):
            raise wrong
        inner = args or (Any,) * len(value)
        pairs = enumerate(zip(value, inner, strict=True))
        return tuple(_value(v, arg, f"{where}[{i}]") for i, (v, arg) in pairs)
    if isinstance(kind, type) and issubclass(kind, Mapping) and mapping:
        inner = args[1] if args else Any
        return {key: _value(v, inner, f"{where}.{key}") for key, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and isinstance(value, kind):
        if kind is int and isinstance(value, bool):  # True is an int, for Python
            raise wrong
        return value
    raise wrong


def _one_of(value: Any, options: tuple[Any, ...], where: str, wrong: InputError) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    exact = [option for option in options if type(value) is option]
    if exact:  # an int stays an int where int and float would do
        return value
    if len(options) == 1 and not isinstance(value, int | float | str):
        return _value(value, options[0], where)  # its own message says what is wrong inside
    for option in options:
        try:
            return _value(value, option, where)
        except InputError:
            continue
    raise wrong


def _shown(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if value is None else f"{text} ({type(value).__name__})"
