"""The sandboxes that this machine can build, for tests of each."""

import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rmas.errors import InputError
from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox

KINDS = ("bubblewrap", "namespaces")


def build(kind: str) -> Sandbox:
    """A sandbox of one kind; skips, with the reason, where the machine has none."""
    try:
        return Sandbox.detect(kinds=(kind,))
    except InputError as error:
        pytest.skip(str(error))


def named(name: str) -> list[int]:
    """The live processes of this machine with that name, however they came to be."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            shown, _, state = (
                Path("/proc", pid, "stat").read_text().partition("(")[2].rpartition(")")
            )
        except OSError:
            continue  # it has just ended
        if shown == name and state.split()[0] != "Z":
            found.append(int(pid))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Fails where the condition does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


TRY = """
def attempt(what, *arguments, **named):
    try:
        return what(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)
import ctypes, errno, os, signal, socket, sys, time
"""


def attack(sandbox: Sandbox, source: str, **limits) -> Completed:
    """Runs Python source with the given limits."""
    return sandbox.run(textwrap.dedent(source), limits=Limits(**limits))
