"""Tokenizers from model folders: the files that hold them, and what can be wrong with these."""

import codecs
import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import open_file, read_bytes, read_json
from rmas.places import has_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A model folder with a tokenizer has one of these."""
_READ = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "additional_chat_templates/*")
"""The files that the loaders of tokenizers may read."""
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
"""Where a chat template can be: the first of these that has one counts."""
LARGEST_TEMPLATE = 1 << 20
"""Bytes of the largest `chat_template.jinja` that is read."""
_NO_LIMIT = 10**30  # tokens of a text; what tokenizer_config.json says is not needed
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
_PIECES = ("spiece.model", "sentencepiece*.model")
"""SentencePiece models of families that give their pieces other ids (t5, xlm-roberta, ...)."""
_BESIDE = "put the tokenizer.json of the same model into the folder"
"""The way out where a vocabulary is not read."""
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

    for file in sorted(file for glob in _READ for file in path.glob(glob)):
        has_file(file)  # raises for a pipe, which would block the loader
    found = [name for name in TOKENIZER_FILES if has_file(path / name)]
    if not found:
        # AutoTokenizer would make an empty one of the model's family.
        raise InputError(
            f"{path} holds no tokenizer; expected {' or '.join(TOKENIZER_FILES)}"
            f"{_other_vocabulary(path)}"
        )
    if found == ["vocab.json"] and not has_file(path / "merges.txt"):
        raise InputError(f"{path} holds vocab.json without merges.txt; fetch it, too, or {_BESIDE}")
    _check_template(path)
    pieces_only = found == ["tokenizer.model"]
    symbols = _user_defined(path / "tokenizer.model") if pieces_only else {}
    generic = pieces_only or _named_class(path) in _GENERIC
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    try:
        with _without_marks(path) as folder:
            tokenizer = loader.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                model_max_length=_NO_LIMIT,
            )
        tokenizer.decode(tokenizer("a")["input_ids"])  # some settings are first looked at here
    # The loaders raise whatever their parsers raise.
    except Exception as e:
        raise InputError(_failure(path, found, e)) from e
    if tokenizer.chat_template is None and template_file(path) == "chat_template.json":
        tokenizer.chat_template = read_json(path / "chat_template.json")["chat_template"]
    return tokenizer, symbols


def _named_class(path: Path) -> Any:
    """The class that `tokenizer_config.json` names; None if it names none."""
    config = path / "tokenizer_config.json"
    settings = read_json(config) if has_file(config) else {}
    if not isinstance(settings, dict):
        raise InputError(f"{config} must hold a JSON object, such as {{}}")
    named = settings.get("tokenizer_class")
    if named is not None and not isinstance(named, str):
        raise InputError(f"{config}: 'tokenizer_class' must be a string")
    return named


@contextlib.contextmanager
def _without_marks(path: Path) -> Iterator[Path]:
    """The folder; if JSON files in it begin with a byte order mark, a copy of it without these.

    The loaders refuse such files. The copy has links to all others.
    """
    heads = {file: _head(file) for file in path.iterdir() if file.suffix == ".json"}
    marked = [file for file, head in heads.items() if head == codecs.BOM_UTF8]
    if not marked:
        yield path
        return
    with tempfile.TemporaryDirectory() as made:
        for file in path.iterdir():
            if file in marked:
                text = read_bytes(file).removeprefix(codecs.BOM_UTF8)
                (Path(made) / file.name).write_bytes(text)
            else:
                (Path(made) / file.name).symlink_to(file.resolve())
        yield Path(made)


def _head(file: Path) -> bytes:
    with open_file(file) as opened:
        return opened.read(len(codecs.BOM_UTF8))


def _failure(path: Path, found: list[str], error: Exception) -> str:
    """Says which file of a tokenizer is wrong, in one line."""
    from tokenizers import Tokenizer

    if found[0] == "tokenizer.json":
        try:
            Tokenizer.from_file(str(path / found[0]))
        except Exception as e:  # its parser knows the place
            return f"{path / found[0]} is no tokenizer, or is damaged ({_line(e)}); fetch it again"
    return (
        f"{path}: the tokenizer cannot be loaded from {', '.join(found)}: {_line(error)}; "
        f"{_BESIDE if 'tokenizer.json' not in found else 'check tokenizer_config.json'}"
    )


def _line(error: Exception) -> str:
    """The first sentence of an error, with its type where that tells something."""
    text = " ".join(str(error).split()).split(". ")[0][:200]
    plain = isinstance(error, OSError | ValueError) or type(error) is Exception
    return text if text and plain else f"{type(error).__name__}: {text}".removesuffix(": ")


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
    # An empty list names no template.
    named = isinstance(template, list) and bool(template)
    named = named and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("name", "template"))
        for entry in template
    )
    if not isinstance(template, str) and not (named and name == "tokenizer_config.json"):
        raise InputError(
            f"{file}: chat_template must be a text, or in tokenizer_config.json a list of one or "
            "more objects with the texts 'name' and 'template'"
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
    trainer = model.trainer_spec
    if trainer.model_type == trainer.WORD or trainer.treat_whitespace_as_suffix:
        # Their converters give such models other ids than SentencePiece does.
        what = "whole words" if trainer.model_type == trainer.WORD else "blanks behind words"
        raise InputError(
            f"{file} is a SentencePiece model of {what}, which is not read here; {_BESIDE}"
        )
    defined = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    return {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == defined}


def _other_format(data: bytes) -> str:
    """What a file is that is no SentencePiece model, and the way out."""
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run git lfs pull in the folder"
    if _TIKTOKEN.match(data):
        return f"is a tiktoken vocabulary, which is not read here; {_BESIDE}"
    if data.lstrip()[:1] in (b"{", b"["):
        return f"is JSON (a tekken vocabulary?), not a SentencePiece model; {_BESIDE}"
    return f"is not a SentencePiece model, or is damaged; copy the file again, or {_BESIDE}"


def _other_vocabulary(path: Path) -> str:
    """A hint where a folder has a vocabulary in a format that is not read."""
    patterns = ("tekken.json", "tiktoken.model", "*.tiktoken", "tokenizer.model.v*", *_PIECES)
    names = sorted(file.name for pattern in patterns for file in path.glob(pattern))
    if not names:
        return ""
    return f"; {names[0]} is not read: {_BESIDE}"
