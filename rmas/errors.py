"""The exceptions that end a run with one line: wrong input, and a request to stop.

Every message is one line that says what is wrong, where, and what would be right. The
command-line wrapper (`experiments/app.py`) prints it and exits with status 2.
"""


class InputError(ValueError):
    """Bad input from outside: a file, a flag, a config field, a row of data."""


class Stopped(BaseException):
    """The run was asked to end (SIGTERM, a notice of preemption), and has saved what it did.

    Like KeyboardInterrupt, it may come anywhere, and is no error that a library's caller handles.
    Its message is one line that says where it stopped; the same command goes on from there.
    """


class PeersLostError(Exception):
    """Other processes of the run have ended, or cannot be reached: the same command may succeed."""


class BusyError(Exception):
    """Another run uses what this one needs: the same command may succeed later."""
