"""Metrics of a run: JSON lines and TensorBoard files.

`metrics.jsonl` holds one object per logged step, with "step" and numbers, and nothing that
depends on the clock: the file of a killed and resumed run equals that of an unbroken one. For
that, write a step's metrics before its checkpoint. What steps took goes to `timings.jsonl`.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from rmas.errors import InputError
from rmas.files import append_lines, atomic_write_bytes, atomic_write_text
from rmas.parallel import is_first

FILE, TIMES = "metrics.jsonl", "timings.jsonl"
_FLUSH = 10.0  # seconds after which TensorBoard sees what is new


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files into one folder.

    `last_step` is the step of the checkpoint that the run resumes from: lines of later steps,
    written before the kill, are dropped. Without a checkpoint (None) all lines are. Of the
    processes of a run the first one writes; the others only keep the order of steps.

    Raises InputError where the folder cannot be written, or a kept line is broken.
    """

    def __init__(self, folder: str | os.PathLike, last_step: int | None = None) -> None:
        self.folder, self._last = Path(folder), last_step
        self._file = self._times = self._board = None
        if not is_first():
            return
        path = self.folder / FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._last = _drop_later(path, last_step)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
            _drop_half_line(self.folder / TIMES)
            self._times = open(self.folder / TIMES, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        # TensorBoard hides the dropped steps of older event files, too.
        with self._writing():
            self._board = _Board(self.folder, 0 if last_step is None else last_step + 1)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """One line: {"step": step, **values}; on disk when this returns.

        Numbers that JSON lacks (nan, infinities) are written as null. Raises ValueError for a
        step that is not later than the last one written.
        """
        if self._last is not None and step <= self._last:
            raise ValueError(f"metrics of step {step} come after those of step {self._last}")
        self._last = step
        if self._file is None:
            return
        line = _finite(values)
        with self._writing():
            append_lines(self._file, [json.dumps({"step": int(step), **line}, allow_nan=False)])
            self._board.draw(step, line)

    def took(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """One line of what a step took; a resumed run adds its own behind, and none are dropped."""
        if self._times is None:
            return
        line = _finite(values)
        with self._writing():
            self._times.write(json.dumps({"step": int(step), **line}, allow_nan=False) + "\n")
            self._board.draw(step, {f"time/{name}": value for name, value in line.items()})

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
        # An error that is on its way says more than that its file cannot be closed.
        with contextlib.suppress(InputError) if kind else contextlib.nullcontext():
            self.close()


class _Board:
    """TensorBoard's event file, written by the thread that asks: a full disk is told, not hung on.

    (tensorboardX's own writer has a thread that dies of it, and then blocks whoever writes.)
    """

    def __init__(self, folder: Path, purge: int) -> None:
        from tensorboardX import event_file_writer, proto  # library users may skip them

        self._proto = proto
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        start = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self._write(step=purge, session_log=start)
        self._flushed = time.monotonic()

    def draw(self, step: int, line: Mapping[str, float | None]) -> None:
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
        """On disk, and closed."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._proto.event_pb2.Event(wall_time=time.time(), **fields)
        self._file.write_event(event)


def _finite(values: Mapping[str, SupportsFloat]) -> dict[str, float | None]:
    floats = {name: float(value) for name, value in values.items()}
    return {name: v if math.isfinite(v) else None for name, v in floats.items()}


def _drop_half_line(path: Path) -> None:
    """What a kill left at the end would swallow the line that is written behind it."""
    data = path.read_bytes() if path.is_file() else b""
    if data and not data.endswith(b"\n"):
        atomic_write_bytes(path, data[: data.rfind(b"\n") + 1])


def _drop_later(path: Path, last_step: int | None) -> int | None:
    """Drops lines of steps after `last_step`, atomically; returns the last step kept."""
    if not path.exists():
        return None
    kept, last = [], None
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            step = json.loads(line)["step"]
            late = last_step is None or step > last_step
        except (ValueError, TypeError, KeyError):
            if number == len(lines):  # cut short by the kill
                continue
            raise InputError(
                f'{path}: line {number} is not a JSON object with a "step"; restore or delete it'
            ) from None
        if not late:
            kept.append(line + "\n")
            last = step
    atomic_write_text(path, "".join(kept))
    return last
