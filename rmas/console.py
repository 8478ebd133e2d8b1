"""Terminal output: text that is safe to print, aligned tables, progress."""

import contextlib
import errno
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, SupportsFloat

from rmas.parallel import is_first
from rmas.parallel.meters import seconds_compiling


def printable(text: str, keep: str = "") -> str:
    r"""`text` with all characters escaped that control a terminal, as `\x1b` or `\u202e`.

    These are control characters, including newlines and tabs, direction overrides and lone
    surrogates. Letters of every script, spaces, and the characters in `keep` (such as "\n") stay.
    """
    return "".join(
        c
        if c in keep or c.isprintable() or c in "\xa0\u3000"
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """A table as text; `cells[0]` is the header. The first column is aligned left, others right."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = []
    for line in cells:
        first = line[0].ljust(widths[0])
        lines.append(
            "  ".join([first, *[c.rjust(w) for c, w in zip(line, widths, strict=True)][1:]])
        )
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


class Progress:
    """Progress of a run: a bar on a terminal, else lines of text.

    Use it as a context manager and call `update` after every step. Lines are written for the first
    and the last step, and at most every `every_seconds` in between. With several processes only
    the first one writes. Rates, and the times that are left, do not count compilation.

    Args:
      total: number of steps of the whole run.
      start: the step that the run resumes from.
      label: a name, shown first.
      every_seconds: the least time between two lines.
      stream: where to write; stderr by default, since stdout is for results.
      unit: what a step is called, as in `answer` or `questions`.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        label: str = "",
        every_seconds: float = 10.0,
        stream: IO[str] | None = None,
        unit: str = "step",
    ) -> None:
        self._total, self._step, self._label, self._unit = total, start, label, unit
        self._every = every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._silent = not is_first()
        self._compiled = seconds_compiling()
        self._shown: float | None = None
        self._began: tuple[float, int] | None = None  # time and step that rates are measured from
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._silent:
            return self
        if self._stream.isatty():
            self._bar, self._task = _make_bar(self._stream, self._label, self._total, self._step)
            self._bar.start()
        elif self._step > 0:
            done = f"{self._unit} {self._step}/{self._total} already done"
            print("  ".join(filter(None, [self._label, done])), file=self._stream, flush=True)
        return self

    def compiling(self, what: str = "") -> None:
        """Says that what comes next is compiled first, which may take minutes."""
        if self._silent:
            return
        text = " ".join(filter(None, ["compiling", what]))
        if self._bar is not None:
            with _unless_closed():
                self._bar.update(self._task, text=text, pace="", refresh=True)
        else:
            print("  ".join(filter(None, [self._label, text])), file=self._stream, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with _unless_closed():
                self._bar.stop()

    def update(self, step: int, **values: SupportsFloat | Callable[[], SupportsFloat]) -> None:
        """Reports that `step` steps are done, with `values` to show, as in `loss=0.5`.

        Values may be functions without arguments. They are called only when they are shown, since
        reading a loss at every step would make the accelerator wait.
        """
        if self._silent:
            return
        now, compiled = time.monotonic(), seconds_compiling()
        if self._began is None:  # the first step traces and compiles: rates begin at its end
            self._began = (now, step)
        elif compiled > self._compiled:
            self._began = (self._began[0] + compiled - self._compiled, self._began[1])
        self._compiled = compiled
        self._step = step
        due = self._shown is None or now - self._shown >= (0.1 if self._bar else self._every)
        if not (due or step >= self._total):
            return
        self._shown = now
        text = "  ".join(
            f"{name} {float(v() if callable(v) else v):.4g}" for name, v in values.items()
        )
        began, at = self._began
        rate = (step - at) / (now - began) if now > began and step > at else None
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=step,
                text=text,
                pace=_pace(rate, self._total - step, self._unit),
            )
            return
        parts = [
            f"{self._unit} {step}/{self._total}",
            text,
            _pace(rate, self._total - step, self._unit),
        ]
        line = "  ".join(part for part in [self._label, *parts] if part)
        print(line, file=self._stream, flush=True)


@contextlib.contextmanager
def waiting(
    what: str, remark: str = "", after: float = 2.0, stream: IO[str] | None = None
) -> Iterator[None]:
    """Shows what is waited for, and for how long: a line that changes, or one a minute.

    Nothing is written about what takes less than `after` seconds, nor by other processes than the
    first.
    """
    out = sys.stderr if stream is None else stream
    began, over = time.monotonic(), threading.Event()
    live = out.isatty()

    def show() -> None:
        pause, shown = after, False
        with _unless_closed():
            while not over.wait(pause):
                text = f"{what}: {duration(time.monotonic() - began)}"
                text += f" ({remark})" if remark else ""
                print(text, end="\r" if live else "\n", file=out, flush=True)
                pause, shown = (1.0 if live else 60.0), True
            if live and shown:
                print("\033[2K", end="", file=out, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    if is_first():
        thread.start()
    try:
        yield
    finally:
        over.set()
        if is_first():
            thread.join()


@contextlib.contextmanager
def _unless_closed() -> Iterator[None]:
    """Ignores that the terminal has been closed: the run ends by the signal that tells of it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def _pace(rate: float | None, left: int, unit: str) -> str:
    if rate is None:
        return ""
    many = unit if unit.endswith("s") else f"{unit}s"
    speed = f"{rate:.1f} {many}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit.removesuffix('s')}"
    return f"{speed}  {duration(left / rate)} left" if left > 0 else speed


def duration(seconds: float) -> str:
    """Seconds as text: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _make_bar(stream: IO[str], label: str, total: int, start: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    # markup=False: brackets in labels are text.
    bar = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("{task.fields[pace]}", markup=False),
        console=Console(file=stream),
    )
    return bar, bar.add_task(label or "steps", total=total, completed=start, text="", pace="")
