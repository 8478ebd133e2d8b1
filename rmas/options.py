"""Options: the fields of frozen dataclasses that users set, with help, bounds and checks.

    @dataclasses.dataclass(frozen=True)
    class Optim(Options):
        lr: float = option(5e-4, "peak learning rate", above=0)

A value that makes no sense (another type, nan, out of bounds) is refused when the object is made,
in Python as from a config file or a flag. `build` makes nested options from nested dicts and names
the field at fault by its dotted path; `described` lists fields for `--help` and the docs.
"""

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from rmas.errors import InputError

T = TypeVar("T", bound="Options")
_SHOWN = 60  # characters of a value that a message quotes


class OptionError(InputError):
    """A field of options that makes no sense: `field` is its dotted path, `problem` the rest."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}{problem}")
        self.field, self.problem = field, problem

    def within(self, where: str) -> "OptionError":
        """The same error, named from the outside."""
        return OptionError(f"{where}.{self.field}", self.problem)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The numbers that a field accepts; None means no bound on that side."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def accept(self, value: float) -> bool:
        """Whether a number lies within."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        parts = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        return " and ".join(f"{word} {bound}" for word, bound in parts if bound is not None)


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    unit: str = "",
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with its help text and bounds.

    Args:
      default: its value where nobody sets it; or `factory`, which makes one.
      help: one sentence for `--help` and the docs, without a full stop.
      unit: of numbers: `tokens`, `s`, `rows`, ...
      least, most, above, below: bounds of a number, or of each number in a tuple or dict.
    """
    metadata = {"help": help, "unit": unit, "bounds": Bounds(least, most, above, below)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of option dataclasses: every field is checked when the object is made.

    An int is accepted for a float, a list for a tuple; nothing else is converted. A subclass that
    has more to check extends `__post_init__` and raises `OptionError` (see `wrong`).
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            bounds = field.metadata.get("bounds", Bounds())
            value = _checked(getattr(self, field.name), hints[field.name], field.name, bounds)
            object.__setattr__(self, field.name, value)

    def wrong(self, field: str, why: str) -> OptionError:
        """The error for a field whose value contradicts something; `why` says what is right."""
        return OptionError(field, f" is {_shown(getattr(self, field))}; {why}")


def build(cls: type[T], values: Mapping[str, Any], where: str = "", base: T | None = None) -> T:
    """Options from a nested dict; what it leaves out stays as in `base` (the defaults).

    Raises:
      InputError: an unknown field (with close matches), or a value that makes no sense, each named
        by its dotted path below `where`.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(values, Mapping):
        raise InputError(
            f"{where or cls.__name__} is {_shown(values)}; it must be a dict of fields"
        )
    hints, known = typing.get_type_hints(cls), _fields(cls)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{prefix}{name}: no such field{did_you_mean(name, known)}")
        section = section_of(hints[name])
        if section is not None and isinstance(value, Mapping):
            below = default_of(known[name]) if base is None else getattr(base, name)
            value = build(section, value, f"{prefix}{name}", below)
        given[name] = value
    try:
        return cls(**given) if base is None else dataclasses.replace(base, **given)
    except OptionError as error:
        raise (error.within(where) if where else error) from None


def as_dict(options: Any) -> Any:
    """Options as nested dicts of plain values, for JSON and for `build`."""
    if isinstance(options, Options):
        return {name: as_dict(getattr(options, name)) for name in _fields(type(options))}
    return dict(options) if isinstance(options, Mapping) else options


@dataclasses.dataclass(frozen=True)
class Described:
    """A field as `--help` and the docs show it; `section` is set where it has fields of its own."""

    name: str
    kind: str
    default: Any
    help: str
    unit: str
    bounds: str
    section: type["Options"] | None


def described(
    cls: type[Options], prefix: str = "", base: Options | None = None
) -> Iterator[Described]:
    """All fields in order, each section before the fields in it, named by dotted paths.

    Defaults are those of `base`, where a section differs from its class's own.
    """
    hints, sections = typing.get_type_hints(cls), []
    for name, field in _fields(cls).items():
        section = section_of(hints[name])
        found = Described(
            name=prefix + name,
            kind=type_name(hints[name]),
            default=default_of(field) if base is None else getattr(base, name),
            help=field.metadata.get("help", ""),
            unit=field.metadata.get("unit", ""),
            bounds=str(field.metadata.get("bounds", "")),
            section=section,
        )
        if section is None:
            yield found
        else:
            sections.append(found)
    for found in sections:
        yield found
        if found.section is not None:
            yield from described(found.section, f"{found.name}.", found.default)


def summary_of(cls: type) -> str:
    """The docstring of a section as paragraphs."""
    return inspect.cleandoc(cls.__doc__ or "")


def default_of(field: dataclasses.Field) -> Any:
    """The default value of a field."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def section_of(hint: Any) -> type[Options] | None:
    """The option class that a field holds, if it holds one."""
    return hint if isinstance(hint, type) and issubclass(hint, Options) else None


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
    """A type as a reader of an error wants it: `float`, `tuple of str`, `'a' or 'b'`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"tuple of {type_name(args[0])}"
        return f"({', '.join(type_name(arg) for arg in args)})"
    if origin is not None and issubclass(origin, Mapping):
        return f"dict of {type_name(args[1])}"
    return getattr(hint, "__name__", str(hint))


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _checked(value: Any, hint: Any, name: str, bounds: Bounds) -> Any:
    """The value, converted where that loses nothing; raises `OptionError` where it is wrong."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = OptionError(name, f" is {_shown(value)}; it must be {type_name(hint)}")
    if origin is Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        raise wrong
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise wrong
        each = (args[0],) * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(each) != len(value):
            raise wrong
        return tuple(
            _checked(v, arg, f"{name}[{i}]", bounds)
            for i, (v, arg) in enumerate(zip(value, each, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise wrong
        return {key: _checked(v, args[1], f"{name}.{key}", bounds) for key, v in value.items()}
    if hint in (int, float):
        return _number(value, hint, wrong, bounds, name)
    if not isinstance(value, hint):
        raise wrong
    return value


def _number(value: Any, kind: type, wrong: OptionError, bounds: Bounds, name: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise wrong
    if isinstance(value, float) and not math.isfinite(value):
        limits = f" {bounds}" if str(bounds) else ""
        raise OptionError(name, f" is {value}; it must be a finite number{limits}")
    if not bounds.accept(value):
        raise OptionError(name, f" is {_shown(value)}; it must be {bounds}")
    try:
        return kind(value)
    except OverflowError:
        raise OptionError(name, f" is {_shown(value)}; it must be a finite number") from None


def _shown(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return (
        text
        if isinstance(value, bool | int | float | str | None)
        else (f"{text} ({type(value).__name__})")
    )
