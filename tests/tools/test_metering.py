"""The count of a sandbox's memory: when processes are stopped, and when they go on."""

import signal
import subprocess
import sys

import pytest

from rmas.tools import metering
from rmas.tools.metering import Meter, tree

MIB = 1 << 20
PROGRAM = """
import os, sys, time
if os.fork() == 0:
    time.sleep(60)
held = []
for line in sys.stdin:
    held.append(b"x" * (int(line) << 20))
    print(len(held), flush=True)
"""


@pytest.fixture
def program():
    """A program of two processes, one of which holds so many MiB more for each line it reads."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True
    ) as process:
        yield process
        for pid in list(tree(process.pid)):
            metering._send(signal.SIGKILL, [pid])


def hold(process, mib: int) -> None:
    print(mib, file=process.stdin, flush=True)
    process.stdout.readline()


@pytest.mark.parametrize("half", [False, True])
def test_processes_do_not_go_on_between_count_and_end(program, half, monkeypatch):
    """Whether they were seen with more than half of the limit before, or were below it."""
    meter, sent, send = Meter(program.pid, 200 * MIB, files=0), [], metering._send

    def noted(number, pids):
        sent.append((number, frozenset(pids)))
        send(number, pids)

    hold(program, 120 if half else 20)
    assert meter.overused() == ""
    hold(program, 200)
    both = frozenset(tree(program.pid))
    assert len(both) == 2
    monkeypatch.setattr(metering, "_send", noted)
    assert meter.overused() == "memory"
    assert sent == [(signal.SIGSTOP, both), (signal.SIGKILL, both), (signal.SIGCONT, both)]
    assert program.wait(10) == -signal.SIGKILL


def test_processes_below_the_limit_go_on(program):
    meter = Meter(program.pid, 200 * MIB, files=0)
    for mib in (120, 20, 1):
        hold(program, mib)
        assert meter.overused() == ""
    hold(program, 1)
    assert program.poll() is None
