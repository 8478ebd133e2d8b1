"""What `--help` says of a config: every section in words, its fields and their values."""

import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from rmas.console import printable


def field_help(kind: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Lines for the dataclass `kind`, whose fields a config sets as `values` (dotted name: value).

    What a section is comes from the docstring of its class. Fields that the config leaves out are
    shown with their defaults, behind `#`: a flag cannot set them, a config file can.
    """
    yield ""
    title = f"{prefix.rstrip('.')}: " if prefix else ""
    for n, paragraph in enumerate(inspect.cleandoc(kind.__doc__ or "").split("\n\n")):
        text = " ".join(((title if n == 0 else "") + paragraph).split())
        yield textwrap.fill(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    hints, sections = typing.get_type_hints(kind), []
    for field in filter(lambda field: field.init, dataclasses.fields(kind)):
        name = prefix + field.name
        own = {key: value for key, value in values.items() if f"{key}.".startswith(f"{name}.")}
        section = next(filter(dataclasses.is_dataclass, _parts(hints[field.name])), None)
        if section and (own or field.default is not None):
            sections.append((section, name))
            continue
        for key, value in own.items():
            yield f"        {printable(f'{key} = {value!r}')}"
        if not own:
            yield f"      # {name} = {_default(field)}"
    for section, name in sections:
        yield from field_help(section, values, f"{name}.")


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have: those of a union, or the one."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "(required)" if field.default is dataclasses.MISSING else repr(field.default)
