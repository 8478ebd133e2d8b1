"""Errors of disks and of names of files, whoever meets them: one line and status 2, no bug."""

import pytest

from support.commands import python

MAIN = '''"""Meets an error."""
import os
import sys

from experiments import app


def main(argv):
    kind = argv[1]
    if kind == "file":
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
    if kind == "library":
        raise RuntimeError("write failed: No space left on device")
    if kind == "output":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        print("x" * 10, end="")
    if kind == "name":
        open("a" * 6000)
    if kind == "bug":
        open("missing")


app.run(main, words=1)
'''
FULL = "error: a file, or the output, cannot be written: the disk is full; free some space and run"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("file", FULL),
        ("library", FULL),
        ("output", FULL),
        ("name", f"error: {'a' * 300}: File name too long"),
    ],
)
def test_an_error_of_the_machine_is_one_line(kind, message, tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    done = python("main.py", kind, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
    assert done.returncode == 2


def test_an_error_that_may_be_a_bug_keeps_its_stack_trace(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    done = python("main.py", "bug", cwd=tmp_path)
    assert "FileNotFoundError" in done.stderr
    assert done.returncode == 1
