"""Reads rotary position settings from a `config.json`, in every layout that transformers reads.

Newer files have `rope_parameters` (of gemma3: one object per kind of layer); older ones have
`rope_scaling` beside `rope_theta` and, of gemma3, `rope_local_base_freq`. Where a file has several
of them, versions of transformers differ in which they use; such a file is read only if all of them
say the same.
"""

import dataclasses
from typing import Any

from rmas.errors import InputError
from rmas.models.fields import Fields, shown
from rmas.models.spec import RopeSpec

LENGTH, POSITIONS = "original_max_position_embeddings", "max_position_embeddings"
ROPE_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", LENGTH),
}
"""The types that are supported, and the numbers that each reads."""
NEW, OLD, PARTIAL = "rope_parameters", "rope_scaling", "partial_rotary_factor"
KINDS = ("full_attention", "sliding_attention", "linear_attention")
"""Kinds of layers, by which settings may be nested."""


def read_rope(read: Fields, head_dim: int, partial: bool) -> RopeSpec:
    """The rope settings of all layers.

    Args:
      head_dim: the size of a head.
      partial: whether the class rotates only a part of a head, `partial_rotary_factor`.

    Raises:
      InputError: settings contradict each other, are not supported, or are out of range.
    """
    objects = {key: _object(read, key, read.get(key)) for key in (NEW, OLD)}
    found = {key: value for key, value in objects.items() if value}
    for key, settings in found.items():
        nested = [name for name in KINDS if name in settings]
        if nested:
            raise InputError(
                f"{read.where}: '{key}' is nested by kind of layer ('{nested[0]}'); in this family "
                "it holds one setting for all layers"
            )
    beside = {"rope_theta": "rope_theta", LENGTH: LENGTH} | ({PARTIAL: PARTIAL} if partial else {})
    return _agreed(read, found, beside, head_dim)


def read_gemma3_ropes(read: Fields, head_dim: int) -> dict[str, RopeSpec]:
    """The rope settings of gemma3 by kind of layer; `rope_scaling` holds for global layers only.

    Raises:
      InputError: as `read_rope`.
    """
    full, sliding = KINDS[:2]
    nested = _object(read, NEW, read.get(NEW))
    flat = sorted(nested.keys() - {full, sliding})
    if flat:
        raise InputError(
            f"{read.where}: '{NEW}' has {shown(flat[0])}; in this family it holds the objects "
            f"'{full}' and '{sliding}'"
        )
    by_kind = {kind: _object(read, f"{NEW}.{kind}", nested.get(kind)) for kind in (full, sliding)}
    old = _object(read, OLD, read.get(OLD))
    if "type" in old and "rope_type" not in old:
        # transformers 4 reads it, transformers 5 does not.
        raise InputError(f"{read.where}: '{OLD}' has 'type'; in this family name it 'rope_type'")
    found = {name: own for name, own in ((f"{NEW}.{full}", by_kind[full]), (OLD, old)) if own}
    local = {f"{NEW}.{sliding}": by_kind[sliding]} if by_kind[sliding] else {}
    return {
        full: _agreed(read, found, {"rope_theta": "rope_theta"}, head_dim),
        sliding: _agreed(read, local, {"rope_theta": "rope_local_base_freq"}, head_dim),
    }


def _object(read: Fields, name: str, value: Any) -> dict[str, Any]:
    """A value as an object; null means an empty one."""
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{read.where}: '{name}' is {shown(value)}; it must be an object")
    return value or {}


@dataclasses.dataclass(frozen=True)
class _Settings:
    """One object of rope settings, complete.

    Attributes:
      name: its key.
      values: the type and all numbers that count.
      keys: by number, the key of the file that holds it, with those of the objects around it.
    """

    name: str
    values: dict[str, Any]
    keys: dict[str, str]


