"""Reads a `ModelSpec` from a checkpoint's `config.json`.

A key that checkpoints may leave out has the default of its transformers configuration class; those
defaults are in `CLASS_DEFAULTS`, which a test compares with `AutoConfig`. Other keys are required.
"""

import os
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import read_json
from rmas.models.fields import Fields, shown
from rmas.models.rope import KINDS, read_gemma3_ropes, read_rope
from rmas.models.spec import AttentionLayer, DeltaLayer, LayerSpec, ModelSpec, RopeSpec
from rmas.models.unsupported import refuse_config, refuse_folder
from rmas.places import has_file

_DENSE = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
_QWEN = _DENSE | {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _DENSE
    | {
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "mistral": _DENSE
    | {
        "num_key_value_heads": 8,
        "head_dim": None,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128, "attention_bias": False},
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
        "sliding_window_pattern": 6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    "qwen3_5_text": _DENSE
    | {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "full_attention_interval": 4,
        "partial_rotary_factor": 0.25,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
    },
}
FAMILIES = {"gemma3_text": "gemma3", "qwen3_5_text": "qwen3_5"}
"""Names of families that differ from the checkpoints' `model_type`."""
COMPOSITES = {"gemma3": "gemma3_text", "qwen3_5": "qwen3_5_text"}
"""`model_type` of multimodal checkpoints, and that of their text model, in `text_config`."""
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
_FULL, _SLIDING, _LINEAR = KINDS
_LEGACY_KINDS = {"attention": _FULL, "mamba": _LINEAR}
"""Names in `layer_types` that transformers reads as others."""
_DERIVED = ("llama", "mistral", "qwen2")
"""Families whose heads, if `head_dim` is left out or null, share the width."""
_NULLABLE = (*_DERIVED, "qwen3")
"""Families that have a key/value head for each head if their number is null."""


def read_spec(directory: str | Path) -> ModelSpec:
    """Reads the architecture of a model folder from its `config.json`.

    Raises:
      InputError: the folder holds something else than a model that can be read (an adapter,
        quantized weights, GGUF files, Git LFS pointers, ...); the file is missing or damaged; a
        key is missing; a value is not supported or out of range; or `generation_config.json`
        names tokens that the model does not have.
    """
    directory = Path(directory)
    refuse_folder(directory)
    path = directory / "config.json"
    if not os.path.isfile(path):
        fact = "it is not a file" if os.path.exists(path) else "no such file"
        raise InputError(
            f"cannot read {path}: {fact}; expected a model folder with config.json, "
            "safetensors weights and a tokenizer"
        )
    spec = parse_spec(_object(path), where=str(path))
    generation = directory / "generation_config.json"
    if has_file(generation):
        _check_ids(_object(generation), spec.vocab_size, str(generation))
    return spec


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a JSON object")
    return found


def parse_spec(config: dict[str, Any], where: str) -> ModelSpec:
    """The same from the content of a `config.json`; `where` names its source in errors."""
    refuse_config(config, where)
    kind, whole, outside = config.get("model_type"), config, where
    if isinstance(kind, str) and kind in COMPOSITES:
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise InputError(f"{where}: 'text_config' of a {kind} model must be an object")
        # Old composite files leave the inner type out, or tie the head at the top level only.
        above = {k: config[k] for k in ("tie_word_embeddings",) if k in config}
        config = above | {"model_type": COMPOSITES[kind]} | text
        kind, where = config["model_type"], f"{where} (text_config)"
        refuse_config(config, where)
    if kind is not None and not isinstance(kind, str):
        raise InputError(f"{where}: 'model_type' is {shown(kind)}; it must be a string")
    if kind not in CLASS_DEFAULTS:
        supported = ", ".join(sorted([*CLASS_DEFAULTS, *COMPOSITES]))
        raise InputError(f"{where}: unknown architecture {shown(kind)}; supported: {supported}")
    family = FAMILIES.get(kind, kind)
    read = Fields(config, CLASS_DEFAULTS[kind], where)
    gemma3, qwen3_5 = family == "gemma3", family == "qwen3_5"
    activation = read("hidden_activation" if gemma3 else "hidden_act", str)
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{where}: unknown activation {shown(activation)}; supported: {', '.join(ACTIVATIONS)}"
        )
    if gemma3 and read.get("use_bidirectional_attention"):
        raise InputError(f"{where}: use_bidirectional_attention is true; agents must be causal")
    d_model = read("hidden_size", int)
    n_heads, n_kv_heads, head_dim = _heads(read, family, d_model)
    # Only these classes read the keys; mistral has no biases, qwen2 always those of q, k, v.
    bias = family in ("llama", "qwen3", "gemma3", "qwen3_5") and read("attention_bias", bool)
    # attn_logit_softcapping, which gemma3 files also carry, is read by no class that runs it.
    cap = gemma3 and read.get("final_logit_softcapping") is not None
    vocab_size = read("vocab_size", int)
    _check_ids(config, vocab_size, where)
    _check_ids(whole, vocab_size, outside)
    return ModelSpec(
        family=family,
        vocab_size=vocab_size,
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
        logit_softcap=read("final_logit_softcapping", float) if cap else None,
        tied=read("tie_word_embeddings", bool),
        max_positions=read("max_position_embeddings", int),
        layers=_layers(read, family, head_dim),
    )


