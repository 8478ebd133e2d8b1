"""Which tokens end a turn: also the one that closes it in the chat template."""

import json

import pytest
from tokenizers import AddedToken

from rmas.system.encode import ChatTokenizer
from rmas.system.load import load_chat
from support import tokenizers_for_tests as tk
from support.tiny_systems import model_spec

LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
SPACED = MISTRAL.replace("}}</s>", "}} </s>")
TWO = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>\n{% endfor %}<|endoftext|>"
PARTS = (
    "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<|end|>\n"
    "{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n### End\n{% endfor %}"
AFTER_TEXT = "{% for m in messages %}{{ m['content'] }}\n### End<|im_end|>{% endfor %}"
AFTER_LINES = "{% for m in messages %}{{ m['content'] }}\n\n###\n\n<|eot_id|> <|end|>{% endfor %}"
MIXED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m['content'][0]['text'] }}{% else %}"
    "{{ m['content'] }}{% endif %}<|end|>\n{% endfor %}"
)
NONE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
NO_ASSISTANT = "{% for m in messages if m['role'] != 'assistant' %}{{ m['content'] }}{% endfor %}"
REFUSED = "{{ raise_exception('no') if messages[-1]['role'] == 'assistant' }}" + NONE
OTHERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "</s>")


def chat(template, special=True, eos="<|endoftext|>"):
    tokenizer = tk.byte_level(template)
    tokens = [*OTHERS, "<end_of_turn>", "<|end|>"]
    tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in tokens])
    tokenizer.eos_token = eos
    return ChatTokenizer(tokenizer, date="26 Jul 2024", where="FOLDER")


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        (tk.CHATML, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (GEMMA, "<end_of_turn>"),
        (MISTRAL, "</s>"),
        (SPACED, "</s>"),
        (TWO, "<|im_end|>"),
        (PARTS, "<|end|>"),
        (AFTER_TEXT, "<|im_end|>"),
        (AFTER_LINES, "<|eot_id|>"),
        (MIXED, "<|end|>"),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_the_closing_token_is_found(template, closing, special):
    c = chat(template, special)
    assert c.closing_id == c.tokenizer.convert_tokens_to_ids(closing)
    assert c.closing_id in c.close
    assert c.closing_id != c.tokenizer.eos_token_id
    # A token that ends a turn is no part of its text, even if it is not marked as special.
    assert c.decode([*c.ids("the plan"), c.closing_id]) == "the plan"


@pytest.mark.parametrize("template", [PLAIN, NONE, NO_ASSISTANT, REFUSED])
def test_templates_without_a_closing_token(template):
    assert chat(template).closing_id is None


def test_templates_without_an_assistant_close_with_the_eos_token():
    c = chat(NO_ASSISTANT)
    assert c.close == (c.tokenizer.eos_token_id,)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (tk.CHATML, ["<|endoftext|>", "<|im_end|>", "<s>", "[INST]"]),
        (PLAIN, ["<|endoftext|>", "<s>", "[INST]"]),
    ],
)
def test_agents_stop_at_every_end_that_is_named_and_at_the_closing_token(template, ends, tmp_path):
    tokenizer = tk.byte_level(template)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer.convert_tokens_to_ids
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": ids("<s>")}))
    named = {"eos_token_id": [ids("[INST]"), ids("<s>")]}
    (tmp_path / "generation_config.json").write_text(json.dumps(named))
    model = model_spec("qwen2", 16, len(tokenizer))
    _, eos = load_chat(tmp_path, model, "26 Jul 2024")
    assert eos == tuple(sorted(ids(ends)))
