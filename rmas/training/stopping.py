"""A run that is asked to end: SIGTERM, and the notices of preemption that clusters send as one."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

_calls = itertools.count(1)


class StopSignal:
    """Knows whether the run has been asked to end."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def request(self, *_: object) -> None:
        """Asks the run to end after its current step; a signal handler."""
        self._requested.set()

    def reached(self) -> bool:
        """Whether to save and end now; all processes call it at every step.

        With many processes a notice to any of them ends all at the same step. JAX decides which one
        by a number that must grow with each call in the process; steps begin at 0 again in each
        training, so calls are counted instead.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_calls))
        return self._requested.is_set()


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopSignal]:
    """Inside the block, SIGTERM only sets the StopSignal; the handler before is put back after it.

    With many processes the handler stays as it is, since JAX's runtime receives SIGTERM in all of
    them. Nor is it changed in a thread other than the main one, where Python allows no handlers;
    there the signal is not noticed.
    """
    stop = StopSignal()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def end_on_sigterm() -> None:
    """From here on SIGTERM ends the process, also where JAX's runtime has installed a handler.

    It changes the process's own handler, so it is for commands that train no more.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
