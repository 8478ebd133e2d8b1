"""Reads rotary position settings from a `config.json`, in every layout that transformers reads.

Newer files have `rope_parameters` (of gemma3: one object per kind of layer); older ones have
`rope_scaling` beside `rope_theta` and, of gemma3, `rope_local_base_freq`. Where a file has several
of them, versions of transformers differ in which they use; such a file is read only if all of them
say the same.
"""

from typing import Any

from rmas.errors import InputError
from rmas.models.fields import Fields, shown
from rmas.models.spec import RopeSpec

ROPE_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
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
    return _agreed(read, found, "rope_theta", head_dim, partial)


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
        full: _agreed(read, found, "rope_theta", head_dim),
        sliding: _agreed(read, local, "rope_local_base_freq", head_dim),
    }


def _object(read: Fields, name: str, value: Any) -> dict[str, Any]:
    """A value as an object; null means an empty one."""
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{read.where}: '{name}' is {shown(value)}; it must be an object")
    return value or {}


def _agreed(
    read: Fields,
    found: dict[str, dict[str, Any]],
    theta_key: str,
    head_dim: int,
    partial: bool = False,
) -> RopeSpec:
    """What several settings, by name, all say.

    Args:
      theta_key: the key of the configuration that holds the base where settings leave it out.
    """
    ropes = {
        name: _complete(read, name, settings, theta_key, partial)
        for name, settings in (found or {"": {}}).items()
    }
    name, settings = next(iter(ropes.items()))
    for other, own in ropes.items():
        differing = [key for key in settings | own if settings.get(key) != own.get(key)]
        if differing:
            key = differing[0]
            _refuse(read, name, other, f" in {key}", settings.get(key), own.get(key))
    return _spec(read, name, settings, head_dim, partial)


def _complete(
    read: Fields, name: str, settings: dict[str, Any], theta_key: str, partial: bool
) -> dict[str, Any]:
    """Settings with the type and all numbers that count; what they leave out stands beside them."""
    kind = settings.get("rope_type", settings.get("type", "default"))
    if "type" in settings and settings["type"] != kind:
        _refuse(read, f"{name}.type", f"{name}.rope_type", "", settings["type"], kind)
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        # Compared as it is, and refused afterwards.
        return settings | {"rope_type": kind}
    complete: dict[str, Any] = {"rope_type": kind}
    beside = {"rope_theta": theta_key} | ({PARTIAL: PARTIAL} if partial else {})
    for key, other in beside.items():
        outside = read.config.get(other)
        if key in settings and outside is not None and settings[key] != outside:
            _refuse(read, other, f"{name}.{key}", "", outside, settings[key])
        complete[key] = settings[key] if key in settings else read.get(other)
    if kind == "llama3":
        complete["original_max_position_embeddings"] = read("max_position_embeddings", int)
    complete |= {key: settings[key] for key in ROPE_NUMBERS[kind] if key in settings}
    if not partial and settings.get(PARTIAL, read.get(PARTIAL)) is not None:
        complete[PARTIAL] = settings.get(PARTIAL, read.get(PARTIAL))
    return complete


def _refuse(read: Fields, one: str, other: str, where: str, first: Any, second: Any) -> None:
    raise InputError(
        f"{read.where}: '{one}' and '{other}' contradict each other{where}: {shown(first)} and "
        f"{shown(second)}; remove the wrong one"
    )


def _spec(
    read: Fields, name: str, settings: dict[str, Any], head_dim: int, partial: bool
) -> RopeSpec:
    kind = settings["rope_type"]
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        raise InputError(
            f"{read.where}: unknown rope type {shown(kind)} in '{name}'; supported: "
            f"{', '.join(ROPE_NUMBERS)}"
        )
    dim = head_dim
    if partial:
        dim = int(head_dim * read(PARTIAL, float, inside=settings))
        if dim < 2 or dim % 2:
            raise InputError(
                f"{read.where}: {PARTIAL} {settings[PARTIAL]} of a head of {head_dim} is {dim} "
                f"numbers; it must be an even number from 2 to {head_dim}"
            )
    elif kind != "default" and settings.get(PARTIAL, 1) != 1:
        # With the default type the classes ignore the key; with others they fail.
        raise InputError(
            f"{read.where}: '{PARTIAL}' is {shown(settings[PARTIAL])}; this family rotates whole "
            f"heads where the rope type is {kind}"
        )
    theta = read("rope_theta", float, inside=settings)
    if kind == "default":
        return RopeSpec(theta, dim)
    factor = read("factor", float, inside=settings, of=name)
    if kind == "linear":
        return RopeSpec(theta, dim, kind, factor)
    low = read("low_freq_factor", float, inside=settings, of=name)
    high = read("high_freq_factor", float, inside=settings, of=name)
    if high <= low:
        raise InputError(
            f"{read.where}: 'high_freq_factor' is {high}; it must be larger than "
            f"'low_freq_factor', {low}"
        )
    original = read("original_max_position_embeddings", int, inside=settings, of=name)
    return RopeSpec(theta, dim, kind, factor, low, high, original)
