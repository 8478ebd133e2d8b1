import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmas import console
from rmas.console import Progress, waiting

ROOT = Path(__file__).parents[1]


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(console.time, "monotonic", lambda: self.now)


def test_plain_lines_now_and_then(monkeypatch):
    clock, out = Clock(monkeypatch), io.StringIO()
    reads = []

    def loss():
        reads.append(clock.now)
        return 0.51239

    with Progress(400, start=100, label="outer", every_seconds=10, stream=out) as progress:
        clock.now = 60.0  # the compilation, which must not count in the rate
        for step in range(101, 401):
            progress.update(step, loss=loss)
            clock.now += 0.125
    there, *shown = out.getvalue().splitlines()
    assert there == "outer  step 100/400 already done"
    assert shown[0] == "outer  step 101/400  loss 0.5124"
    assert shown[1] == "outer  step 181/400  loss 0.5124  8.0 steps/s  27 s left"
    assert shown[2] == "outer  step 261/400  loss 0.5124  8.0 steps/s  17 s left"
    assert shown[3] == "outer  step 341/400  loss 0.5124  8.0 steps/s  7 s left"
    assert shown[4] == "outer  step 400/400  loss 0.5124  8.0 steps/s"
    assert len(shown) == len(reads) == 5


def test_compilation_is_told_and_does_not_count(monkeypatch):
    clock, out, compiled = Clock(monkeypatch), io.StringIO(), [3.0]
    monkeypatch.setattr(console, "seconds_compiling", lambda: compiled[0])
    with Progress(10, label="evaluate", every_seconds=0, stream=out, unit="answer") as progress:
        progress.compiling("latent r=1")
        clock.now, compiled[0] = 60.0, 50.0
        progress.update(2)
        clock.now += 4.0
        progress.update(4)
        progress.compiling("text r=1")
        clock.now, compiled[0] = clock.now + 94.0, compiled[0] + 90.0
        progress.update(6)
    assert out.getvalue().splitlines() == [
        "evaluate  compiling latent r=1",
        "evaluate  answer 2/10",
        "evaluate  answer 4/10  2.0 s/answer  12 s left",
        "evaluate  compiling text r=1",
        "evaluate  answer 6/10  2.0 s/answer  8 s left",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def wait_for(text, out):
    until = time.monotonic() + 30
    while text not in out.getvalue() and time.monotonic() < until:
        time.sleep(0.01)


def test_waiting_says_for_what_and_how_long():
    out = io.StringIO()
    with waiting("compiling step", "minutes", after=0, stream=out):
        wait_for("\n", out)
    assert out.getvalue() == "compiling step: 0 s (minutes)\n"


def test_waiting_leaves_nothing_on_a_terminal():
    out = Terminal()
    with waiting("compiling step", after=0, stream=out):
        wait_for("\r", out)
    assert out.getvalue().startswith("compiling step: 0 s\r")
    assert out.getvalue().endswith("\033[2K")


def test_nothing_is_said_about_what_is_quick():
    out = Terminal()
    with waiting("compiling step", stream=out):
        pass
    assert out.getvalue() == ""


def test_slow_steps(monkeypatch):
    clock, out = Clock(monkeypatch), io.StringIO()
    with Progress(100, every_seconds=0, stream=out) as progress:
        progress.update(1)
        clock.now = 80.0
        progress.update(2)
    assert out.getvalue().splitlines() == ["step 1/100", "step 2/100  80.0 s/step  2 h 10 min left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert console.duration(seconds) == text


def test_a_bar_on_a_terminal():
    """On a real pseudo-terminal, with a label that rich would take for markup."""
    code = (
        "from rmas.console import Progress\n"
        "with Progress(3, label='[red]x[/red]') as p:\n"
        "    p.compiling('it')\n"
        "    for step in (1, 2, 3): p.update(step, loss=0.25)\n"
    )
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    text = shown.decode()
    assert "[red]x[/red]" in text
    assert "3/3" in text
    assert "loss 0.25" in text
    assert "\x1b[" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字\u3000😀", "plain é 漢字\u3000😀"),
        ("\x1b[31mred\x07\r\n\t", "\\x1b[31mred\\x07\\r\\n\\t"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("a\u202eb\u2028c\ud800", "a\\u202eb\\u2028c\\ud800"),
    ],
)
def test_printable(text, shown):
    assert console.printable(text) == shown
    console.printable(text).encode("utf-8")


def test_printable_can_keep_newlines():
    assert console.printable("a\nb\r", keep="\n") == "a\nb\\r"
