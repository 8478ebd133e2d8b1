"""Tiny random models of every family, without checkpoints; patterns have a remainder."""

import jax
import jax.numpy as jnp
import numpy as np

from rmas.models import ModelSpec, abstract_params, parse_spec
from rmas.shapes import Params

_SIZES = {
    "vocab_size": 42,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-3,
    "max_position_embeddings": 256,
    "rope_theta": 100.0,
    "tie_word_embeddings": True,
}
_GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 5,
    "sliding_window_pattern": 2,
    "sliding_window": 4,
    "query_pre_attn_scalar": 7,
    "final_logit_softcapping": 8.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}
_QWEN3_5 = {
    "model_type": "qwen3_5_text",
    "num_hidden_layers": 5,
    "full_attention_interval": 2,
    "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 3,
}
FAMILIES = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": 4, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
    "gemma3": _GEMMA3,
    "qwen3_5": _QWEN3_5,
}
HYBRIDS = ("qwen3_5",)


def family_spec(family: str, **changes) -> ModelSpec:
    """A family's tiny architecture, with other numbers where `changes` has them."""
    return parse_spec(_SIZES | FAMILIES[family] | changes, where=family)


def family_params(spec: ModelSpec, seed: int = 0, dtype=np.float32) -> Params:
    """Random weights, every part at work; delta states that neither explode nor die at once."""
    random = np.random.default_rng(seed)

    def leaf(path, shape):
        names = [key.key for key in path]
        value = random.standard_normal(shape.shape)
        if names[-1] == "kernel":
            return jnp.asarray(value * shape.shape[-2] ** -0.5, dtype)
        if names[-2] == "embed":
            # Small, or a tied model says the same token for ever.
            return jnp.asarray(value * 0.3, dtype)
        value *= 0.2
        if names[-2].endswith("norm") and ("delta" in names or not spec.norm_offset):
            value += 1.0
        if names[-1] == "a_log":
            value += np.linspace(-3, 0, value.shape[-1])
        return jnp.asarray(value, dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract_params(spec))
