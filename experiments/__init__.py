"""Command-line mains (thin absl-flag files) and the configs that they read."""

import gc
import os
import signal
import sys


def quit_at_once(*_: object) -> None:
    """Handles Ctrl-C where there is nothing to save: one line, and status 130."""
    os.write(2, b"interrupted\n")
    os._exit(130)


# `python -m` imports this package first, with this word in the command's place. What follows, the
# imports of the command, takes seconds; `app.run` puts Python's own handler back.
if sys.argv[:1] == ["-m"]:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, quit_at_once)
    # Imports leave nothing to collect, and looking for it takes a sixth of their time; `app.run`
    # turns collection on again.
    gc.disable()
