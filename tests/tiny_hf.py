"""Tiny random PyTorch models of each family, as Hugging Face builds them.

Numbers are unlike the classes' defaults, and unlike each other, so that one read for another,
or left at its default, shows. Import after `pytest.importorskip("torch")`.
"""

import functools

import numpy as np
import torch
import transformers

VOCAB = 50
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-3,
    "num_hidden_layers": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ROPE = {"rope_type": "default", "rope_theta": 300.0}
# Over head size 16 these numbers keep, blend and divide at least two frequencies each.
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_MIXED = ["full_attention", "sliding_attention"]

CASES = {
    "llama": ("llama", {"head_dim": 16, "rope_parameters": _LLAMA3, "tie_word_embeddings": False}),
    "llama_biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    "mistral_window": ("mistral", {"sliding_window": 5, "head_dim": 12}),
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),
    "qwen2_mixed": (
        "qwen2",
        {
            "num_hidden_layers": 5,
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": [*_MIXED, *_MIXED, _MIXED[0]],
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 10}),
    "qwen3_mixed": (
        "qwen3",
        {
            "head_dim": 12,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
        },
    ),
}


def make(case: str, **changes) -> torch.nn.Module:
    """A fresh model, float32, whose every parameter (norms and biases too) is random."""
    family, numbers = CASES[case]
    numbers = {"tie_word_embeddings": True, "rope_parameters": _ROPE} | _SIZES | numbers | changes
    config = transformers.AutoConfig.for_model(
        family, **numbers, attn_implementation="eager", dtype="float32"
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    random = np.random.default_rng(sorted(CASES).index(case))
    for name, parameter in model.named_parameters():
        scale = {1: 0.2, 2: 1.5 * parameter.shape[-1] ** -0.5}[parameter.ndim]
        if "embed" in name:
            scale = 0.2  # small, or a tied model says the same token for ever
        value = scale * random.standard_normal(parameter.shape)
        if "norm" in name:
            value += 1.0
        parameter.data = torch.tensor(value, dtype=torch.float32)
    model.tie_weights()
    return model.requires_grad_(False)


@functools.cache
def model(case: str) -> torch.nn.Module:
    """The shared instance of a case; do not change it."""
    return make(case)


def hidden_and_logits(model, embeds_BTD, valid_BT) -> tuple[np.ndarray, np.ndarray]:
    """States after the final norm and logits, positions counted over valid tokens."""
    dtype = next(model.parameters()).dtype
    valid = torch.tensor(np.asarray(valid_BT), dtype=torch.long)
    out = model(
        inputs_embeds=torch.tensor(np.asarray(embeds_BTD), dtype=dtype),
        attention_mask=valid,
        position_ids=(valid.cumsum(1) - 1).clamp(min=0),
        output_hidden_states=True,
        use_cache=False,
    )
    return out.hidden_states[-1].numpy(), out.logits.numpy()
