"""JSON-lines files read strictly: errors name the file, the line and the field."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from rmas.checksums import with_checksum, without_checksum
from rmas.console import printable
from rmas.errors import InputError
from rmas.files import open_file, parse_json, read_bytes, replacing, report_full_disk
from rmas.places import has_file

MAX_LINE = 64 << 20
"""The longest line that is read, in bytes."""

_REPAIR = "give the command of the evaluation again, which repairs damaged files"
_OTHER = f"name the files of an evaluation, or {_REPAIR}"
_MAX_INTEGER = 2**53  # larger ones are not exact as floats
_MAX_NAME = 200  # characters of a name


@dataclasses.dataclass(frozen=True)
class File:
    """A file that was read.

    Attributes:
      path: as text that is safe to print.
      sha256: hash of its bytes.
      lines: complete lines.
      duplicates: lines that do not count: repeated records, timings with a newer one.
      half_lines: 1 where the last line was incomplete and left out.
    """

    path: str
    sha256: str
    lines: int
    duplicates: int = 0
    half_lines: int = 0


def line_of(value: Mapping[str, Any]) -> str:
    """An object as a line, with its checksum."""
    return json.dumps(with_checksum(value))


def parse_line(line: str | bytes) -> dict[str, Any]:
    """The object of a line, without its checksum.

    Raises ValueError for text that is no JSON object, and for one that is not what was written.
    """
    value = parse_json(line)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return without_checksum(value)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that a run appends to, without an incomplete one at its end.

    A line that is not UTF-8 is empty here; there are none where there is no file.

    Raises InputError where something else is in the file's place, or it cannot be read.
    """
    if not has_file(path):
        return []
    try:
        lines = read_bytes(path).split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return [line.decode() if _is_text(line) else "" for line in lines]


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def keep_damaged(path: Path) -> Path:
    """Copies a damaged file beside itself, before it is repaired; returns the copy's path."""
    kept, count = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(kept):
        count += 1
        kept = path.with_name(f"{path.name}.damaged-{count}")
    with report_full_disk(f"{kept}"), replacing(kept) as temporary:
        shutil.copyfile(path, temporary)
    return kept


def scan(path: Path, add: Callable[[dict[str, Any], str], None], advice: str = "") -> File:
    """Calls `add(object, "FILE, line N")` for each line of a JSON-lines file, and hashes the file.

    An incomplete last line is left out. Raises InputError, naming the line, for one that is not a
    JSON object, has the checksum of another, or is longer than `MAX_LINE`. `advice` says what to do
    about the first two, if the file is not one of an evaluation.
    """
    digest, lines, half = hashlib.sha256(), 0, 0
    try:
        with open_file(path) as file:
            while line := file.readline(MAX_LINE + 1):
                digest.update(line)
                place = f"{path}, line {lines + 1}"
                if len(line) > MAX_LINE:
                    raise InputError(f"{place} is longer than {MAX_LINE >> 20} MiB")
                try:
                    value = parse_json(line)
                except ValueError:
                    value = None
                if value is None and not line.endswith(b"\n"):
                    half = 1
                    break
                if not isinstance(value, dict):
                    raise InputError(f"{place} is not a JSON object; {advice or _OTHER}")
                try:
                    value = without_checksum(value)
                except ValueError:
                    raise InputError(
                        f"{place} is not what was written; {advice or _REPAIR}"
                    ) from None
                add(value, place)
                lines += 1
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return File(printable(str(path)), digest.hexdigest(), lines, half_lines=half)


def hash_file(path: Path) -> File:
    """A file that is read otherwise, with its hash and lines."""
    content = read_bytes(path)
    sha256 = hashlib.sha256(content).hexdigest()
    return File(printable(str(path)), sha256, content.count(b"\n"))


def field(value: Mapping[str, Any], name: str, kind: type, place: str) -> Any:
    """A field of type str, dict or bool. Raises InputError where it is missing or another type."""
    words = {str: "text", dict: "an object", bool: "true or false"}[kind]
    if not isinstance(value.get(name), kind):
        raise InputError(f"{place}: field {name!r} must be {words}{_missing(value, name)}")
    return value[name]


def name_field(value: Mapping[str, Any], name: str, place: str) -> str:
    """A name that goes into tables and file names; raises InputError for other values."""
    found = field(value, name, str, place)
    if not found or len(found) > _MAX_NAME or printable(found) != found:
        raise InputError(
            f"{place}: field {name!r} must be a name of 1 to {_MAX_NAME} printable characters"
        )
    return found


def integer_field(
    value: Mapping[str, Any], name: str, place: str, least: int, default: int | None = None
) -> int:
    """A whole number of at least `least`; `default` stands for a missing one, unless it is None.

    Raises InputError for other values.
    """
    found: Any = value.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found < _MAX_INTEGER:
        raise InputError(
            f"{place}: field {name!r} must be a whole number of {least} or more"
            f"{_missing(value, name)}"
        )
    return found


def _missing(value: Mapping[str, Any], name: str) -> str:
    return "" if name in value else "; it is missing"


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that a float can hold; truth values are not."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < _MAX_INTEGER and math.isfinite(value)
