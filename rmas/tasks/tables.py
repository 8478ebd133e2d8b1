"""Records of JSON, JSONL, CSV and parquet files, each with its place."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
"""Suffixes of files that can be read."""
MAX_CELL = 64 << 20
"""Most characters of a cell of a CSV file."""

Placed = tuple[str, Mapping[str, Any]]
"""`(place, record)`: the place is `FILE, line 3` or `FILE, row 2` (from 0)."""


def read_records(path: Path) -> Iterator[Placed]:
    """The records of a file in order; files but JSON are read piece by piece.

    Raises InputError, naming the file and the row, for what cannot be read.
    """
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: records are read from {', '.join(SUFFIXES)} files")
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None


def _json(path: Path) -> Iterator[Placed]:
    rows = _load(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(rows, list):
        raise InputError(f"{path}: the top level is not a list of rows")
    for n, row in enumerate(rows):
        yield f"{path}, row {n}", _record(row, f"{path}, row {n}")


def _jsonl(path: Path) -> Iterator[Placed]:
    with path.open(encoding="utf-8-sig") as file:
        for n, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}, line {n}"
                yield place, _record(_load(line, place), place)


def _csv(path: Path) -> Iterator[Placed]:
    csv.field_size_limit(MAX_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for n, row in enumerate(csv.DictReader(file, strict=True)):
                place = f"{path}, row {n}"
                if None in row or None in row.values():
                    raise InputError(f"{place}: the number of cells differs from the header's")
                yield place, row
        except csv.Error as error:
            raise InputError(f"{path}: not valid CSV ({error})") from None


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            n = 0
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield f"{path}, row {n}", row
                    n += 1
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not valid parquet ({str(error)[:120]})") from None


def _load(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({str(error)[:120]})") from None


def _record(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{place}: not an object with named columns")
    return row


class Cells:
    """The columns of one record.

    Its methods return checked values; they raise InputError, naming place and column, for others.

    Attributes:
      record: column -> value.
      place: `FILE, line 3` or `FILE, row 2`, for errors.
    """

    def __init__(self, record: Mapping[str, Any], place: str):
        self.record, self.place = record, place

    def first(self, *names: str) -> str:
        """The first of `names` that is a column."""
        found = next((name for name in names if name in self.record), None)
        if found is None:
            wanted = " or ".join(repr(name) for name in names)
            raise InputError(
                f"{self.place}: column {wanted} is missing; there are {', '.join(self.record)}"
            )
        return found

    def text(self, *names: str, empty: bool = False) -> str:
        """The text in the first of `names` that is a column, without blanks at its ends."""
        name = self.first(*names)
        value = self.record[name]
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        if not value.strip() and not empty:
            raise InputError(f"{self.place}: column {name!r} is empty; it must be a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong(name, "text without lone surrogates") from None
        return value.strip()

    def integer(self, *names: str) -> int:
        r"""A whole number, or a text of one; `062` and `336^\circ` are read as 62 and 336."""
        name = self.first(*names)
        value = self.record[name]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.wrong(name, "a whole number")
        text = str(value).strip().strip("$").removesuffix("^\\circ").removesuffix("^{\\circ}")
        if not (text.lstrip("-").isdecimal() and text.isascii() and len(text) < 19):
            raise self.wrong(name, "a whole number")
        return int(text)

    def texts(self, name: str) -> list[str]:
        """A column that is a list of texts."""
        value = self.record[self.first(name)]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of texts")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A column that is an object."""
        value = self.record[self.first(name)]
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def wrong(self, name: str, wanted: str) -> InputError:
        """The error for a column that is not `wanted`."""
        shown = repr(self.record[name])
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return InputError(f"{self.place}: column {name!r} is {shown}; it must be {wanted}")
