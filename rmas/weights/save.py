"""Writes parameters as a Hugging Face folder: `model.safetensors` and `config.json`."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jax import tree_util
from safetensors.numpy import save_file

from rmas.files import replacing_folder, write_json
from rmas.models import ModelSpec, parse_spec
from rmas.models.spec import AttentionLayer, DeltaLayer, RopeSpec
from rmas.shapes import Params
from rmas.weights.files import WEIGHTS
from rmas.weights.keys import CONV, TRANSPOSE, source_of

CLASSES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "mistral": ("mistral", "MistralForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "qwen3_5": ("qwen3_5_text", "Qwen3_5ForCausalLM"),
}
"""`model_type` and class of each family; of multimodal ones, those of the text model."""


def config_dict(spec: ModelSpec, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of `config.json` for an architecture, in the layout of transformers 5.

    Args:
      extra: further keys, such as `dtype`, `eos_token_id`, `pad_token_id`.

    Raises:
      ValueError: reading the result does not give `spec`: `extra` contradicts it, or the family's
        configuration cannot express it.
    """
    family, model_type = spec.family, CLASSES[spec.family][0]
    attention = [layer for layer in spec.layers if isinstance(layer, AttentionLayer)]
    window = next((layer.window for layer in attention if layer.window is not None), None)
    config = {
        "architectures": [CLASSES[family][1]],
        "model_type": model_type,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": spec.d_ff,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_activation" if family == "gemma3" else "hidden_act": spec.activation,
        "rms_norm_eps": spec.norm_eps,
        "max_position_embeddings": spec.max_positions,
        "tie_word_embeddings": spec.tied,
        "rope_parameters": _rope(spec, attention),
        "dtype": "float32",
    }
    if family in ("llama", "qwen3", "gemma3", "qwen3_5"):
        config["attention_bias"] = spec.out_bias
    if family == "llama":
        config["mlp_bias"] = spec.mlp_bias
    if family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = window is not None
    if family in ("mistral", "qwen2", "qwen3", "gemma3"):
        config["sliding_window"] = window
    if family in ("qwen2", "qwen3"):
        config["max_window_layers"] = len(spec.layers)
    if family in ("qwen2", "qwen3", "gemma3", "qwen3_5"):
        config["layer_types"] = [_kind(layer) for layer in spec.layers]
    if family == "gemma3":
        config["query_pre_attn_scalar"] = round(spec.query_scale**-2)
        config["final_logit_softcapping"] = spec.logit_softcap
    if family == "qwen3_5" and spec.delta:
        config |= {
            "linear_num_key_heads": spec.delta.key_heads,
            "linear_num_value_heads": spec.delta.value_heads,
            "linear_key_head_dim": spec.delta.key_dim,
            "linear_value_head_dim": spec.delta.value_dim,
            "linear_conv_kernel_dim": spec.delta.conv_width,
        }
    config |= extra or {}
    if parse_spec(config, where="config_dict") != spec:
        raise ValueError(f"a {model_type} config.json cannot express this spec: {spec}")
    return config


def _kind(layer: AttentionLayer | DeltaLayer) -> str:
    if isinstance(layer, DeltaLayer):
        return "linear_attention"
    return "full_attention" if layer.window is None else "sliding_attention"


def _rope(spec: ModelSpec, attention: list[AttentionLayer]) -> dict[str, Any]:
    """The rope settings: by kind of layer for gemma3, else one for all layers."""
    if spec.family == "gemma3":
        return {_kind(layer): _rope_of(layer.rope) for layer in dict.fromkeys(attention)}
    rope = attention[0].rope if attention else RopeSpec(1e4, spec.head_dim)
    if spec.family != "qwen3_5":
        return _rope_of(rope)
    factor = rope.dim / spec.head_dim
    if int(spec.head_dim * factor) < rope.dim:  # readers round the product down
        factor = math.nextafter(factor, 1)
    return _rope_of(rope) | {"partial_rotary_factor": factor}


def _rope_of(rope: RopeSpec) -> dict[str, Any]:
    numbers = {
        "rope_theta": rope.theta,
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_max_positions,
    }
    return {"rope_type": rope.kind} | {k: v for k, v in numbers.items() if v is not None}


def save_params(
    spec: ModelSpec,
    params: Params,
    directory: str | Path,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes parameters in their own dtypes, and the configuration, as transformers reads them.

    Both files are written, or on an error none. All weights are in host memory at once, so this
    is for small models.

    Args:
      extra: further keys of `config.json`, as in `config_dict`.

    Raises:
      ValueError: the parameters are int8.
    """
    if any(keys[-1].key == "scale" for keys, _ in tree_util.tree_leaves_with_path(params)):
        raise ValueError("int8 parameters cannot be saved as a checkpoint; save unquantized ones")
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for keys, leaf in tree_util.tree_leaves_with_path(params):
        source = source_of(spec, "/".join(key.key for key in keys), leaf.shape)
        array = np.asarray(leaf)
        rows = array if source.stacked else array[None]
        for name, row in zip(source.tensors, rows, strict=True):
            parts.setdefault(name, []).append((source.start, _stored(row, source.layout)))
    tensors = {}
    for name, fused in parts.items():
        whole = np.concatenate([part for _, part in sorted(fused, key=lambda p: p[0])])
        # The writer ignores strides: it would store a transposed view wrongly.
        tensors[name] = np.ascontiguousarray(whole)
    dtype = str(np.asarray(params["embed"]["weight"]).dtype)
    config = config_dict(spec, {"dtype": dtype} | (extra or {}))
    with replacing_folder(directory, last=("config.json",)) as made:
        save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
        write_json(made / "config.json", config)


def _stored(array: np.ndarray, layout: str) -> np.ndarray:
    """One layer's parameter in the layout of checkpoints."""
    if layout == CONV:
        return array.T[:, None]
    return array.T if layout == TRANSPOSE else array
