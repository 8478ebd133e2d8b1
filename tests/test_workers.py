"""Processes that answer jobs: what hangs, dies or talks too much is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmas.workers import NoReplyError, Worker

# Jobs are [what, value].
PROGRAM = """
import os, sys, time
from rmas.workers import serve
def answer(job):
    what, value = job
    if what == "sleep":
        time.sleep(value)
    if what == "die":
        os._exit(value)
    if what == "noise":
        print("noise", flush=True)
    if what == "take":
        try:
            return len(bytearray(value))
        except MemoryError:
            return "MemoryError"
    return value
serve(answer, 512 << 20)
"""


@pytest.fixture
def worker():
    made = Worker(PROGRAM)
    yield made
    made.stop()
    assert made._process.poll() is not None


def test_values_come_back_in_order(worker):
    for value in (1, "ü\ud800\n", [None, {"a": [1.5]}], "x" * 300_000):
        assert worker.ask(["echo", value], 20) == value
    assert worker.ask(["noise", 2], 20) == 2, "what is printed is no reply"
    assert worker.ask(["take", 1 << 30], 20) == "MemoryError"
    assert worker.ask(["take", 1 << 20], 20) == 1 << 20


@pytest.mark.parametrize(
    ("job", "options", "told"),
    [
        (["sleep", 600], {"seconds": 0.3}, "timeout"),
        (["die", 3], {"seconds": 20}, "crashed"),
        (["echo", "x" * 100_000], {"seconds": 20, "longest": 50_000}, "too long"),
    ],
)
def test_processes_that_give_no_reply_are_stopped(worker, job, options, told):
    assert not worker.stopped
    with pytest.raises(NoReplyError, match=told):
        worker.ask(job, **options)
    assert worker.stopped and worker._process.poll() is not None
    with pytest.raises(NoReplyError, match="crashed"):
        worker.ask(["echo", 1], 1)


def test_an_interrupted_job_leaves_no_reply_behind(worker):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.ask(["sleep", 600], 20)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker.stopped


def test_a_program_that_does_not_start():
    with pytest.raises(NoReplyError, match="does not start"):
        Worker("raise SystemExit(1)")


def test_the_package_is_found_wherever_the_caller_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p or ".", "rmas").is_dir()])
    monkeypatch.chdir(tmp_path)
    made = Worker(PROGRAM)
    assert made.ask(["echo", 1], 20) == 1
    made.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a signal")
def test_a_busy_process_ends_with_its_parent():
    parent = f"""
import json, os, sys
from rmas.workers import Worker
worker = Worker({PROGRAM!r})
print(json.dumps(worker._process.pid), flush=True)
worker.ask(["sleep", 600], 600)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=env) as own:
        pid = json.loads(own.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        own.kill()
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/stat"):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # nobody has asked for its status yet
            break
        assert time.monotonic() < until
        time.sleep(0.05)
