"""Writing whole files and folders or none, and reading files from outside.

What is written lies first in a temporary folder beside its place, and is moved there in one step: a
process that is killed while it writes leaves either the old content or the new, never a part. The
temporary folder of a killed process is removed by the next one that writes there.
"""

import collections
import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rmas.errors import InputError

MAX_JSON = 64 << 20
"""Bytes of the largest JSON file that `read_json` accepts."""
MAX_DEPTH = 100
"""Levels of objects and lists that a JSON text may have; what reads them is recursive."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = (
    "No space left",
    "ENOSPC",
    "Disk quota exceeded",
    "File too large",
    "database or disk is full",
)
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})[0-9a-f]{8}\.tmp", re.DOTALL)
_DAY = 24 * 3600.0
_tidied: set[str] = set()  # folders from which this process has removed leftovers


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path near `path`; what the block writes there becomes `path`.

    The file is flushed to disk and then replaces `path` in one step, with the permissions of a
    file made by `open`. If the block fails, `path` is unchanged and the temporary file is removed.

    Raises:
      InputError: the disk is full.
      OSError: as `open`, and whatever the block raises.
    """
    path = Path(os.path.abspath(path))
    with report_full_disk(f"{path}"), _temporary_folder(path.parent, path) as folder:
        _check_replaceable(path)
        temporary = folder / path.name
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        _finish(temporary, mode)
        os.replace(temporary, path)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yields a temporary folder; the files that the block writes in it become those of `path`.

    All are flushed to disk first, with the permissions of files made by `open`. Where `path` does
    not exist or is empty, the folder is renamed to it as a whole. Where it has files, each new
    file takes the place of the one of its name, and the others stay; those whose names are in
    `last` come last, in that order, so that what they speak of is there. If the block fails,
    `path` is unchanged.

    Raises:
      InputError: the disk is full.
      OSError: as `open`, `path` is a file, and whatever the block raises.
    """
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path.parent)) from None
    inside = path.is_dir() and (
        os.path.ismount(path) or not os.access(path.parent, os.W_OK) or _has_files(path)
    )
    at = path if inside else path.parent
    with report_full_disk(f"{path}"), _temporary_folder(at, path) as folder:
        made = folder / (path.name or "root")
        made.mkdir()
        made_mode = stat.S_IMODE(made.stat().st_mode)
        yield made
        for own in [*made.rglob("*"), made]:
            _finish(own, made_mode if own.is_dir() else made_mode & 0o666)
        _place(made, path, last, whole=not inside)


def _check_replaceable(path: Path) -> None:
    """Raises OSError for a device or a pipe, such as /dev/null, which a file would replace."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))


def _place(made: Path, path: Path, last: Sequence[str], whole: bool) -> None:
    """Moves what was made to its place: the folder, or one file after the other."""
    if whole:
        try:
            os.rename(made, path)
            return
        except OSError as error:  # another process has written there meanwhile
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    order = {name: n for n, name in enumerate(last, 1)}
    files = sorted(
        (file for file in made.rglob("*") if file.is_file()),
        key=lambda file: (order.get(file.name, 0), file),
    )
    for file in files:
        target = path / file.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)


def _has_files(folder: Path) -> bool:
    remove_leftovers(folder)
    return any(folder.iterdir())