def _agreed(
    read: Fields,
    found: dict[str, dict[str, Any]],
    beside: dict[str, str],
    head_dim: int,
) -> RopeSpec:
    """What several objects of settings, by name, all say.

    Args:
      beside: by key that they may leave out, the one beside them that then holds its value.
    """
    first, *others = (_complete(read, *item, beside) for item in (found or {"": {}}).items())
    for other in others:
        for key in first.values | other.values:
            one, two = first.values.get(key), other.values.get(key)
            if one != two:
                _refuse(read, first.name, other.name, one, two, f" in {key}")
    kind = first.values["rope_type"]
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        raise InputError(
            f"{read.where}: unknown rope type {shown(kind)}; supported: {', '.join(ROPE_NUMBERS)} "
            f"('{first.keys['rope_type']}')"
        )
    return _spec(read, first, kind, _rotated(read, first, kind, head_dim, PARTIAL in beside))


def _complete(read: Fields, name: str, given: dict[str, Any], beside: dict[str, str]) -> _Settings:
    """Settings with what they leave out, which stands beside them or is the class's default."""
    kind = given.get("rope_type", given.get("type", "default"))
    if "type" in given and given["type"] != kind:
        _refuse(read, f"{name}.type", f"{name}.rope_type", given["type"], kind)
    keys = {key: f"{name}.{key}" for key in ("rope_type", *given)}
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        return _Settings(name, given | {"rope_type": kind}, keys)  # compared, and then refused
    values = {"rope_type": kind} | {key: given[key] for key in ROPE_NUMBERS[kind] if key in given}
    for key, other in ((k, beside[k]) for k in ("rope_theta", PARTIAL) if k in beside):
        outside = read.config.get(other)
        if key in given and outside is not None and given[key] != outside:
            _refuse(read, other, keys[key], outside, given[key])
        values[key] = given[key] if key in given else read.get(other)
        keys.setdefault(key, other)
    if kind == "llama3":
        outer = beside[LENGTH] if beside.get(LENGTH) in read.config else POSITIONS
        values.setdefault(LENGTH, read(outer, int))
        keys.setdefault(LENGTH, outer)
        # transformers takes either, the one beside where both are there; gemma3's is not read.
        if read.config.get(LENGTH, values[LENGTH]) != values[LENGTH]:
            _refuse(read, LENGTH, keys[LENGTH], read.config[LENGTH], values[LENGTH])
    if PARTIAL not in beside:
        values[PARTIAL] = given.get(PARTIAL, read.get(PARTIAL))
    return _Settings(name, values, keys)


def _refuse(read: Fields, one: str, other: str, first: Any, second: Any, where: str = "") -> None:
    raise InputError(
        f"{read.where}: '{one}' and '{other}' contradict each other{where}: {shown(first)} and "
        f"{shown(second)}; remove the wrong one"
    )


def _rotated(read: Fields, settings: _Settings, kind: str, head_dim: int, partial: bool) -> int:
    """How many numbers of a head are rotated."""
    part = settings.values[PARTIAL]
    if not partial:
        # With the default type these classes ignore the key; with others they fail.
        if kind != "default" and part not in (None, 1):
            raise InputError(
                f"{read.where}: '{PARTIAL}' is {shown(part)}; this family rotates whole heads "
                f"where the rope type is {kind}"
            )
        return head_dim
    dim = int(head_dim * read(PARTIAL, float, settings.values, settings.keys[PARTIAL]))
    if dim < 2 or dim % 2:
        raise InputError(
            f"{read.where}: {PARTIAL} {part} of a head of {head_dim} is {dim} numbers; it must be "
            f"an even number from 2 to {head_dim}"
        )
    return dim


def _spec(read: Fields, settings: _Settings, kind: str, dim: int) -> RopeSpec:
    def number(key: str) -> float:
        name = settings.keys.get(key, f"{settings.name}.{key}")
        return read(key, float, inside=settings.values, name=name)

    theta = number("rope_theta")
    if kind == "default":
        return RopeSpec(theta, dim)
    if kind == "linear":
        return RopeSpec(theta, dim, kind, number("factor"))
    low, high = number("low_freq_factor"), number("high_freq_factor")
    if high <= low:
        raise InputError(
            f"{read.where}: 'high_freq_factor' is {high}; it must be larger than "
            f"'low_freq_factor', {low}"
        )
    original = read(LENGTH, int, inside=settings.values, name=settings.keys[LENGTH])
    return RopeSpec(theta, dim, kind, number("factor"), low, high, original)
