"""Metrics of a run: JSON lines and TensorBoard files.

`metrics.jsonl` holds one object per step, with "step" and numbers, and nothing that depends on the
clock: the file of a killed and resumed run equals that of an uninterrupted one. For that, write a
step's metrics before its checkpoint. Times of steps go to `timings.jsonl`.
"""

import contextlib
import json
import logging
import math
import os
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat, TextIO

from rmas.errors import InputError
from rmas.files import append_lines, atomic_write_bytes, atomic_write_text, parse_json, read_bytes
from rmas.parallel import is_first
from rmas.places import has_file

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
_log = logging.getLogger(__name__)
_FLUSH = 10.0  # seconds between flushes of TensorBoard's file


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files into one folder.

    `last_step` is the step of the checkpoint that the run resumes from: lines of later steps,
    written before the kill, are dropped. Without a checkpoint (None) all lines are. `written` is
    what the checkpoint has of `written()`: a warning tells where the lines that are kept are others
    or fewer. Only the first process of a run writes; the others only check the order of steps.

    Raises InputError where the folder cannot be written, or a kept line is broken.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        last_step: int | None = None,
        written: Mapping[str, int] | None = None,
    ) -> None:
        self.folder, self._last = Path(folder), last_step
        self._written = _sum_of(b"")
        self._file: TextIO | None = None
        self._times: TextIO | None = None
        self._board: _Board | None = None
        if not is_first():
            return
        path = self.folder / METRICS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if has_file(self.folder / TIMINGS):  # before a file is opened: this may raise
                _drop_half_line(self.folder / TIMINGS)
            text, self._last = _drop_later(path, last_step)
            self._written = _sum_of(text.encode())
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
            self._times = open(self.folder / TIMINGS, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        _warn_of_damage(path, self._written, written)
        # TensorBoard hides the dropped steps of older event files, too.
        try:
            with self._writing():
                self._board = _Board(self.folder, 0 if last_step is None else last_step + 1)
        except InputError:
            self._file.close()
            self._times.close()
            raise

    def written(self) -> dict[str, int]:
        """How many lines `metrics.jsonl` has, and a checksum of all of them, for a checkpoint."""
        return self._written

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """One line: {"step": step, **values}; on disk when this returns.

        Numbers that JSON lacks (nan, infinities) are written as null. Raises ValueError for a
        step that is not later than the last one written.
        """
        if self._last is not None and step <= self._last:
            raise ValueError(f"metrics of step {step} come after those of step {self._last}")
        self._last = step
        if self._file is None or self._board is None:
            return
        line = _finite(values)
        text = json.dumps({"step": int(step), **line}, allow_nan=False)
        with self._writing():
            append_lines(self._file, [text])
            self._written = _sum_of(f"{text}\n".encode(), self._written)
            self._board.add(step, line)

    def write_times(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """One line of a step's times; a resumed run appends its own, and none are dropped."""
        if self._times is None or self._board is None:
            return
        line = _finite(values)
        with self._writing():
            self._times.write(json.dumps({"step": int(step), **line}, allow_nan=False) + "\n")
            self._board.add(step, {f"time/{name}": value for name, value in line.items()})

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"metrics cannot be written in {self.folder}: {error.strerror}; make room, and "
                "give the same command again"
            ) from error

    def close(self) -> None:
        """Flushes and closes all files; InputError where one cannot be."""
        files = [file for file in (self._file, self._times, self._board) if file is not None]
        self._file = self._times = self._board = None
        with self._writing(), contextlib.ExitStack() as stack:
            for file in files:
                stack.callback(file.close)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # An error of the block says more than that a file cannot be closed after it.
        with contextlib.suppress(InputError) if kind else contextlib.nullcontext():
            self.close()


class _Board:
    """TensorBoard's event file, written in the caller's thread, so that a full disk is an error.

    (tensorboardX's own writer has a thread that dies of a full disk, and then blocks its callers.)
    """

    def __init__(self, folder: Path, purge: int) -> None:
        from tensorboardX import proto, record_writer  # library users may skip them

        self._proto = proto
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        # The library's writer of events is one of records; closed on a full disk it stays open.
        self._file = record_writer.RecordWriter(str(folder / name))
        start = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        try:
            self._write(file_version="brain.Event:2")
            self._write(step=purge, session_log=start)
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._file.close()
            raise
        self._flushed = time.monotonic()

    def add(self, step: int, line: Mapping[str, float | None]) -> None:
        """One event with all numbers of a step."""
        Summary = self._proto.summary_pb2.Summary
        values = [
            Summary.Value(tag=name.replace("->", "-"), simple_value=value)
            for name, value in line.items()
            if value is not None
        ]
        self._write(step=step, summary=Summary(value=values))
        if time.monotonic() - self._flushed > _FLUSH:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left, and closes the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._proto.event_pb2.Event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())


def _finite(values: Mapping[str, SupportsFloat]) -> dict[str, float | None]:
    floats = {name: float(value) for name, value in values.items()}
    return {name: v if math.isfinite(v) else None for name, v in floats.items()}


def check_metrics(folder: Path, written: Mapping[str, int] | None) -> None:
    """Warns where the metrics of a run that has ended are not what its checkpoint says."""
    path = folder / METRICS
    data = read_bytes(path) if has_file(path) else b""
    _warn_of_damage(path, _sum_of(data), written)


def _sum_of(data: bytes, start: Mapping[str, int] | None = None) -> dict[str, int]:
    """Lines and checksum of what follows `start`."""
    lines, crc = (start["lines"], start["crc32"]) if start else (0, 0)
    return {"lines": lines + data.count(b"\n"), "crc32": zlib.crc32(data, crc)}


def _warn_of_damage(path: Path, there: Mapping[str, int], written: Any) -> None:
    if written is not None and there != written:
        _log.warning(
            "%s is damaged: of %d lines that were written before the checkpoint %s; links are not "
            "affected",
            path,
            written["lines"],
            f"{there['lines']} are there" if there["lines"] < written["lines"] else "some differ",
        )


def _drop_half_line(path: Path) -> None:
    """A line that a kill cut short would make one line with the next; it is dropped."""
    data = read_bytes(path)
    if data and not data.endswith(b"\n"):
        atomic_write_bytes(path, data[: data.rfind(b"\n") + 1])


def _drop_later(path: Path, last_step: int | None) -> tuple[str, int | None]:
    """Drops lines of steps after `last_step`, atomically; returns what is kept, its last step."""
    if not has_file(path):
        return "", None
    kept, last = [], None
    lines = read_bytes(path).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            step = parse_json(line)["step"]
            late = last_step is None or step > last_step
        except (ValueError, TypeError, KeyError):
            if number == len(lines):  # cut short by the kill
                continue
            raise InputError(
                f'{path}: line {number} is not a JSON object with a "step"; restore or delete it'
            ) from None
        if not late:
            kept.append(line.decode() + "\n")
            last = step
    atomic_write_text(path, "".join(kept))
    return "".join(kept), last