def _finish(path: Path, mode: int) -> None:
    """Gives a file or folder its permissions and flushes it to disk.

    The writer may have made another one: safetensors makes files that only their owner reads.
    """
    os.chmod(path, mode)
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _temporary_folder(at: Path, path: Path) -> Iterator[Path]:
    """A folder in the folder `at` for what becomes `path`; it is locked, and removed at the end.

    Its name says which machine made it, since locks tell only of processes of the same one.
    """
    if str(at) not in _tidied:
        remove_leftovers(at)
        _tidied.add(str(at))
    start = f".{path.name[:40]}.{_machine()}"
    folder, lock = None, -1
    try:
        while folder is None:
            made = at / f"{start}{secrets.token_hex(4)}.tmp"
            made.mkdir()
            lock = os.open(made, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if made.is_dir() and os.path.samestat(os.fstat(lock), made.stat()):
                folder = made
            else:  # another process took it for a leftover, and removed it
                os.close(lock)
        yield folder
    except OSError as error:
        if str(error.filename).startswith(str(at / start)):
            error.filename, error.filename2 = _public(str(error.filename)), None
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _public(text: str) -> str:
    """A text in which files of temporary folders have the names that they are to get."""
    token = r"\.[0-9a-f]{16}\.tmp"
    text = re.sub(rf"/([^/]+)/\.[^/]*{token}/\1(?=/|$|\s)", r"/\1", text)  # in the folder itself
    return re.sub(rf"/\.[^/]*{token}(?:/|(?=\s|$))", "/", text)


def remove_leftovers(folder: str | os.PathLike, deep: bool = False) -> None:
    """Removes temporary folders that killed processes have left in `folder` (`deep`: and below).

    One whose process lives is locked, and stays. What another machine has made is removed only
    when it is a day old, since its locks may not be seen here. What cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        for found in Path(folder).rglob(".*.tmp") if deep else Path(folder).glob(".*.tmp"):
            if match := _TEMPORARY.fullmatch(found.name):
                _remove_leftover(found, own=match[1] == _machine())


def _remove_leftover(folder: Path, own: bool) -> None:
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if own or time.time() - os.fstat(opened).st_mtime > _DAY:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(opened)


@functools.cache
def _machine() -> str:
    """Eight digits for the running kernel, whose locks its processes share."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        name = socket.gethostname()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Makes `data` the whole content of `path`. Raises as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Makes `text`, encoded in UTF-8, the whole content of `path`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike, obj: Any) -> None:
    """Writes `obj` to `path` as indented JSON with a final newline; key order is kept."""
    atomic_write_text(path, _as_json(obj))


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """As `atomic_write_json`, for a file in a folder of `replacing_folder`."""
    Path(path).write_text(_as_json(obj), encoding="utf-8")


def _as_json(obj: Any) -> str:
    return json.dumps(obj, indent=2, ensure_ascii=False) + "\n"


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, means a full disk, quota or size limit.

    Libraries report it by exceptions of various types, of which only the words tell.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if not isinstance(error, InputError) and any(word in str(error) for word in _FULL_WORDS):
        return True
    return error.__cause__ is not None and is_full_disk(error.__cause__)


def full_disk(what: object) -> InputError:
    """The error for `what`, which cannot be written since the disk is full."""
    return InputError(
        f"{_public(str(what))} cannot be written: the disk is full; free some space and run the "
        "same command again: files written before are complete"
    )


@contextlib.contextmanager
def report_full_disk(what: str) -> Iterator[None]:
    """Turns any error of the block that means a full disk into one `InputError`.

    Other errors pass through.

    Args:
      what: names what is written, as the start of the message.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # array_record, safetensors and tensorstore raise their own types
        if not is_full_disk(error):
            raise
        raise full_disk(what) from error


def append_lines(file: TextIO, lines: Iterable[str]) -> None:
    """Appends the lines, each with a newline, to a file; returns when they are on disk.

    Raises InputError where the disk is full; then the file ends as before.
    """
    file.flush()
    left = memoryview("".join(line + "\n" for line in lines).encode(file.encoding))
    size = os.fstat(file.fileno()).st_size
    with report_full_disk(file.name):
        try:
            while left:
                left = left[os.write(file.fileno(), left) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a file from outside for reading, as bytes.

    Raises:
      OSError: as `open`; also for a name with a null character, for a folder, and for a pipe or a
        device, which could block or have no end.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "Null character in the name", str(path))
    # Without waiting for the writer of a pipe.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(opened, "rb")
    os.close(opened)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file from outside. Raises OSError as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8 of at most `MAX_DEPTH` levels, each key once per object.

    Bytes may begin with a byte order mark.
    Numbers beyond the range of a float, integers of hundreds of digits among them, are infinite.

    Raises ValueError for any other text.
    """
    text = text.decode("utf-8").removeprefix("\ufeff") if isinstance(text, bytes) else text
    try:
        value = _parsed(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=each_once)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python reads
        return json.loads(text, parse_int=_integer, object_pairs_hook=each_once)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON text, for `json.loads`. Raises ValueError for a key that it has twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice[:80]!r} is there twice in one object")
    return found


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file of at most `MAX_JSON` bytes.

    Raises:
      InputError: the file cannot be read, is too large, or is not valid JSON (`parse_json`).
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_JSON + 1)
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > MAX_JSON:
        raise InputError(f"{path} is larger than the limit of {MAX_JSON >> 20} MiB")
    try:
        return parse_json(data)
    except ValueError as e:
        raise InputError(f"{path} is not valid JSON: {str(e)[:200]}") from e


def _integer(text: str) -> int | float:
    """An integer; one that no field could hold is infinite, as 1e400 is."""
    return int(text) if len(text) < 400 else float(text)
