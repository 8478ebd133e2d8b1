"""Configurations with every key that their classes read, one for each way of reading."""

from rmas.models import parse_spec
from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-3,
    "max_position_embeddings": 256,
}  # fmt: skip
LLAMA = SIZES | {
    "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": False, "num_hidden_layers": 3,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 3.0, "original_max_position_embeddings": 64,
    },
}  # fmt: skip
# Rope as older files have it: flat.
GEMMA3 = SIZES | {
    "model_type": "gemma3_text", "query_pre_attn_scalar": 9, "sliding_window": 5,
    "sliding_window_pattern": 3, "rope_theta": 300.0, "rope_local_base_freq": 40.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}  # fmt: skip
QWEN3_5 = SIZES | {
    "model_type": "qwen3_5_text", "hidden_act": "silu", "full_attention_interval": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [1, 1, 1]},
    "partial_rotary_factor": 0.5, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_conv_kernel_dim": 3,
}  # fmt: skip
BASES = {"llama": LLAMA, "gemma3": GEMMA3, "qwen3_5": QWEN3_5}

# What the layers of GEMMA3 and QWEN3_5 are.
LOCAL = AttentionLayer(5, RopeSpec(40.0, 16))
GLOBAL = AttentionLayer(None, RopeSpec(300.0, 16, "linear", 4.0))
DELTA = DeltaLayer(key_heads=2, value_heads=4, key_dim=6, value_dim=10, conv_width=3)
ATTENTION = AttentionLayer(None, RopeSpec(300.0, 8))


def read(config: dict, **changes) -> ModelSpec:
    """The spec with keys changed, or taken out where the new value is `...`."""
    config = {k: v for k, v in (config | changes).items() if v is not ...}
    return parse_spec(config, where="config.json")
