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
        self._told = threading.Event()

    def tell(self, *_: object) -> None:
        """Asks the run to end at its next step."""
        self._told.set()

    def reached(self) -> bool:
        """Whether to save and end now; all processes call it at every step.

        With many processes a notice to any of them makes all end at the same step. What they
        count are calls, over all trainings of the process: steps start anew with each.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_calls))
        return self._told.is_set()


@contextlib.contextmanager
def listening() -> Iterator[StopSignal]:
    """SIGTERM is noticed inside, and does what it did before behind it.

    With many processes JAX's runtime listens from the start; threads other than the main one
    cannot, and are not asked.
    """
    stop = StopSignal()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.tell)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def end_at_once() -> None:
    """SIGTERM ends this process from here on, also where JAX's runtime has listened for it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
