"""`ModelSpec`: the static facts of one architecture, read from a checkpoint's `config.json`.

Numbers that a checkpoint decides have no default here. The few keys that real checkpoints
leave out take the value of the transformers configuration class; those values stand in
`CLASS_DEFAULTS`, which a test holds against `AutoConfig`.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from rmas.errors import InputError

CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False},
    "mistral": {"sliding_window": 4096, "tie_word_embeddings": False},
    "qwen2": {"use_sliding_window": False, "tie_word_embeddings": False},
    "qwen3": {
        "attention_bias": False,
        "head_dim": 128,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    },
}
ACTIVATIONS = ("silu",)
ROPE_TYPES = ("default", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding: base, and the llama3 rescaling of long wavelengths if there is one."""

    theta: float
    kind: str
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_positions: int | None = None


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What distinguishes one layer from the next; `window` None means attention to all."""

    window: int | None
    rope: RopeSpec


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One decoder architecture: hashable, a jit static."""

    family: str
    vocab_size: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    activation: str
    norm_eps: float
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    max_positions: int
    layers: tuple[LayerSpec, ...]

    @property
    def period(self) -> tuple[LayerSpec, ...]:
        """The shortest prefix of `layers` whose repetition gives them all."""
        n = len(self.layers)
        for p in range(1, n + 1):
            if all(self.layers[i] == self.layers[i % p] for i in range(n)):
                return self.layers[:p]
        raise AssertionError("a list of layers repeats with its own length")

    @property
    def n_periods(self) -> int:
        """Whole repetitions of the period; the remaining layers are unrolled after them."""
        return len(self.layers) // len(self.period)

    @property
    def rest(self) -> tuple[LayerSpec, ...]:
        """Layers after the last whole period."""
        return self.layers[self.n_periods * len(self.period) :]

    @classmethod
    def from_config(cls, directory: str | Path) -> "ModelSpec":
        """Reads `directory/config.json`, in the flat or the nested layout of rope settings.

        Raises:
          InputError: the file is missing or broken, a key is missing, or the architecture,
            the rope type or the activation is not supported.
        """
        path = Path(directory) / "config.json"
        try:
            config = json.loads(path.read_text())
        except OSError as e:
            raise InputError(f"cannot read {path}: {e.strerror}; expected a model folder") from e
        except ValueError as e:
            raise InputError(f"{path} is not valid JSON: {e}") from e
        if not isinstance(config, dict):
            raise InputError(f"{path} must hold a JSON object")
        return cls.from_dict(config, where=str(path))

    @classmethod
    def from_dict(cls, config: dict[str, Any], where: str) -> "ModelSpec":
        """The same from a parsed configuration; `where` names its source in errors."""
        family = config.get("model_type")
        if not isinstance(family, str) or family not in CLASS_DEFAULTS:
            supported = ", ".join(sorted(CLASS_DEFAULTS))
            raise InputError(f"{where}: unknown architecture {family!r}; supported: {supported}")
        config = CLASS_DEFAULTS[family] | config
        read = _Reader(config, where)
        activation = read("hidden_act", str)
        if activation not in ACTIVATIONS:
            raise InputError(
                f"{where}: unknown activation {activation!r}; supported: {', '.join(ACTIVATIONS)}"
            )
        d_model, n_heads = read("hidden_size", int), read("num_attention_heads", int)
        # The classes of llama, mistral and qwen2 define an absent head_dim as this quotient.
        quotient = config.get("head_dim") is None and family != "qwen3"
        head_dim = d_model // n_heads if quotient else read("head_dim", int)
        n_kv_heads = read("num_key_value_heads", int)
        if n_heads % n_kv_heads or head_dim % 2:
            raise InputError(
                f"{where}: {n_heads} heads of {head_dim} with {n_kv_heads} key/value heads; "
                "heads must be a multiple of key/value heads, and their size even"
            )
        # Only these classes read the keys; mistral has no biases, qwen2 always those of q, k, v.
        bias = family in ("llama", "qwen3") and read("attention_bias", bool)
        return cls(
            family=family,
            vocab_size=read("vocab_size", int),
            d_model=d_model,
            d_ff=read("intermediate_size", int),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            activation=activation,
            norm_eps=read("rms_norm_eps", float),
            qkv_bias=family == "qwen2" or bias,
            out_bias=bias,
            mlp_bias=family == "llama" and read("mlp_bias", bool),
            qk_norm=family == "qwen3",
            tied=read("tie_word_embeddings", bool),
            max_positions=read("max_position_embeddings", int),
            layers=_layers(config, read, _rope(config, read)),
        )


class _Reader:
    """Reads one key with its type; a missing or mistyped key is an `InputError`.

    Numbers are sizes, bases and factors: all are positive, but for those with `least=0`.
    """

    def __init__(self, config: dict[str, Any], where: str):
        self.config, self.where = config, where

    def __call__(self, key: str, kind: type, inside: dict[str, Any] | None = None, least: int = 1):
        source = self.config if inside is None else inside
        if source.get(key) is None:
            raise InputError(f"{self.where}: key {key!r} is missing; the model cannot be built")
        value = source[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{self.where}: {key!r} must be {kind.__name__}, not {value!r}")
        too_small = value < least if kind is int else kind is float and not 0 < value < math.inf
        if too_small:
            raise InputError(f"{self.where}: {key!r} is {value!r}, which is out of range")
        return value


def _rope(config: dict[str, Any], read: _Reader) -> RopeSpec:
    nested = config.get("rope_parameters")
    scaling = nested if nested is not None else (config.get("rope_scaling") or {})
    if not isinstance(scaling, dict):
        raise InputError(f"{read.where}: rope settings must be an object, not {scaling!r}")
    theta = read("rope_theta", float, inside=nested if nested is not None else config)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise InputError(
            f"{read.where}: unknown rope type {kind!r}; supported: {', '.join(ROPE_TYPES)}"
        )
    if kind == "default":
        return RopeSpec(theta=theta, kind=kind)
    return RopeSpec(
        theta=theta,
        kind=kind,
        factor=read("factor", float, inside=scaling),
        low_freq_factor=read("low_freq_factor", float, inside=scaling),
        high_freq_factor=read("high_freq_factor", float, inside=scaling),
        original_max_positions=read("original_max_position_embeddings", int, inside=scaling),
    )


def _layers(config: dict[str, Any], read: _Reader, rope: RopeSpec) -> tuple[LayerSpec, ...]:
    n = read("num_hidden_layers", int)
    sliding = [False] * n
    if config["model_type"] == "mistral":
        sliding = [config["sliding_window"] is not None] * n
    elif config["model_type"] != "llama" and read("use_sliding_window", bool):
        types = config.get("layer_types")
        if types is None:
            first = read("max_window_layers", int, least=0)
            types = ["sliding_attention" if i >= first else "full_attention" for i in range(n)]
        known = ("sliding_attention", "full_attention")
        if not isinstance(types, list) or len(types) != n or any(t not in known for t in types):
            raise InputError(
                f"{read.where}: layer_types must name sliding_attention or full_attention "
                f"for each of {n} layers, not {types!r}"
            )
        sliding = [t == "sliding_attention" for t in types]
    window = read("sliding_window", int) if any(sliding) else None
    return tuple(LayerSpec(window=window if s else None, rope=rope) for s in sliding)
