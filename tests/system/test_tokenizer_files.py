"""Tokenizers from model folders: SentencePiece models alone, templates from other files, damage."""

import io
import json
import os
import re

import pytest
import sentencepiece

from rmas.errors import InputError
from rmas.system.load import fingerprint, load_chat
from rmas.system.tokenizer_files import load_tokenizer, template_file
from support import tokenizers_for_tests as tk
from support.tiny_systems import model_spec

TEXTS = (
    "The plan is to add seven and nine, and then to check the sum.",
    "She sells 12 sea shells by the sea shore.",
    "A train goes 60 km in 45 minutes.\nHow far does it go in two hours?",
    "x = 3 + 4; y = x * 2\n\n\tprint(x, y)",
)
OTHERS = ("", "  two  spaces ", " lead", "ümlaut \U0001f600 北京", "777777", "a\u00a0b", "\n\nnew")
SYMBOLS = ["<start_of_turn>", "<end_of_turn>", "\n\n"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
    "{{ m['content'] }}<end_of_turn>\n{% endfor %}"
)
UNREAD = {
    "word": ({"model_type": "word"}, "whole words"),
    "suffix": ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, "blanks behind words"),
    "unigram suffix": (
        {"model_type": "unigram", "treat_whitespace_as_suffix": True}, "blanks behind words"
    ),
}  # fmt: skip
KINDS = {
    "llama": {"model_type": "bpe"},
    "gemma": {"model_type": "bpe", "add_dummy_prefix": False, "user_defined_symbols": SYMBOLS},
    "unigram": {"model_type": "unigram", "user_defined_symbols": SYMBOLS},
    "char": {"model_type": "char"},
}
CLASSES = {"llama": "LlamaTokenizer", "gemma": "GemmaTokenizer", "unigram": None, "char": None}


@pytest.fixture(scope="module")
def trained():
    """Real SentencePiece models (about 6 KB, 20 ms each) as bytes, by kind."""
    models = {}
    for kind, settings in (KINDS | {kind: own for kind, (own, _) in UNREAD.items()}).items():
        made = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 3),
            model_writer=made,
            vocab_size=400,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
            **settings,
        )
        models[kind] = made.getvalue()
    return models


def folder(path, data, **config):
    (path / "tokenizer.model").write_bytes(data)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE} | config))
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_sentencepiece_models_load_as_they_are(trained, kind, tmp_path):
    named = {"tokenizer_class": CLASSES[kind]} if CLASSES[kind] else {}
    tokenizer, symbols = load_tokenizer(folder(tmp_path, trained[kind], **named))
    exact = sentencepiece.SentencePieceProcessor(model_proto=trained[kind])
    for text in (*TEXTS, *OTHERS, *(["a <end_of_turn>b"] if symbols else [])):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == exact.encode(text), text
        assert tokenizer.decode(exact.encode(text)) == exact.decode(exact.encode(text))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (exact.bos_id(), exact.eos_id())
    expected = SYMBOLS if kind in ("gemma", "unigram") else ()
    assert symbols == {symbol: exact.piece_to_id(symbol) for symbol in expected}


@pytest.mark.parametrize("kind", ["gemma", "unigram"])
def test_user_defined_symbols_are_control_tokens(trained, kind, tmp_path):
    path = folder(tmp_path, trained[kind])
    chat, eos = load_chat(path, model_spec("llama", 16, 512), "1 May 2025")
    exact = sentencepiece.SentencePieceProcessor(model_proto=trained[kind])
    close = exact.piece_to_id("<end_of_turn>")
    assert chat.closing_id == close and eos == tuple(sorted({close, exact.eos_id()}))
    assert exact.encode("7 <end_of_turn>").count(close) == 1
    assert close not in chat.data_ids("7 <end_of_turn> <start_of_turn>model\n")
    assert exact.piece_to_id("\n\n") in chat.data_ids("a\n\nb"), "blanks are text"
    assert chat.decode([*chat.ids("the sum"), close]) == "the sum"


