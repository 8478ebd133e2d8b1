"""A run that is asked to end and saves first: by SIGTERM, SIGHUP or Ctrl-C.

Clusters send SIGTERM as their notice of preemption; a terminal that is closed sends SIGHUP, which
`nohup` ignores.
"""

import contextlib
import errno
import itertools
import os
import signal
import termios
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

_calls = itertools.count(1)
_TOLD = b"\nCtrl-C: this step is finished and saved first; Ctrl-C again ends at once\n"


class StopSignal:
    """Knows whether the run has been asked to end.

    Attributes:
      status: the exit status of a command that ends for this: 130 after Ctrl-C, else 143.
    """

    def __init__(self) -> None:
        self._requested, self.status = threading.Event(), 143

    def request(self, number: int = signal.SIGTERM, _: object = None) -> None:
        """Asks the run to end after its current step; a signal handler."""
        if number == signal.SIGHUP:
            leave_lost_terminal()
        if number == signal.SIGINT:
            os.write(2, _TOLD)
            self.status = 130
            signal.signal(signal.SIGINT, signal.default_int_handler)
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
def stop_on_signals() -> Iterator[StopSignal]:
    """Inside the block, signals only set the StopSignal; the handlers before are put back after it.

    These are SIGTERM; SIGHUP, unless it is ignored; and the first Ctrl-C, where Python's own
    handler is in place. With many processes JAX's runtime receives SIGTERM in all of them: its
    handler stays, and a SIGHUP is passed on to it as SIGTERM. In a thread other than the main one,
    where Python allows no handlers, no signal is noticed.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {}
    several = jax.process_count() > 1
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = _pass_on if several else stop.request
    if not several:
        handlers[signal.SIGTERM] = stop.request
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = stop.request
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # One that Python did not install cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _pass_on(*_: object) -> None:
    leave_lost_terminal()
    os.kill(os.getpid(), signal.SIGTERM)


def end_on_signals(*more: signal.Signals) -> None:
    """From here on SIGTERM, SIGHUP and `more` end the process, whatever handler was there.

    They do so at once, also where Python's handlers would wait for the end of a compilation, and
    where JAX's runtime has a handler. It changes the process's own handlers, so it is for commands
    that train no more. A signal that is ignored stays so.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP, *more):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def leave_lost_terminal() -> None:
    """Sends what is printed from now on to nowhere, if the terminal it went to has been closed.

    Every write to such a terminal is an error, by which a run would end before it has saved.
    """
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