def _heads(read: Fields, family: str, d_model: int) -> tuple[int, int, int]:
    """The numbers of heads and of key/value heads, and their size."""
    heads = n_kv_heads = read("num_attention_heads", int)
    if family not in _NULLABLE or read.get("num_key_value_heads") is not None:
        n_kv_heads = read("num_key_value_heads", int)
    if heads % n_kv_heads:
        raise InputError(
            f"{read.where}: 'num_key_value_heads' is {n_kv_heads}; it must divide "
            f"'num_attention_heads', {heads}"
        )
    if family in _DERIVED and read.get("head_dim") is None:
        if d_model % heads:
            raise InputError(
                f"{read.where}: 'hidden_size' is {d_model}; without 'head_dim' it must be a "
                f"multiple of 'num_attention_heads', {heads}"
            )
        head_dim = d_model // heads
    else:
        head_dim = read("head_dim", int)
    if head_dim % 2:
        raise InputError(f"{read.where}: 'head_dim' is {head_dim}; it must be even")
    return heads, n_kv_heads, head_dim


def _check_ids(config: dict[str, Any], vocab_size: int, where: str) -> None:
    """Refuses special tokens that a model of so many embeddings does not have."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        found = config.get(key)
        for i in found if isinstance(found, list) else [found]:
            # Llama-1 files say by -1 that there is no padding token.
            if i is None or (key == "pad_token_id" and i == -1):
                continue
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < vocab_size:
                raise InputError(
                    f"{where}: '{key}' is {shown(i)}; the model has the tokens 0 to "
                    f"{vocab_size - 1}"
                )


def _layers(read: Fields, family: str, head_dim: int) -> tuple[LayerSpec, ...]:
    """All layers in order."""
    kinds = _kinds(read, family, read("num_hidden_layers", int))
    ropes: dict[str, RopeSpec]
    if family == "gemma3":
        ropes = read_gemma3_ropes(read, head_dim)
    else:
        ropes = dict.fromkeys(kinds, read_rope(read, head_dim, partial=family == "qwen3_5"))

    def layer(kind: str) -> LayerSpec:
        if kind == _LINEAR:
            return _delta(read)
        window = read("sliding_window", int) if kind == _SLIDING else None
        return AttentionLayer(window, ropes[kind])

    layers = {kind: layer(kind) for kind in dict.fromkeys(kinds)}
    return tuple(layers[kind] for kind in kinds)


def _kinds(read: Fields, family: str, n: int) -> list[str]:
    """The kind of each layer, by the rules of the family's transformers class."""
    windowed = read.get("sliding_window") is not None
    if family == "llama":
        return [_FULL] * n
    if family == "mistral":
        return [_SLIDING if windowed else _FULL] * n
    types = read.get("layer_types")
    if family in ("qwen2", "qwen3") and not read("use_sliding_window", bool):
        if isinstance(types, list) and _SLIDING in types:
            raise InputError(
                f"{read.where}: 'use_sliding_window' is false, but 'layer_types' has {_SLIDING}; "
                "correct the wrong one"
            )
        return [_FULL] * n
    known = (_LINEAR if family == "qwen3_5" else _SLIDING, _FULL)
    if types is None and family in ("qwen2", "qwen3"):
        first = read("max_window_layers", int) if windowed else n
        return [_SLIDING if i >= first else _FULL for i in range(n)]
    if types is None:
        key = "sliding_window_pattern" if family == "gemma3" else "full_attention_interval"
        every = read(key, int)
        return [known[0] if (i + 1) % every else _FULL for i in range(n)]
    if isinstance(types, list):
        types = [_LEGACY_KINDS.get(t, t) if isinstance(t, str) else t for t in types]
    if not isinstance(types, list) or len(types) != n or any(t not in known for t in types):
        raise InputError(
            f"{read.where}: layer_types must name {known[0]} or {known[1]} for each of {n} layers, "
            f"not {shown(types)}"
        )
    return types


def _delta(read: Fields) -> DeltaLayer:
    layer = DeltaLayer(
        key_heads=read("linear_num_key_heads", int),
        value_heads=read("linear_num_value_heads", int),
        key_dim=read("linear_key_head_dim", int),
        value_dim=read("linear_value_head_dim", int),
        conv_width=read("linear_conv_kernel_dim", int),
    )
    if layer.value_heads % layer.key_heads:
        raise InputError(
            f"{read.where}: {layer.value_heads} value heads for {layer.key_heads} key heads; "
            "value heads must be a multiple of key heads"
        )
    return layer