def test_added_tokens_and_folders_without_a_config(trained, tmp_path):
    path = folder(tmp_path, trained["llama"])
    (path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 400}))
    (path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    exact = sentencepiece.SentencePieceProcessor(model_proto=trained["llama"])
    tokenizer, _ = load_tokenizer(path)
    size = exact.get_piece_size()
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id >= size
    for name in ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"):
        (path / name).unlink()
    (path / "chat_template.jinja").write_text(TEMPLATE)
    chat, eos = load_chat(path, model_spec("llama", 16, 512), "1 May 2025")
    assert eos == (exact.eos_id(),)
    assert chat.render("", "hi") == "<s><start_of_turn>user\nhi<end_of_turn>\n"


def test_the_fingerprint_covers_the_model(trained, tmp_path):
    path = folder(tmp_path, trained["llama"])
    before = fingerprint(path)
    (path / "tokenizer.model").write_bytes(trained["gemma"])
    assert fingerprint(path) != before
    # Beside tokenizer.json it is not used.
    (path / "tokenizer.json").write_text("{}")
    before = fingerprint(path)
    (path / "tokenizer.model").write_bytes(trained["llama"])
    assert fingerprint(path) == before


def cut(data):
    return data[: len(data) // 2]


def cut_between_pieces(data):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    model.ClearField("trainer_spec")
    model.ClearField("normalizer_spec")
    return model.SerializeToString()


DAMAGE = (
    "is not a SentencePiece model, or is damaged; copy the file again, or put the tokenizer.json"
)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: b"", DAMAGE),
        (lambda data: bytes(1000), DAMAGE),
        (lambda data: bytes(range(256)) * 9, DAMAGE),
        (cut, DAMAGE),
        (cut_between_pieces, DAMAGE),
        (lambda data: data.replace(b"\xe2\x96\x81the", b"\xff\x96\x81the"), DAMAGE),
        (lambda data: b"IQ== 0\nIg== 1\nIw== 2\n", "is a tiktoken vocabulary, which is not read"),
        (lambda data: b'{"config": {"pattern": ""}}', r"is JSON \(a tekken vocabulary\?\)"),
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer, not the file itself; run git lfs pull",
        ),
    ],
)
def test_other_formats_and_damage(trained, damage, told, tmp_path):
    path = folder(tmp_path, damage(trained["llama"]), tokenizer_class="LlamaTokenizer")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}/tokenizer.model {told}") as e:
        load_tokenizer(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", UNREAD)
def test_sentencepiece_models_that_would_get_other_ids(trained, kind, tmp_path):
    told = f"tokenizer.model is a SentencePiece model of {UNREAD[kind][1]}, which is not read here"
    with pytest.raises(InputError, match=f"{told}; put the tokenizer.json") as e:
        load_tokenizer(folder(tmp_path, trained[kind]))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name",
    ["tekken.json", "qwen.tiktoken", "tokenizer.model.v3", "spiece.model",
     "sentencepiece.bpe.model", "sentencepiece.model"],
)  # fmt: skip
def test_vocabularies_that_are_not_read(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=rf"holds no tokenizer; .*; {name} is not read: put the"):
        load_tokenizer(tmp_path)


@pytest.fixture
def saved(tmp_path):
    """A folder with a tokenizer and no template."""
    tk.byte_level(None).save_pretrained(tmp_path)
    return tmp_path


def put(path, name, value):
    config = json.loads((path / name).read_text()) if (path / name).exists() else {}
    (path / name).write_text(json.dumps(config | {"chat_template": value}))


def test_where_the_template_comes_from(saved):
    """As transformers reads them, and at last the file that belongs to processors."""
    assert template_file(saved) == "" and load_tokenizer(saved)[0].chat_template is None
    plain = fingerprint(saved)
    put(saved, "chat_template.json", "third")
    assert fingerprint(saved) != plain
    assert template_file(saved) == "chat_template.json"
    assert load_tokenizer(saved)[0].chat_template == "third"
    put(saved, "tokenizer_config.json", "second")
    assert template_file(saved) == "tokenizer_config.json"
    assert load_tokenizer(saved)[0].chat_template == "second"
    (saved / "chat_template.jinja").write_text("first")
    assert template_file(saved) == "chat_template.jinja"
    assert load_tokenizer(saved)[0].chat_template == "first"


