"""Tokenizers from model folders: the files that hold them, and what can be wrong with these."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import open_file, read_bytes, read_json
from rmas.places import has_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A model folder with a tokenizer has one of these."""
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
"""Where a chat template can be: the first of these that has one counts."""
LARGEST_TEMPLATE = 1 << 20
"""Bytes of the largest `chat_template.jinja` that is read."""
_BESIDE = ("special_tokens_map.json", "added_tokens.json", "merges.txt")
_NO_LIMIT = 10**30  # tokens of a text; what tokenizer_config.json says is not needed
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


def load_tokenizer(path: Path) -> tuple[Any, dict[str, int]]:
    """The tokenizer of a model folder, and the user-defined symbols of a SentencePiece model.

    Code in the folder is never run. The symbols, by text with their ids, are tokens of their own
    that the tokenizer does not list among its added ones.

    A folder that names the generic class is loaded from `tokenizer.json` alone, and one that has
    `tokenizer.model` alone is loaded as that SentencePiece model says. `AutoTokenizer` would
    rebuild both by the model's family instead (qwen2: with that family's word splitting; llama:
    with other blanks at the start of a text than SentencePiece gives).

    Raises `InputError` if there is none, or if it cannot be loaded.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    found = [name for name in TOKENIZER_FILES if has_file(path / name)]
    if not found:
        # AutoTokenizer would make an empty one of the model's family.
        raise InputError(
            f"{path} holds no tokenizer; expected {' or '.join(TOKENIZER_FILES)}"
            f"{_other_vocabulary(path)}"
        )
    for name in _BESIDE:
        has_file(path / name)  # the loaders take what is no file for missing
    _check_template(path)
    pieces_only = found == ["tokenizer.model"]
    symbols = _user_defined(path / "tokenizer.model") if pieces_only else {}
    config = path / "tokenizer_config.json"
    try:
        named = read_json(config).get("tokenizer_class") if has_file(config) else None
        generic = pieces_only or named in _GENERIC
        loader = PreTrainedTokenizerFast if generic else AutoTokenizer
        tokenizer = loader.from_pretrained(
            str(path),
            local_files_only=True,
            trust_remote_code=False,
            model_max_length=_NO_LIMIT,
        )
        tokenizer.decode(tokenizer("a")["input_ids"])  # some settings are first looked at here
    # The loaders raise whatever their parsers raise.
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise InputError(f"{path}: the tokenizer cannot be loaded: {reason}") from e
    if tokenizer.chat_template is None and template_file(path) == "chat_template.json":
        tokenizer.chat_template = read_json(path / "chat_template.json")["chat_template"]
    return tokenizer, symbols


def template_file(path: Path) -> str:
    """The name of the file that a folder's chat template comes from; empty if it has none.

    `chat_template.json` belongs to the processors of composite models, and transformers'
    tokenizers do not read it; it counts where nothing else holds a template.
    """
    for name in TEMPLATE_FILES:
        file = path / name
        if has_file(file) and (name.endswith(".jinja") or _stored_template(file) is not None):
            return name
    return ""


def _stored_template(file: Path) -> Any:
    """What a JSON file has as its chat template; None if it has none."""
    content = read_json(file)
    return content.get("chat_template") if isinstance(content, Mapping) else None


def _check_template(path: Path) -> None:
    """Refuses chat templates that are no text, or no list of named texts."""
    name = template_file(path)
    if not name:
        return
    file = path / name
    if name.endswith(".jinja"):
        try:
            with open_file(file) as opened:
                data = opened.read(LARGEST_TEMPLATE + 1)
            data.decode()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{file} cannot be read as UTF-8 text: {e}") from e
        if len(data) > LARGEST_TEMPLATE:
            raise InputError(f"{file} is larger than the limit of {LARGEST_TEMPLATE >> 20} MiB")
        return
    template = _stored_template(file)
    named = isinstance(template, list) and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("name", "template"))
        for entry in template
    )
    if not isinstance(template, str) and not (named and name == "tokenizer_config.json"):
        raise InputError(
            f"{file}: chat_template must be a text, or in tokenizer_config.json a list of "
            "objects with the texts 'name' and 'template'"
        )


def _user_defined(file: Path) -> dict[str, int]:
    """The user-defined symbols of a SentencePiece model, with their ids.

    Raises `InputError` for another kind of file, and says which.
    """
    # Late, since few folders need it.
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        data = read_bytes(file)
    except OSError as e:
        raise InputError(f"cannot read {file}: {e.strerror}") from None
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(data)
        SentencePieceProcessor(model_proto=data)
    # Both raise errors of their own.
    except Exception as e:
        raise InputError(f"{file} {_other_format(data)}") from e
    # What stands behind the pieces is missing from a file that was cut between two pieces.
    whole = model.HasField("trainer_spec") and model.HasField("normalizer_spec")
    # A piece that is not UTF-8 is given as bytes.
    if not whole or not all(isinstance(piece.piece, str) for piece in model.pieces):
        raise InputError(f"{file} {_other_format(b'')}")
    defined = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    return {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == defined}


def _other_format(data: bytes) -> str:
    """What a file is that is no SentencePiece model, and the way out."""
    beside = "put the tokenizer.json of the same model into the folder"
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run git lfs pull in the folder"
    if _TIKTOKEN.match(data):
        return f"is a tiktoken vocabulary, which is not read here; {beside}"
    if data.lstrip()[:1] in (b"{", b"["):
        return f"is JSON (a tekken vocabulary?), not a SentencePiece model; {beside}"
    return f"is not a SentencePiece model, or is damaged; copy the file again, or {beside}"


def _other_vocabulary(path: Path) -> str:
    """A hint where a folder has a vocabulary in a format that is not read."""
    patterns = ("tekken.json", "tiktoken.model", "*.tiktoken", "tokenizer.model.v*")
    names = sorted(file.name for pattern in patterns for file in path.glob(pattern))
    if not names:
        return ""
    return f"; {names[0]} is not read: put the tokenizer.json of the same model into the folder"
