"""Errors that Orbax prints although it also raises them, kept off the terminal.

Nothing here changes global state for longer than a `with` block.
"""

import contextlib
import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator

_lock = threading.RLock()  # reads of two threads take turns: each puts back the hook it found
_LATE_READS = 0.2
"""Seconds in which reads of a step end after one of them has failed; they take milliseconds."""


def should_print(record: logging.LogRecord) -> bool:
    """A filter for a log handler of a command: drops the warnings and errors of Orbax.

    The thread that writes a checkpoint logs its error with a stack trace, and others warn of the
    files that are missing then. `Checkpoints` raises the same error at its next call, and the
    command reports that in one line.
    """
    return record.levelno > logging.ERROR or "orbax" not in record.pathname


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around reads by Orbax: a read that fails does not print the traces of the others.

    Orbax closes its event loop after the first read that fails. Each other read that ends later
    finds the loop closed, in a thread where nobody can catch that error, so Python passes it to
    `sys.unraisablehook`. Inside the block that hook ignores this one error, and a block that fails
    ends only when such reads have ended.
    """
    with _lock, _quiet():
        try:
            yield
        except Exception:
            time.sleep(_LATE_READS)
            raise


def forget_reads() -> None:
    """After a read that failed, once its error is gone: drops what the other reads have left.

    These are tasks and coroutines, which tell of themselves when they are deleted.
    """
    with _lock, _quiet():
        gc.collect()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off what asyncio tells of tasks that failed, and of coroutines that never ran.

    Errors in threads and destructors are ignored where the loop was closed, and where a read was
    ended by its deletion.
    """
    before, logger = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not closed and not isinstance(getattr(error, "__cause__", None), GeneratorExit):
            before(unraisable)

    sys.unraisablehook = hook
    logger.addFilter(_drop)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        logger.removeFilter(_drop)
        sys.unraisablehook = before


def _drop(record: logging.LogRecord) -> bool:
    return False
