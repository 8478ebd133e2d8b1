"""Ctrl-C at any time ends in one line at most, and what only compiles ends at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("loaded", ["/absl/", "/numpy/", "/jaxlib/"])
def test_ctrl_c_while_modules_are_imported_is_quiet(loaded):
    """At whatever import it comes: those of the command's own modules and of libraries."""
    program = [sys.executable, "-W", "error", "-v", "-m", "experiments.report", "no such folder"]
    with subprocess.Popen(program, cwd=ROOT, env=ENV, stderr=subprocess.PIPE) as process:
        shown = []
        for line in process.stderr:
            shown.append(line)
            if loaded.encode() in line:
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    rest = [line for line in errors.splitlines() if line.startswith((b"Trace", b"interrupted"))]
    assert rest == [b"interrupted"]


PROGRAM = """
import time
from experiments import app
def main(_):
    print("on", flush=True)
    time.sleep(60)
app.run(main, workdir="runs/x")
"""


def test_nohup_is_respected():
    """A SIGHUP that is ignored from outside ends nothing."""
    with subprocess.Popen(
        ["nohup", sys.executable, "-c", PROGRAM],
        env=ENV,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "stopped; the same command resumes the run"


PLAN = ["train_inner", "--config.plan", "--config.topology=v5e:1x1"]


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("command", "number"),
    [
        (PLAN, signal.SIGTERM),
        (PLAN, signal.SIGINT),
        (["benchmarks.compiled", "--parts=outer"], signal.SIGHUP),
    ],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_what_only_compiles_ends_at_once(command, number, tmp_path):
    """While the compiler works, which takes minutes: Python's handlers would wait for its end."""
    module, *flags = command
    with subprocess.Popen(
        [sys.executable, "-m", f"experiments.{module}", *flags],
        cwd=ROOT,
        env=ENV | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr.readline().startswith("compiling ")
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (-number, "")
    assert not any(path.is_dir() for path in tmp_path.iterdir())  # nor is a folder left
