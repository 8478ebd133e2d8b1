"""Reads a `ModelSpec` from a checkpoint's `config.json`.

A key that checkpoints may leave out has the default of its transformers configuration class; those
defaults are in `CLASS_DEFAULTS`, which a test compares with `AutoConfig`. Other keys are required.
"""

import math
import os
from pathlib import Path
from typing import Any, TypeVar

from rmas.errors import InputError
from rmas.files import read_json
from rmas.models.spec import AttentionLayer, DeltaLayer, LayerSpec, ModelSpec, RopeSpec

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
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "use_bidirectional_attention": False,
    },
    "qwen3_5_text": {"attention_bias": False, "tie_word_embeddings": False},
}
FAMILIES = {"gemma3_text": "gemma3", "qwen3_5_text": "qwen3_5"}
"""Names of families that differ from the checkpoints' `model_type`."""
COMPOSITES = {"gemma3": "gemma3_text", "qwen3_5": "qwen3_5_text"}
"""`model_type` of multimodal checkpoints, and that of their text model, in `text_config`."""
GEMMA3_PATTERN = 6
GEMMA3_THETAS = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}
QWEN3_5_INTERVAL = 4
QWEN3_5_ROTARY = 0.25
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
ROPE_TYPES = ("default", "linear", "llama3")
_FULL, _SLIDING, _LINEAR = "full_attention", "sliding_attention", "linear_attention"
_T = TypeVar("_T")


def read_spec(directory: str | Path) -> ModelSpec:
    """Reads the architecture of a model folder from its `config.json`.

    Rope settings may be flat or nested in `rope_parameters`.

    Raises:
      InputError: the file is missing or damaged, a key is missing, or the architecture, the rope
        type or the activation is not supported.
    """
    path = Path(directory) / "config.json"
    if not os.path.exists(path):
        raise InputError(f"cannot read {path}: no such file; expected a model folder")
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object")
    return parse_spec(config, where=str(path))


