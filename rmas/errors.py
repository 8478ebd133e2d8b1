"""The exceptions that end a run with a one-line message.

The message says what is wrong, where, and what would be right. The command-line wrapper
(`experiments/app.py`) prints it and exits with the status that belongs to the exception.
"""


class InputError(ValueError):
    """Invalid input from outside: a file, a flag, a config field, a row of data."""


class DivergedError(InputError):
    """A loss that is not finite any more: settings or data of the training are at fault."""


class Stopped(BaseException):
    """The run was asked to end (by SIGTERM, SIGHUP or Ctrl-C) and has saved its progress.

    Like KeyboardInterrupt it derives from BaseException, so that `except Exception` does not
    swallow it. The message says where the run stopped; the same command continues from there.

    Attributes:
      status: the exit status of a command.
    """

    def __init__(self, message: str, status: int = 143) -> None:
        super().__init__(message)
        self.status = status


class PeersLostError(Exception):
    """Other processes of the run have ended or cannot be reached; running again may succeed."""


class BusyError(Exception):
    """Another run is using a resource that this one needs; running again later may succeed."""
