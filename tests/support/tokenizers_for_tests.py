"""Small tokenizers of the kinds that real agents have, made in memory."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers as bpe_trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
# As mistral's: no system message, turns that alternate, and a bos of its own.
ALTERNATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
# As llama's: today's date, unless told another; the content trimmed.
DATED = (
    "{{ bos_token }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today Date: {{ date_string }}\n"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|im_end|>{% endfor %}"
)
SPECIAL = ("<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")
ORDINARY = ("<think>", "</think>")  # added, but not special: found in text all the same
_CORPUS = ["the plan is to add seven and nine and then to check the sum " * 4, "im_start end|>"]


def _wrap(core: Tokenizer, template: str | None):
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    core.add_tokens([AddedToken(t, special=False) for t in ORDINARY])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def byte_level(template: str | None = CHATML):
    """Byte-level BPE (qwen, llama 3): every text has ids, and they give it back."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = bpe_trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(_CORPUS, trainer)
    return _wrap(core, template)


def lower_case(template: str | None = CHATML):
    """Lower-cases text before it looks for the added tokens that are not special."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = bpe_trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(_CORPUS, trainer)
    return _wrap(core, template)


def words(template: str | None = CHATML):
    """Whole words; the control tokens are words of the vocabulary too."""
    vocabulary = ["[UNK]", *SPECIAL, *ORDINARY, "the", "plan", "is", "seven", "system", "user"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(core, template)


KINDS = {"byte_level": byte_level, "lower_case": lower_case, "words": words}


def control_ids(tokenizer) -> set[int]:
    """Ids that question text must never give."""
    return set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