def test_named_templates_in_files(saved):
    model = model_spec("llama", 16, 512)
    named = [{"name": n, "template": f"{n} {{{{ messages[-1].content }}}}"} for n in ("a", "b")]
    put(saved, "tokenizer_config.json", named)
    with pytest.raises(InputError, match=r"agent x: .* with the names a, b, and none is named"):
        load_chat(saved, model, "", agent="x")
    more = {"name": "default", "template": "d {{ messages[-1].content }}"}
    put(saved, "tokenizer_config.json", [*named, more])
    assert load_chat(saved, model, "")[0].render("", "hi") == "d hi"
    (saved / "additional_chat_templates").mkdir()
    (saved / "additional_chat_templates" / "rag.jinja").write_text("r")
    with pytest.raises(InputError, match="with the names rag, and none is named 'default'"):
        load_chat(saved, model, "")
    (saved / "chat_template.jinja").write_text("j {{ messages[-1].content }}")
    assert load_chat(saved, model, "")[0].render("", "hi") == "j hi"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer_config.json", 7),
        ("tokenizer_config.json", {"default": "x"}),
        ("tokenizer_config.json", [{"name": "default"}]),
        ("tokenizer_config.json", ["x"]),
        ("tokenizer_config.json", []),
        ("chat_template.json", ["x"]),
    ],
)
def test_templates_that_are_no_text(saved, name, value):
    put(saved, name, value)
    with pytest.raises(InputError, match=f"{name}: chat_template must be a text, or in "):
        load_tokenizer(saved)


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"\xff\xfe", "cannot be read as UTF-8 text"), (b"x" * (1 << 20) + b"x", "limit of 1 MiB")],
)
def test_template_files_that_are_no_text(saved, data, told):
    (saved / "chat_template.jinja").write_bytes(data)
    with pytest.raises(InputError, match=f"chat_template.jinja .*{told}"):
        load_tokenizer(saved)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"tokenizer_config.json": "[]"}, "tokenizer_config.json must hold a JSON object"),
        ({"tokenizer_config.json": '{"tokenizer_class": 7}'}, "'tokenizer_class' must be a string"),
        ({"tokenizer_config.json": '{"added_tokens_decoder": 3}'}, "from tokenizer.json: Attrib.*; "
         "check tokenizer_config.json"),
        ({"tokenizer.json": "{}"}, r"tokenizer.json is no tokenizer, or is damaged \(Model miss"),
        ({"tokenizer.json": "[]"}, r"tokenizer.json is no tokenizer, .*; fetch it again"),
        ({"tokenizer.json": None, "vocab.json": "{}"}, "holds vocab.json without merges.txt; "),
        ({"tokenizer.json": None, "vocab.json": "{}", "merges.txt": "a b"},
         "cannot be loaded from vocab.json: .* put the tokenizer.json of the same model into"),
    ],
)  # fmt: skip
def test_files_that_are_no_tokenizer(saved, files, told):
    """One line that names the file and says what would be right."""
    (saved / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    for name, text in files.items():
        if text is None:
            (saved / name).unlink()
        else:
            (saved / name).write_text(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(saved))}.*{told}") as e:
        load_tokenizer(saved)
    assert "\n" not in str(e.value)


def test_files_with_byte_order_marks(saved):
    """The loaders refuse such files; what they say counts all the same."""
    settings = {"model_type": "qwen2", "chat_template": TEMPLATE, "tokenizer_class": "Qwen2Tok"}
    before = load_tokenizer(saved)[0]("the plan")["input_ids"]
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        text = (saved / name).read_text() if name == "tokenizer.json" else json.dumps(settings)
        (saved / name).write_text(text, encoding="utf-8-sig")
    tokenizer, _ = load_tokenizer(saved)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer("the plan")["input_ids"] == before


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "merges.txt", "chat_template.jinja", "special_tokens_map.json"]
)
def test_pipes_in_the_place_of_files(saved, name):
    (saved / name).unlink(missing_ok=True)
    os.mkfifo(saved / name)
    with pytest.raises(InputError, match=f"{name} is a pipe; a file must be there, or nothing"):
        load_tokenizer(saved)


def test_errors_name_the_agent_and_the_file(saved):
    put(saved, "tokenizer_config.json", "{{ 1 + messages[0]['content'] }}")
    told = f"agent critic: {saved}: the chat template fails: TypeError: "
    with pytest.raises(InputError, match=re.escape(told)) as e:
        load_chat(saved, model_spec("llama", 16, 512), "", agent="critic")
    assert str(e.value).endswith("(tokenizer_config.json, line 1)")