def parse_spec(config: dict[str, Any], where: str) -> ModelSpec:
    """The same from the content of a `config.json`; `where` names its source in errors."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in COMPOSITES:
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise InputError(f"{where}: 'text_config' of a {kind} model must be an object")
        # Old composite files leave the inner type out, or tie the head at the top level only.
        above = {k: config[k] for k in ("tie_word_embeddings",) if k in config}
        config = above | {"model_type": COMPOSITES[kind]} | text
        kind, where = config["model_type"], f"{where} (text_config)"
    experts = config.get("num_experts") or config.get("num_local_experts")
    if experts or (isinstance(kind, str) and "moe" in kind):
        raise InputError(
            f"{where}: {kind!r} is a mixture-of-experts model; only dense ones are supported"
        )
    if not isinstance(kind, str) or kind not in CLASS_DEFAULTS:
        supported = ", ".join(sorted([*CLASS_DEFAULTS, *COMPOSITES]))
        raise InputError(f"{where}: unknown architecture {kind!r}; supported: {supported}")
    config = CLASS_DEFAULTS[kind] | config
    read, family = _Reader(config, where), FAMILIES.get(kind, kind)
    gemma3, qwen3_5 = family == "gemma3", family == "qwen3_5"
    activation = read("hidden_activation" if gemma3 else "hidden_act", str)
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{where}: unknown activation {activation!r}; supported: {', '.join(ACTIVATIONS)}"
        )
    if gemma3 and config["use_bidirectional_attention"]:
        raise InputError(f"{where}: use_bidirectional_attention is true; agents must be causal")
    d_model, n_heads = read("hidden_size", int), read("num_attention_heads", int)
    # The classes of llama, mistral and qwen2 define an absent head_dim as this quotient.
    quotient = config.get("head_dim") is None and family in ("llama", "mistral", "qwen2")
    head_dim = d_model // n_heads if quotient else read("head_dim", int)
    n_kv_heads = read("num_key_value_heads", int)
    if n_heads % n_kv_heads or head_dim % 2:
        raise InputError(
            f"{where}: {n_heads} heads of {head_dim} with {n_kv_heads} key/value heads; "
            "heads must be a multiple of key/value heads, and their size even"
        )
    # Only these classes read the keys; mistral has no biases, qwen2 always those of q, k, v.
    bias = family in ("llama", "qwen3", "gemma3", "qwen3_5") and read("attention_bias", bool)
    return ModelSpec(
        family=family,
        vocab_size=read("vocab_size", int),
        d_model=d_model,
        d_ff=read("intermediate_size", int),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        query_scale=(read("query_pre_attn_scalar", float) if gemma3 else head_dim) ** -0.5,
        activation=activation,
        norm_eps=read("rms_norm_eps", float),
        norm_offset=gemma3 or qwen3_5,
        post_norms=gemma3,
        qkv_bias=family == "qwen2" or bias,
        out_bias=bias,
        mlp_bias=family == "llama" and read("mlp_bias", bool),
        qk_norm=family in ("qwen3", "gemma3", "qwen3_5"),
        gated_attention=qwen3_5,
        embed_scale=d_model**0.5 if gemma3 else None,
        # attn_logit_softcapping, which gemma3 files also carry, is read by no class that runs it.
        logit_softcap=_optional(read, "final_logit_softcapping") if gemma3 else None,
        tied=read("tie_word_embeddings", bool),
        max_positions=read("max_position_embeddings", int),
        layers=_layers(read, family, head_dim),
    )


class _Reader:
    """Reads one key with its type; raises `InputError` if it is missing or of another type.

    Integers must be at least `least`; floats must be positive and finite.
    """

    def __init__(self, config: dict[str, Any], where: str):
        self.config, self.where = config, where

    def __call__(
        self, key: str, kind: type[_T], inside: dict[str, Any] | None = None, least: int = 1
    ) -> _T:
        source = self.config if inside is None else inside
        if source.get(key) is None:
            raise InputError(f"{self.where}: key {key!r} is missing; the model cannot be built")
        value: Any = source[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        if wrong:
            raise InputError(f"{self.where}: {key!r} must be {kind.__name__}, not {value!r}")
        too_small = kind is int and value < least
        if too_small or (kind is float and not 0 < value < math.inf):
            raise InputError(f"{self.where}: {key!r} is {value!r}, which is out of range")
        return value


def _optional(read: _Reader, key: str) -> float | None:
    return None if read.config.get(key) is None else read(key, float)


def _layers(read: _Reader, family: str, head_dim: int) -> tuple[LayerSpec, ...]:
    """All layers in order."""
    config, n = read.config, read("num_hidden_layers", int)
    kinds = _kinds(read, family, n)
    if family == "gemma3":
        ropes = {kind: _gemma3_rope(read, kind, head_dim) for kind in dict.fromkeys(kinds)}
    else:
        rotary = _qwen3_5_rotary(read, head_dim) if family == "qwen3_5" else head_dim
        nested = config.get("rope_parameters")
        settings = nested if nested is not None else (config.get("rope_scaling") or {})
        base = nested if nested is not None else config
        ropes = dict.fromkeys(kinds, _rope(read, settings, base, rotary))

    def layer(kind: str) -> LayerSpec:
        if kind == _LINEAR:
            return _delta(read)
        window = read("sliding_window", int) if kind == _SLIDING else None
        return AttentionLayer(window, ropes[kind])

    layers = {kind: layer(kind) for kind in dict.fromkeys(kinds)}
    return tuple(layers[kind] for kind in kinds)


def _kinds(read: _Reader, family: str, n: int) -> list[str]:
    """The kind of each layer, by the rules of the family's transformers class."""
    config = read.config
    if family == "llama":
        return [_FULL] * n
    if family == "mistral":
        return [_FULL if config["sliding_window"] is None else _SLIDING] * n
    if family in ("qwen2", "qwen3") and not read("use_sliding_window", bool):
        return [_FULL] * n
    known = (_LINEAR if family == "qwen3_5" else _SLIDING, _FULL)
    types = config.get("layer_types")
    if types is None and family in ("qwen2", "qwen3"):
        first = read("max_window_layers", int, least=0)
        types = [_SLIDING if i >= first else _FULL for i in range(n)]
    elif types is None:
        key, every = (
            ("sliding_window_pattern", GEMMA3_PATTERN)
            if family == "gemma3"
            else ("full_attention_interval", QWEN3_5_INTERVAL)
        )
        every = read(key, int) if config.get(key) is not None else every
        types = [known[0] if (i + 1) % every else _FULL for i in range(n)]
    if not isinstance(types, list) or len(types) != n or any(t not in known for t in types):
        raise InputError(
            f"{read.where}: layer_types must name {known[0]} or {known[1]} "
            f"for each of {n} layers, not {types!r}"
        )
    return types


