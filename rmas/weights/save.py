"""Parameters to an ordinary Hugging Face folder: `model.safetensors` and `config.json`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jax import tree_util
from safetensors.numpy import save_file

from rmas.models import ModelSpec
from rmas.shapes import Params
from rmas.weights.files import WEIGHTS
from rmas.weights.keys import TRANSPOSE, source_of

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def config_dict(spec: ModelSpec, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `config.json` of an architecture in the layout of transformers 5.

    Args:
      extra: further keys, such as `dtype`, `eos_token_id`, `pad_token_id`.

    Raises:
      ValueError: reading the result would not give `spec` back: `extra` contradicts it, or
        the family's configuration cannot express it.
    """
    rope = spec.layers[0].rope
    rope_parameters: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind == "llama3":
        rope_parameters |= {
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_positions,
        }
    config = {
        "architectures": [ARCHITECTURES[spec.family]],
        "model_type": spec.family,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": spec.d_ff,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": spec.activation,
        "rms_norm_eps": spec.norm_eps,
        "max_position_embeddings": spec.max_positions,
        "tie_word_embeddings": spec.tied,
        "rope_parameters": rope_parameters,
        "dtype": "float32",
    }
    if spec.family in ("llama", "qwen3"):
        config["attention_bias"] = spec.out_bias
    if spec.family == "llama":
        config["mlp_bias"] = spec.mlp_bias
    windows = [layer.window for layer in spec.layers]
    window = next((w for w in windows if w is not None), None)
    if spec.family == "mistral":
        config["sliding_window"] = window
    if spec.family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = window is not None
        config["sliding_window"] = window
        config["max_window_layers"] = len(windows)
        config["layer_types"] = [
            "full_attention" if w is None else "sliding_attention" for w in windows
        ]
    config |= extra or {}
    if ModelSpec.from_dict(config, where="config_dict") != spec:
        raise ValueError(f"a {spec.family} config.json cannot express this spec: {spec}")
    return config


def save_params(
    spec: ModelSpec,
    params: Params,
    directory: str | Path,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes parameters, in their own types, and the configuration under the names of transformers.

    Each file appears whole or not at all. All weights pass through host memory at once: this
    is for models that we train ourselves, which are small.

    Args:
      extra: further keys of `config.json`, as in `config_dict`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for keys, leaf in tree_util.tree_leaves_with_path(params):
        source = source_of(spec, "/".join(key.key for key in keys), leaf.shape)
        array = np.asarray(leaf)
        rows = array if source.stacked else array[None]
        for name, row in zip(source.tensors, rows, strict=True):
            # The writer copies memory as it lies: a transposed view would be stored wrong.
            tensors[name] = np.ascontiguousarray(row.T if source.layout == TRANSPOSE else row)
    dtype = str(np.asarray(params["embed"]["weight"]).dtype)
    config = config_dict(spec, {"dtype": dtype} | (extra or {}))
    _replace(directory / WEIGHTS, lambda p: save_file(tensors, p, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2) + "\n"
    _replace(directory / "config.json", lambda p: p.write_text(text))


def _replace(path: Path, write) -> None:
    """Writes beside `path` and renames, so that no reader sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
