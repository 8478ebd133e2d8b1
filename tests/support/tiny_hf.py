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
_TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0},
}
_PARTIAL_ROPE = _ROPE | {"partial_rotary_factor": 0.375}
_DELTA = {
    "rms_norm_eps": 1e-2,  # bounds how much the gated norm magnifies what a head reads
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
    "linear_conv_kernel_dim": 4,
}

# The place of a case is the seed of its numbers: new ones come last.
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
    "gemma3": (
        "gemma3_text",
        {
            "num_hidden_layers": 8,
            "sliding_window_pattern": 3,
            "sliding_window": 5,
            "head_dim": 10,
            "query_pre_attn_scalar": 7,
            "rope_parameters": _TWO_ROPES,
            "final_logit_softcapping": 0.5,
        },
    ),
    # transformers stores attn_logit_softcapping but its gemma3 attention never passes it on:
    # a cap this low would show at once if either side applied it.
    "gemma3_biased": (
        "gemma3_text",
        {
            "layer_types": [*_MIXED, _MIXED[0]],
            "sliding_window": 4,
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "rope_parameters": _TWO_ROPES,
            "attn_logit_softcapping": 0.1,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_5": (
        "qwen3_5_text",
        _DELTA
        | {
            "full_attention_interval": 2,
            "head_dim": 16,
            "rope_parameters": _PARTIAL_ROPE,
            "attention_bias": True,
        },
    ),
    "qwen3_5_untied": (
        "qwen3_5_text",
        _DELTA
        | {
            "num_hidden_layers": 5,
            "full_attention_interval": 3,
            "head_dim": 8,
            "rope_parameters": _ROPE,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_conv_kernel_dim": 3,
            "tie_word_embeddings": False,
        },
    ),
}
# Families of which only one part is text; the rest as small as the classes allow.
_VISION = {
    "gemma3": {
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 4,
        "patch_size": 2,
        "vision_use_head": False,
    },
    "qwen3_5": {
        "hidden_size": 4,
        "intermediate_size": 4,
        "depth": 1,
        "num_heads": 1,
        "patch_size": 2,
        "num_position_embeddings": 4,
        "spatial_merge_size": 1,
    },
}


def make(case: str, **changes) -> torch.nn.Module:
    """A fresh model, float32, whose every parameter (norms and biases too) is random."""
    family, numbers = CASES[case]
    numbers = {"tie_word_embeddings": True, "rope_parameters": _ROPE} | _SIZES | numbers | changes
    config = transformers.AutoConfig.for_model(
        family, **numbers, attn_implementation="eager", dtype="float32"
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    _randomise(model, list(CASES).index(case))
    model.tie_weights()
    return model.requires_grad_(False)


def _randomise(model: torch.nn.Module, seed: int) -> None:
    """Sizes with which every part matters and recurrent states neither grow nor die at once."""
    random = np.random.default_rng(seed)
    about_zero = model.config.model_type in ("gemma3_text", "qwen3_5_text")
    for name, parameter in model.named_parameters():
        scale = {1: 0.2, 2: 1.5 * parameter.shape[-1] ** -0.5, 3: 0.7}[parameter.ndim]
        if "linear_attn" in name and parameter.ndim == 2:
            scale /= 1.5  # random delta-nets amplify rounding
        if "embed" in name:
            # Small, or a tied model says the same token for ever; gemma3 scales them up.
            scale = 0.05 if model.config.model_type == "gemma3_text" else 0.2
        value = scale * random.standard_normal(parameter.shape)
        if "norm" in name and (not about_zero or "linear_attn.norm" in name):
            value += 1.0
        if "A_log" in name:
            value += np.linspace(-3, 0, len(value))  # half-lives from one position to dozens
        parameter.data = torch.tensor(value, dtype=torch.float32)


@functools.cache
def model(case: str) -> torch.nn.Module:
    """The shared instance of a case; do not change it."""
    return make(case)


def composite(case: str, **changes) -> torch.nn.Module:
    """The text model of a case (see `make`) inside a composite one, beside a vision tower."""
    text = make(case, **changes)
    family = text.config.model_type.removesuffix("_text")
    tower = _VISION[family] | {"out_hidden_size": text.config.hidden_size}
    config = transformers.AutoConfig.for_model(
        family,
        text_config=text.config.to_dict(),
        vision_config=tower,
        tie_word_embeddings=text.config.tie_word_embeddings,
        attn_implementation="eager",
        dtype="float32",
        **({"mm_tokens_per_image": 4} if family == "gemma3" else {}),
    )
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.tie_weights()
    return model.requires_grad_(False)


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