def _rope(read: _Reader, scaling: dict[str, Any], base: dict[str, Any], dim: int) -> RopeSpec:
    """Rope settings; `scaling` and `base` are the objects that hold the scaling and the base."""
    if not isinstance(scaling, dict) or not isinstance(base, dict):
        raise InputError(f"{read.where}: rope settings must be an object, not {scaling!r}")
    theta = read("rope_theta", float, inside=base)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise InputError(
            f"{read.where}: unknown rope type {kind!r}; supported: {', '.join(ROPE_TYPES)}"
        )
    if kind == "default":
        return RopeSpec(theta, dim)
    factor = read("factor", float, inside=scaling)
    if kind == "linear":
        return RopeSpec(theta, dim, kind, factor)
    return RopeSpec(
        theta=theta,
        dim=dim,
        kind=kind,
        factor=factor,
        low_freq_factor=read("low_freq_factor", float, inside=scaling),
        high_freq_factor=read("high_freq_factor", float, inside=scaling),
        original_max_positions=read("original_max_position_embeddings", int, inside=scaling),
    )


def _gemma3_rope(read: _Reader, kind: str, dim: int) -> RopeSpec:
    """Rope settings of one kind of layer: `rope_scaling` holds for global layers only."""
    config = read.config
    key = "rope_theta" if kind == _FULL else "rope_local_base_freq"
    base = {"rope_theta": GEMMA3_THETAS[kind]}
    if config.get(key) is not None:
        base["rope_theta"] = config[key]
    scaling = (config.get("rope_scaling") or {}) if kind == _FULL else {}
    nested = config.get("rope_parameters")
    if nested is not None:
        scaling = nested.get(kind) or {} if isinstance(nested, dict) else nested
        if isinstance(scaling, dict):
            base |= {k: v for k, v in scaling.items() if k == "rope_theta" and v is not None}
    return _rope(read, scaling, base, dim)


def _qwen3_5_rotary(read: _Reader, head_dim: int) -> int:
    """How many numbers of a head are rotated; the sections of mrope have no effect on text."""
    key, config = "partial_rotary_factor", read.config
    nested = config.get("rope_parameters")
    inside = nested if isinstance(nested, dict) and nested.get(key) is not None else config
    factor = read(key, float, inside=inside) if inside.get(key) is not None else QWEN3_5_ROTARY
    dim = int(head_dim * factor)
    if factor > 1 or dim < 2 or dim % 2:
        raise InputError(
            f"{read.where}: {key} {factor} of a head of {head_dim} is {dim} numbers; it must be an "
            f"even number from 2 to {head_dim}"
        )
    return dim


def _delta(read: _Reader) -> DeltaLayer:
    layer = DeltaLayer(
        key_heads=read("linear_num_key_heads", int),
        value_heads=read("linear_num_value_heads", int),
        key_dim=read("linear_key_head_dim", int),
        value_dim=read("linear_value_head_dim", int),
        conv_width=read("linear_conv_kernel_dim", int),
    )
    if layer.value_heads % layer.key_heads or layer.conv_width < 2:
        raise InputError(
            f"{read.where}: {layer.value_heads} value heads for {layer.key_heads} key heads, "
            f"convolution of {layer.conv_width}; value heads must be a multiple of key heads, "
            "and the convolution at least 2 wide"
        )
    return layer
