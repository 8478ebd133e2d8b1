"""A full-text index of documents in one SQLite file (FTS5): search without a network.

An index is a table `passages` with the columns `title` and `text`. Index files are untrusted: they
are opened read-only and immutable, with SQLite's protections against malicious schemas, and only
if the schema is the one that `build` writes and the file has the checksum that it has written.
"""

import contextlib
import re
import sqlite3
import threading
import time
import urllib.parse
import weakref
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rmas.errors import InputError
from rmas.files import is_full_disk, open_file, replacing
from rmas.tools.toolbox import ToolError

PASSAGE = 1200
"""Characters of the longest passage."""

_APPLICATION_ID = 0x726D6132  # of files whose `user_version` is the CRC-32 of all other bytes
_WITHOUT_CHECKSUM = (0x726D6173, 1)  # both marks of files that older versions wrote
_VERSION_AT = 60  # where SQLite's header has the user_version, in four bytes
_CREATE = (
    "CREATE VIRTUAL TABLE passages USING fts5("
    "title, text, tokenize='porter unicode61 remove_diacritics 2')"
)
_SHADOWS = {f"passages_{name}" for name in ("config", "content", "data", "docsize", "idx")}
_SELECT = (
    "SELECT substr(title, 1, 300), substr(text, 1, ?) FROM passages WHERE passages MATCH ? "
    "ORDER BY bm25(passages, 4.0, 1.0), rowid LIMIT ?"  # a word in the title counts for four
)
_MAX_WORDS = 32
_MAX_BLOB = 1 << 24
_BUILD = "python -m experiments.build_search_index --source=FILE.jsonl --index=INDEX"


@dataclass(frozen=True)
class Passage:
    """A document or a part of one, with the title of the document (may be empty)."""

    title: str
    text: str


def build(path: str | Path, documents: Iterable[Passage]) -> int:
    """Writes an index of documents, split into passages, and returns the number of passages.

    The file is written atomically, with a checksum.

    Raises:
      InputError: there are no documents, or `path` cannot be written; and whatever iterating over
        `documents` raises.
    """
    try:
        with replacing(path) as temporary:
            count = _write(temporary, documents, str(path))
            with open(temporary, "rb+") as file:
                checksum = _checksum(file)
                file.seek(_VERSION_AT)
                file.write(checksum.to_bytes(4, "big"))
            return count
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written: {reason}") from error


def _write(path: Path, documents: Iterable[Passage], name: str) -> int:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # No journal: an incomplete file is deleted.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        try:
            connection.execute(_CREATE)
        except sqlite3.OperationalError as error:
            if is_full_disk(error):
                raise
            raise InputError(f"this Python's SQLite cannot make the index: {error}") from error
        connection.execute("BEGIN")
        rows = ((d.title, piece) for d in documents for piece in pieces(d.text))
        connection.executemany("INSERT INTO passages (title, text) VALUES (?, ?)", rows)
        (count,) = connection.execute("SELECT count(*) FROM passages").fetchone()
        if count == 0:
            raise InputError(f"{name}: there are no documents to index")
        connection.execute("INSERT INTO passages (passages) VALUES ('optimize')")
        connection.execute("COMMIT")
        return count


def _checksum(file: BinaryIO) -> int:
    """The CRC-32 of an open file, with zeros where the checksum itself stands."""
    head = bytearray(file.read(1 << 22))
    head[_VERSION_AT : _VERSION_AT + 4] = bytes(len(head[_VERSION_AT : _VERSION_AT + 4]))
    found = zlib.crc32(head)
    while block := file.read(1 << 22):
        found = zlib.crc32(block, found)
    return found


def pieces(text: str, limit: int = PASSAGE) -> Iterator[str]:
    """Splits a text into pieces of at most `limit` characters.

    It is split between paragraphs where possible, else between lines, sentences or words. Only
    whitespace at the ends of pieces is lost.
    """
    start, end = 0, len(text)
    while end - start > limit:
        cut = start + limit
        for mark in ("\n\n", "\n", ". ", " "):
            found = text.rfind(mark, start + limit // 3, start + limit)
            if found >= 0:
                cut = found + len(mark.rstrip())
                break
        if piece := text[start:cut].strip():
            yield piece
        start = cut
    if piece := text[start:].strip():
        yield piece


class Index:
    """An index file open for search. It may be used from several threads.

    Raises:
      InputError: the file is missing, or not an index that `build` has written.
    """

    def __init__(self, path: str | Path):
        self._lock = threading.Lock()
        path = Path(path)
        try:
            with open_file(path) as file:
                checksum = _checksum(file)
        except FileNotFoundError:
            raise InputError(
                f"search index {path} does not exist; make it with `{_BUILD}`"
            ) from None
        except OSError as error:
            raise InputError(
                f"search index {str(path)[:300]} cannot be read ({error.strerror}); make one with "
                f"`{_BUILD}`"
            ) from None
        place = urllib.parse.quote(str(path.absolute()))
        try:
            self._connection = sqlite3.connect(
                f"file:{place}?mode=ro&immutable=1",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            weakref.finalize(self, self._connection.close)
            self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_BLOB)
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            good = self._is_ours(checksum)
        # SQLite quotes the bytes of a damaged file in its messages, which Python cannot decode.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read as a search index ({error}); make one with `{_BUILD}`"
            ) from error
        if not good:
            raise InputError(
                f"{path} is damaged or not a search index of this version; make one with `{_BUILD}`"
            )

    def _is_ours(self, checksum: int) -> bool:
        execute = self._connection.execute
        for name, value in (("trusted_schema", "OFF"), ("cell_size_check", "ON"), ("mmap_size", 0)):
            execute(f"PRAGMA {name} = {value}")
        kind, version = (
            execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version")
        )
        whole = (kind, version % (1 << 32)) == (_APPLICATION_ID, checksum)
        entries = execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
        tables = {name: sql for kind, name, sql in entries if kind == "table"}
        return (
            (whole or (kind, version) == _WITHOUT_CHECKSUM)
            and len(entries) == len(tables)
            and tables.keys() == {"passages", *_SHADOWS}
            and tables["passages"] == _CREATE
            and all(str(tables[n]).startswith(f"CREATE TABLE '{n}'") for n in _SHADOWS)
        )

    def search(self, query: str, count: int, seconds: float) -> list[Passage]:
        """The `count` best passages with any of the query's words, ranked by BM25.

        Raises:
          ToolError: the query has no words, the search takes longer than `seconds`, or the file
            is damaged.
        """
        words = list(dict.fromkeys(re.findall(r"\w+", query.casefold())))[:_MAX_WORDS]
        if not words:
            raise ToolError("the query has no words")
        match = " OR ".join(f'"{word}"' for word in words)
        end = time.monotonic() + seconds
        with self._lock:
            self._connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            try:
                rows = self._connection.execute(_SELECT, (PASSAGE, match, count)).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                if time.monotonic() > end:
                    raise ToolError(f"the search took longer than {seconds:g} s") from None
                raise ToolError(f"the search index is damaged: {error}") from None
        return [Passage(str(title or ""), str(text or "")) for title, text in rows]
