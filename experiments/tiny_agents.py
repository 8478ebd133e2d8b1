"""The tiny agents of the generated tasks: architectures, tokenizers, and what each learns."""

import dataclasses
from typing import Any

import numpy as np

from rmas.experiment import embedded
from rmas.system.topology import Topology
from rmas.tasks.generated import PUZZLES

MAX_POSITIONS = 256


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One tiny agent.

    Attributes:
      plays: (embedded system, role) of everything that it learns.
      config: its architecture.
      control: its control tokens: pad, unknown, system, user, assistant, end.
      steps: of the first cycle, of the second, and of a last one in which every other batch is
        the whole table of facts, for who has many of them to learn.
      digits: whether numbers are tokens digit by digit, unlike those of the other agents.
    """

    plays: tuple[tuple[str, str], ...]
    config: dict[str, Any]
    control: tuple[str, str, str, str, str, str]
    steps: tuple[int, int, int]
    digits: bool = False


def _config(family: str, width: int, d_ff: int, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": family,
        "hidden_size": width,
        "intermediate_size": d_ff,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **extra,
    }


def topology_of(name: str) -> Topology:
    """The topology of an embedded system."""
    return embedded(name).system.graph()


RECIPES = {
    "planner": Recipe(
        (("relay", "planner"),),
        _config("qwen3", 96, 288, attention_bias=False),
        ("<|endoftext|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>"),
        (800, 300, 0),
    ),
    "critic": Recipe(
        (("relay", "critic"),),
        _config("llama", 80, 240, attention_bias=False, mlp_bias=False),
        ("<pad>", "<unk>", "<sys>", "<usr>", "<bot>", "<eot>"),
        (800, 300, 0),
    ),
    "solver": Recipe(
        (("relay", "solver"),),
        _config("qwen2", 128, 360),
        ("[PAD]", "[UNK]", "[SYS]", "[USER]", "[BOT]", "[END]"),
        (800, 300, 0),
    ),
    "generalist": Recipe(
        tuple((name, role) for name in ("chain", "debate") for role in topology_of(name).agents),
        _config("qwen3", 128, 360, attention_bias=False),
        ("<|endoftext|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>"),
        (2400, 600, 400),
    ),
}
# At the end: an agent's seed is its place.
RECIPES["critic_digits"] = dataclasses.replace(
    RECIPES["critic"],
    config=_config("llama", 96, 288, attention_bias=False, mlp_bias=False),
    steps=(1200, 400, 0),
    digits=True,
)


def make_tokenizer(recipe: Recipe, seed: int):
    """A word-level tokenizer whose id order is its own, as `PreTrainedTokenizerFast`.

    One for digits marks where words begin, as SentencePiece does, and has tokens `▁1` and `1`.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
    )
    from transformers import PreTrainedTokenizerFast

    pad, unknown, system, user, assistant, end = recipe.control
    names = list(dict.fromkeys(name for name, _ in recipe.plays))  # their system texts, too
    vocabulary = {word for name in names for word in PUZZLES[name].vocabulary}
    words = [*recipe.control, *names, *sorted(vocabulary)]
    if recipe.digits:
        marked = [f"▁{word}" for word in words[len(recipe.control) :] if not word.isdigit()]
        digits = [f"{mark}{digit}" for mark in ("▁", "") for digit in range(10)]
        words = [*recipe.control, *marked, *digits]
    order = np.random.default_rng(seed).permutation(len(words))
    ids = {words[i]: n for n, i in enumerate(order)}
    core = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if recipe.digits:
        single = pre_tokenizers.Split(Regex(r"▁?\d|▁?[^▁\d]+"), "isolated")
        core.normalizer = normalizers.Strip()
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), single])
        core.decoder = decoders.Metaspace()
    core.add_special_tokens([AddedToken(c, special=True) for c in recipe.control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        unk_token=unknown,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.chat_template = (
        "{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{system} {{{{ message['content'] }}}} "
        f"{{% elif message['role'] == 'user' %}}{user} {{{{ message['content'] }}}} "
        f"{{% else %}}{assistant} {{{{ message['content'] }}}} {end} {{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant} {{% endif %}}"
    )
    return tokenizer
