"""kill -9 at random moments: the run that is left is bit for bit the uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROGRAM = TESTS / "training" / "kill_program.py"


def start(folder: Path, steps: int) -> subprocess.Popen:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-W", "error", str(PROGRAM), str(folder), str(steps)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.mark.parametrize(
    ("kills", "steps"),
    [
        pytest.param(2, 300, marks=pytest.mark.slow),
        pytest.param(30, 1500, marks=pytest.mark.extended),
    ],
)
def test_kills_leave_no_trace(tmp_path, kills, steps):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished(start(whole, steps))
    total, moments, seen = lines(whole), random.Random(0), []
    while len(seen) < kills:
        process = start(killed, steps)
        # While it starts, or once it has done some more steps: in one of them, or in a save.
        if moments.random() < 0.2:
            time.sleep(moments.uniform(0.0, 2.0))
        else:
            # Steps that it repeats are cut from the file first.
            least = lines(killed)
            goal = min(least + moments.randint(1, 80), total - 1)
            deadline = time.monotonic() + 60
            while lines(killed) < goal and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        assert "Traceback" not in out, out
        assert "cannot be read" not in out, out  # every checkpoint that was there could be
        seen.append(lines(killed))
    assert len(set(seen)) > kills // 3
    assert "cannot be read" not in finished(start(killed, steps))
    for name in ("metrics.jsonl", "links/links.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    found = {p.name for p in (killed / "checkpoints").iterdir()}
    steps = {name for name in found if name.isdigit()}
    assert found <= steps | {f"files-{step}.json" for step in steps}
