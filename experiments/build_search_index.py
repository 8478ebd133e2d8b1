"""Builds the full-text index that the tool `search` looks into.

  python -m experiments.build_search_index --source=FILE.jsonl --index=INDEX
  python -m experiments.build_search_index --source=TFDS_FOLDER --split=train --index=INDEX

A line of the JSONL file is an object with the texts `title` (it may be absent) and `text`; other
fields are passed over. A TFDS folder is one that holds `dataset_info.json`: a prepared dataset
with such features, stored as array_record. The index is one file; it takes the place of an older
one when all is written, so runs that have that one open go on with it.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app
from rmas.console import Progress, printable
from rmas.errors import InputError
from rmas.files import open_file, read_bytes
from rmas.places import expanded
from rmas.tools.index import Passage, build

_SOURCE = flags.DEFINE_string("source", None, "JSONL file, or folder of a prepared TFDS dataset.")
_OUT = flags.DEFINE_string("index", None, "Index file to write.")
_SPLIT = flags.DEFINE_string("split", "train", "Split of a TFDS dataset.")
_TITLE = flags.DEFINE_string("title_field", "title", "Field with a document's title.")
_TEXT = flags.DEFINE_string("text_field", "text", "Field with a document's text.")

Rows = Iterable[tuple[str, Mapping[str, Any]]]
"""Where each row stands, for errors, and its fields."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_TFDS_FEATURE = "tensorflow_datasets.core.features."


def main(_: list[str]) -> None:
    """Writes the index."""
    for flag, right in ((_SOURCE, "a JSONL file or a TFDS folder"), (_OUT, "the file to write")):
        if not flag.value:
            raise InputError(f"--{flag.name} is missing; name {right}")
    source, out = expanded(_SOURCE.value), expanded(_OUT.value)
    if out.is_dir():
        raise InputError(f"--index={out} is a folder; name the file to write")
    if source.is_dir():
        total, rows = tfds_rows(source, _SPLIT.value)
    else:
        total, rows = jsonl_rows(source)
    with Progress(total, label="documents") as progress:
        count = build(out, documents(rows, _TITLE.value, _TEXT.value, progress))
    print(f"passages: {count}")
    print(f"index: {printable(str(out))}")


def jsonl_rows(path: Path) -> tuple[int, Rows]:
    """How many lines a file has, and its rows, read when they are asked for."""
    try:
        with open_file(path) as file:
            total = sum(1 for line in file if line.strip())
    except OSError as error:
        raise InputError(
            f"--source={path} cannot be read ({error.strerror}); name a JSONL file or the folder "
            f"of a prepared TFDS dataset"
        ) from error
    return total, _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8 (byte {error.start})") from None
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{place}: not valid JSON ({error}); a line is one object"
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"{place}: not an object; a line is an object with title and text")
            yield place, row


def tfds_rows(folder: Path, split: str) -> tuple[int, Rows]:
    """The same of a prepared dataset."""
    import tensorflow_datasets as tfds  # seconds of imports that JSONL does not need

    try:
        features = read_bytes(folder / "features.json").decode()
        named = re.findall(r'"(?:pythonClassName|type)"\s*:\s*"([^"]*)"', features)
        if foreign := [name for name in named if not name.startswith(_TFDS_FEATURE)]:
            raise ValueError(f"feature of type {foreign[0]!r}")  # TFDS would import it
        for file in (path for path in folder.iterdir() if not path.is_dir()):
            open_file(file).close()  # a pipe in its place would block the readers
        builder = tfds.builder_from_directory(str(folder))
        if split not in builder.info.splits:
            known = ", ".join(builder.info.splits) or "none"
            raise InputError(f"--split={split}: {folder} has no such split; it has: {known}")
        source = builder.as_data_source(split)
        total = len(source)
    except InputError:
        raise
    except Exception as error:  # TFDS raises what its parsers raise
        raise InputError(
            f"--source={folder} is not a TFDS dataset that can be read ({_short(error)}); it needs "
            f"features.json, dataset_info.json and array_record files"
        ) from error
    return total, _records(source, f"{folder}, {split} row")


def _records(source: Sequence[Mapping[str, Any]], place: str) -> Rows:
    for n in range(len(source)):
        try:
            row = source[n]
        except Exception as error:  # the reader's own, of several types
            raise InputError(
                f"{place} {n} cannot be read ({_short(error)}); prepare the dataset again"
            ) from error
        yield f"{place} {n}", row


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def documents(rows: Rows, title: str, text: str, progress: Progress) -> Iterator[Passage]:
    """Rows as documents; InputError, by place, for one without a text."""
    for number, (place, row) in enumerate(rows, 1):
        if text not in row:
            names = ", ".join(map(repr, row)) or "none"
            raise InputError(f"{place}: field {text!r} is missing; the fields are: {names}")
        yield Passage(
            _text(row[title], place, title) if row.get(title) is not None else "",
            _text(row[text], place, text),
        )
        progress.update(number)


def _text(value: Any, place: str, field: str) -> str:
    if isinstance(value, bytes):  # as TFDS stores texts
        with contextlib.suppress(UnicodeDecodeError):
            value = value.decode("utf-8")
    if not isinstance(value, str):
        raise InputError(f"{place}: field {field!r} is not a text")
    if _SURROGATE.search(value):
        raise InputError(f"{place}: field {field!r} holds half of a surrogate pair")
    return value


if __name__ == "__main__":
    app.run(main)
