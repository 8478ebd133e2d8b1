"""Records of JSON, JSONL, CSV and parquet files, each with its place."""

import contextlib
import csv
import datetime
import decimal
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rmas.errors import InputError
from rmas.files import MAX_DEPTH, each_once, open_file, parse_json

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
"""Suffixes of files that can be read, in small letters or capitals."""
MAX_CELL = 64 << 20
"""Most characters of a cell of a CSV file."""

Placed = tuple[str, Any]
"""`(place, record)`: the place is `FILE, line 3`, or `FILE, row 2` (from 0)."""


def read_records(path: Path, field: str | None = None) -> Iterator[Placed]:
    """The records of a file in order; files but JSON are read piece by piece.

    Values are those of JSON: times, dates, decimals and bytes become text, nan becomes null.

    Args:
      path: the file; its suffix decides the format.
      field: the top-level field with the rows of a JSON file; None stands for `data` where the
        top level is an object. Other files hold their rows at the top level.

    Raises InputError, naming the file and the row, for what cannot be read.
    """
    suffixes = f"records are read from {', '.join(SUFFIXES)} files"
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: {suffixes}")
    try:
        with open_file(path) as file:
            yield from records_of(file, path, field)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read ({reason}); {suffixes}") from None


def records_of(file: BinaryIO, path: Path, field: str | None = None) -> Iterator[Placed]:
    """As `read_records`, from an open file; `path` is its name."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = _json(file, path, field)
    elif field is not None:
        raise InputError(
            f"{path}: a {suffix} file has no top-level field {field!r}, its rows stand at the top "
            "level; drop it"
        )
    else:
        readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
        found = readers[suffix](file, path)
    for place, record in found:
        yield place, _plain(record, place)


def _json(file: BinaryIO, path: Path, field: str | None) -> Iterator[Placed]:
    text = _decoded(file.read(), f"{path}")
    if not text.strip():
        raise InputError(f"empty dataset: {path} has no text; it needs at least one row")
    for n, row in enumerate(_unwrap(_load(text, str(path)), path, field)):
        yield f"{path}, index {n}", row


def _unwrap(value: Any, path: Path, field: str | None) -> list[Any]:
    if isinstance(value, list):
        if field is not None:
            raise InputError(f"{path}: the top level is a list, not an object with field {field!r}")
        return value
    if not isinstance(value, dict):
        raise InputError(f"{path}: the top level is {kind(value)}; it must be a list of rows")
    name = "data" if field is None else field
    if not isinstance(value.get(name), list):
        lists = [repr(key) for key, item in value.items() if isinstance(item, list)]
        raise InputError(
            f"{path}: top-level field {name!r} is not a list of rows; "
            f"fields with lists: {', '.join(lists) or 'none'}; make the list the top level of the "
            "file (for rows of your own, data.field can name its field)"
        )
    return value[name]


def _jsonl(file: BinaryIO, path: Path) -> Iterator[Placed]:
    n = 0
    for whole in file:
        # JSON has no line ends inside of texts, so that a lone CR ends a line as well.
        for line in re.split(rb"\r\n?|\n", whole.removesuffix(b"\n").removesuffix(b"\r")):
            n += 1
            place = f"{path}, line {n}"
            if text := _decoded(line, place, first=n == 1).strip():
                yield place, _load(text, place)


def _decoded(data: bytes, place: str, first: bool = True) -> str:
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start} is not UTF-8; save it as UTF-8") from None


def _load(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}"
        if not re.search(r", line \d+$", place):
            where = f"line {error.lineno}, {where}"
        raise InputError(
            f"{place}, {where}: not valid JSON ({error.msg}); a .json file is one list of rows, "
            f"a .jsonl file one row a line"
        ) from None
    except (ValueError, RecursionError) as error:  # digits beyond Python's limit; deep nesting
        reason = str(error).split(";")[0]
        raise InputError(f"{place}: JSON that cannot be read ({reason})") from None


def _twice(names: Iterable[str]) -> str:
    return next(f"{name[:80]!r}" for name, n in Counter(names).items() if n > 1)


def _csv(file: BinaryIO, path: Path) -> Iterator[Placed]:
    csv.field_size_limit(MAX_CELL)
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        try:
            header = reader.fieldnames or []
            if len(header) == 1 and (other := re.search(r"[;|\t]", header[0])):
                raise InputError(
                    f"{path}: the header is one cell, {header[0][:80]!r}; cells are separated by "
                    f"commas, not by {other[0]!r}: save the file with commas"
                )
            if len(set(header)) < len(header):
                raise InputError(f"{path}: the column {_twice(header)} is there twice; rename one")
            for n, row in enumerate(reader):
                place = f"{path}, row {n}"
                if None in row or None in row.values():
                    raise InputError(f"{place}: the number of cells differs from the header's")
                yield place, row
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, after line {reader.line_num}: not UTF-8 ({error.reason}); save it as "
                "UTF-8"
            ) from None


def _parquet(file: BinaryIO, path: Path) -> Iterator[Placed]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as source:
            names = source.schema_arrow.names
            if len(set(names)) < len(names):
                raise InputError(f"{path}: the column {_twice(names)} is there twice; rename one")
            n = 0
            for batch in source.iter_batches(batch_size=256):
                columns = [
                    _values(column, f"{path}, row", n, name)
                    for name, column in zip(names, batch.columns, strict=True)
                ]
                for values in zip(*columns, strict=True):
                    yield f"{path}, row {n}", dict(zip(names, values, strict=True))
                    n += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not valid parquet ({reason})") from None


def _values(column: Any, place: str, start: int, name: str) -> list[Any]:
    """The values of a column of a batch whose first row is `start`."""
    from pyarrow import string, types

    kind_ = column.type
    try:
        if (types.is_timestamp(kind_) or types.is_time64(kind_)) and kind_.unit == "ns":
            column = column.cast(string())  # Python's own types lack nanoseconds
        return column.to_pylist()
    except Exception:  # of many types: years beyond Python's, unknown time zones, bytes that are
        pass  # no UTF-8; the row is searched below
    for n, value in enumerate(column):
        try:
            value.as_py()
        except Exception as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            if "not safely convertible" in str(error):  # by its words, pandas would help
                reason = "Python's own types lack nanoseconds"
            raise InputError(
                f"{place} {start + n}: column {name!r}, of type {str(kind_)[:60]}, cannot be read "
                f"({reason}); write it as text"
            ) from None
    raise InputError(f"{place} {start}: column {name!r}, of type {str(kind_)[:60]}, cannot be read")


def _plain(value: Any, place: str, column: str = "", depth: int = 0) -> Any:
    """A value of JSON for one of a file."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    where = f"{place}: column {column!r}" if column else place
    if depth >= MAX_DEPTH:
        raise InputError(f"{where}: lists and objects more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {k: _plain(v, place, column or str(k), depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        keys = [item[0] for item in value if isinstance(item, tuple) and len(item) == 2]
        if keys and len(keys) == len(value) and all(isinstance(key, str) for key in keys):
            if len(set(keys)) < len(keys):  # parquet's maps may
                raise InputError(f"{where}: the key {_twice(keys)} is there twice in one map")
            return _plain(dict(value), place, column, depth)
        return [_plain(item, place, column, depth + 1) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InputError(
                f"{where} holds bytes that are not text in UTF-8; leave the column out, or write "
                "text"
            ) from None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return format(value, "f") if isinstance(value, decimal.Decimal) else str(value)


def kind(value: Any) -> str:
    """What a value of JSON is, in words."""
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    kinds = {dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


_ALIKE = (
    ("question", "problem", "query", "prompt", "input", "instruction", "question_content"),
    ("answer", "final_answer", "gold", "gold_answer", "target", "label", "output", "solution",
     "response", "completion", "correct_answer"),
    ("id", "unique_id", "problem_idx", "question_id", "task_id", "record_id", "_id", "idx"),
)  # fmt: skip


def bare(name: str) -> str:
    """A name without capitals, blanks, `_` and `-`: what near misses have in common."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def nearest(name: str, given: Iterable[str]) -> str | None:
    """The one of the `given` names that is `name` but for capitals, blanks, `_` and `-`.

    None where there is none, or several.
    """
    listed = list(given)
    if name in listed:
        return name
    close = [other for other in listed if bare(other) == bare(name)]
    return close[0] if len(close) == 1 else None


def renaming(name: str, given: Iterable[str]) -> str:
    """`'problem' to 'question'`, where one of the `given` names may mean `name`; else empty."""
    alike = {bare(other) for group in _ALIKE if name.casefold() in group for other in group}
    found = [other for other in given if bare(other) in alike | {bare(name)}]
    return f"{' or '.join(map(repr, found))} to {name!r}" if found else ""


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


class Cells:
    """The columns of one record.

    A column is found by its name, or by one that differs in capitals, blanks, `_` and `-` only.
    Methods return checked values; they raise InputError, naming place and column, for others.

    Attributes:
      record: column -> value.
      place: `FILE, line 3` or `FILE, row 2`, for errors.
    """

    def __init__(self, record: Mapping[str, Any], place: str):
        if not isinstance(record, dict):
            raise InputError(f"{place}: not an object with named columns")
        self.record, self.place = record, place

    def find(self, *names: str) -> str | None:
        """The column that has the first of `names` that is there with a value, or None."""
        found = (nearest(name, self.record) for name in names)
        return next((own for own in found if own and self.record[own] not in (None, "")), None)

    def first(self, *names: str) -> str:
        """The column that has the first of `names` that is there."""
        found = next((own for name in names if (own := nearest(name, self.record))), None)
        if found is None:
            wanted = " or ".join(repr(name) for name in names)
            hint = next((h for name in names if (h := renaming(name, self.record))), "")
            raise InputError(
                f"{self.place}: column {wanted} is missing; there are "
                f"{', '.join(self.record)[:400]}{'; rename ' if hint else ''}{hint}"
            )
        return found

    def own_id(self, *names: str) -> str:
        """The id in the first of `names` that has a value, as text; empty where none has."""
        name = self.find(*names)
        if name is None:
            return ""
        value = self.record[name]
        return self.text(name) if isinstance(value, str) else str(self.integer(name))

    def facts(self, *names: str) -> dict[str, Any]:
        """The values of those of `names` that are there."""
        found = {name: nearest(name, self.record) for name in names}
        return {name: self.record[own] for name, own in found.items() if own}

    def text(self, *names: str, empty: bool = False, number: bool = False) -> str:
        """The text in the first of `names` that is a column, without blanks at its ends.

        With `empty` it may be empty or null, with `number` a whole number (`1.0` is 1).
        """
        name = self.first(*names)
        value = self.record[name]
        if value is None and empty:
            return ""
        if number and _is_whole(value):
            return str(int(value))
        if not isinstance(value, str):
            raise self.wrong(name, "a text or a whole number" if number else "a text")
        if not value.strip() and not empty:
            raise InputError(f"{self.place}: column {name!r} is empty; it must be a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong(name, "text without lone surrogates") from None
        return value.strip()

    def integer(self, *names: str) -> int:
        r"""A whole number, or a text of one; `062`, `70.0` and `336^\circ` are 62, 70 and 336."""
        name = self.first(*names)
        value = self.record[name]
        if not _is_whole(value) and not isinstance(value, str):
            raise self.wrong(name, "a whole number")
        value = value if isinstance(value, str) else int(value)
        text = str(value).strip().strip("$").removesuffix("^\\circ").removesuffix("^{\\circ}")
        text = re.sub(r"\.0*$", "", text)
        if not (text.lstrip("-").isdecimal() and text.isascii() and len(text) < 19):
            raise self.wrong(name, "a whole number")
        return int(text)

    def structure(self, name: str) -> Any:
        """The value of a column, where it is a text of a JSON list or object, of that text."""
        value = self.record[self.first(name)]
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            with contextlib.suppress(ValueError):
                return parse_json(value)
        return value

    def json_text(self, name: str) -> str:
        """A column of JSON text, or what is written as such; empty where it is null."""
        value = self.record[self.first(name)]
        listed = isinstance(value, list | dict)
        return json.dumps(value) if listed else self.text(name, empty=True)

    def texts(self, name: str) -> list[str]:
        """A column that is a list of texts."""
        value = self.structure(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of texts")
        return value

    def wrong(self, name: str, wanted: str) -> InputError:
        """The error for a column that is not `wanted`."""
        try:
            shown = repr(self.record[self.first(name)])
        except InputError as missing:
            return missing
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return InputError(f"{self.place}: column {name!r} is {shown}; it must be {wanted}")
