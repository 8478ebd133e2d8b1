"""Random tiny agents as Hugging Face folders: three families, widths, and tokenizers."""

import json
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rmas.weights.save import save_params
from support.tiny_systems import model_spec, random_params

ROLES = {
    "planner": ("qwen3", 16, ("<pad>", "<unk>", "<sys>", "<usr>", "<bot>", "<eos>")),
    "critic": ("llama", 24, ("[P]", "[U]", "[S]", "[Q]", "[B]", "[E]")),
    "solver": ("qwen2", 32, ("(p)", "(u)", "(s)", "(q)", "(b)", "(e)")),
}
# A word with a comma is one word here; qwen's own splitting would make three of it.
WORDS = ("Help", "plan:", "check:", "solve:", "again", "one,two", *(f"w{i}" for i in range(28)))
PROMPTS = {
    "name": "words",
    "system": {"default": "Help"},
    "roles": {
        "planner": {
            "math": {"first": "plan: {question}", "later": "again {slot:solver} plan: {question}"}
        },
        "critic": {"math": {"first": "{slot:planner} check: {question}"}},
        "solver": {"math": {"first": "solve: {question} {slot:critic}"}},
        "single": {"math": {"first": "solve: {question}"}},
    },
}


def make_tokenizer(
    control: tuple[str, ...], seed: int, own: tuple[str, ...] = WORDS
) -> PreTrainedTokenizerFast:
    """Whole words in an order of its own, and a chat template of its own control tokens."""
    pad, unknown, system, user, assistant, end = control
    words = [*control, *own]
    order = np.random.default_rng(seed).permutation(len(words))
    core = Tokenizer(models.WordLevel({words[i]: n for n, i in enumerate(order)}, unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(c, special=True) for c in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        unk_token=unknown,
        eos_token=end,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        "{% for m in messages %}"
        f"{{{{ '{system}' if m['role'] == 'system' else '{user}' }}}}"
        " {{ m['content'] }} {% endfor %}"
        f"{{% if add_generation_prompt %}}{assistant} {{% endif %}}"
    )
    return tokenizer


def make_folder(folder: Path, role: str, **config) -> None:
    """Writes the agent of a role."""
    family, width, control = ROLES[role]
    seed = list(ROLES).index(role)
    tokenizer = make_tokenizer(control, seed)
    # Tied heads of random models only repeat the last token.
    config = {"tie_word_embeddings": False} | config
    spec = model_spec(family, width, len(tokenizer), **config)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save_params(spec, random_params(spec, seed, np.float32), folder, extra=ids)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(ids))
