"""Reads the values of a `config.json`: each has a type, numbers have a sane range."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from rmas.errors import InputError

_T = TypeVar("_T", bool, int, float, str)
_POSITIONS = (1, 1 << 30)
_HEADS = (1, 1 << 14)
_FACTOR = (1e-3, 1e6)
RANGES: Mapping[str, tuple[float, float]] = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 18),
    "intermediate_size": (1, 1 << 22),
    "num_hidden_layers": (1, 1 << 9),
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": (2, 1 << 14),
    "max_position_embeddings": _POSITIONS,
    "original_max_position_embeddings": _POSITIONS,
    "sliding_window": _POSITIONS,
    "max_window_layers": (0, 1 << 10),
    "sliding_window_pattern": (1, 1 << 10),
    "full_attention_interval": (1, 1 << 10),
    "linear_num_key_heads": _HEADS,
    "linear_num_value_heads": _HEADS,
    "linear_key_head_dim": _HEADS,
    "linear_value_head_dim": _HEADS,
    "linear_conv_kernel_dim": (2, 1 << 6),
    "rms_norm_eps": (1e-12, 1.0),
    "query_pre_attn_scalar": _FACTOR,
    "final_logit_softcapping": _FACTOR,
    "partial_rotary_factor": (1e-3, 1.0),
    "rope_theta": (1.0, 1e15),
    "factor": _FACTOR,
    "low_freq_factor": _FACTOR,
    "high_freq_factor": _FACTOR,
}
"""The smallest and the largest value of each number, far beyond those of existing models."""
_TYPES: Mapping[type, str] = {bool: "true or false", str: "a string"}


def shown(value: object) -> str:
    """A value from a file in about 60 characters at most, for messages."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str):
        return repr(value) if len(value) <= 50 else f"{value[:50]!r}..."
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of about {value.bit_length() * 0.30103:.0f} digits"
    return json.dumps(value)


class Fields:
    """The values of a configuration; a key that is left out has the default of its class.

    Args:
      config: the content of a `config.json`.
      defaults: values of keys that it may leave out.
      where: names its source in errors.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self.config, self.where = config, where
        self._all = {**defaults, **config}

    def get(self, key: str) -> Any:
        """The value of a key or its default, not checked; None if there is neither."""
        return self._all.get(key)

    def __call__(
        self, key: str, kind: type[_T], inside: Mapping[str, Any] | None = None, name: str = ""
    ) -> _T:
        """The value of a key, a number within its range in `RANGES`.

        Args:
          kind: its type; integers are read as floats, too.
          inside: the object that holds the key; None means the configuration.
          name: the key with those of the objects around it, for messages.

        Raises:
          InputError: the key is missing, or its value is of another type or out of range.
        """
        source = self._all if inside is None else inside
        name = f"'{name or key}'"
        if key not in source:
            raise InputError(f"{self.where}: key {name} is missing; the model cannot be built")
        value: Any = source[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is int or kind is float:
            least, most = RANGES[key]
            right = number and (kind is float or isinstance(value, int)) and least <= value <= most
            span = f"{least:,} to {most:,}" if kind is int else f"{least:g} to {most:g}"
            wanted = f"{'an integer' if kind is int else 'a number'} from {span}"
        else:
            right, wanted = isinstance(value, kind), _TYPES[kind]
        if not right:
            raise InputError(f"{self.where}: {name} is {shown(value)}; it must be {wanted}")
        return kind(value)
