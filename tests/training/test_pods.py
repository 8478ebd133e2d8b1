"""Real processes that are one run: what they leave behind is what one process leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

TESTS = Path(__file__).parents[1]
PROGRAM = TESTS / "training" / "pod_program.py"
STEPS = 24


def pod(folder: Path, processes: int, mesh: str, stop_at: int = 0, number: int = 0) -> int:
    folder.mkdir(exist_ok=True)
    pod = [str(TESTS.parent / "launch" / "local_pod.py"), f"--processes={processes}", "--devices=2"]
    command = [sys.executable, "-W", "error", str(PROGRAM), str(folder), mesh]
    if stop_at:
        command += [f"--stop_at={stop_at}", f"--signal={number}"]
    paths = [TESTS.parent, TESTS]
    path = os.pathsep.join(map(str, paths))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *pod, "--", *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    print(done.stdout)  # pytest shows it where the test fails
    return done.returncode


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process, on one of its devices."""
    folder = tmp_path_factory.mktemp("alone")
    assert pod(folder, 1, "single") == 0
    return folder


def same(folder: Path, alone: Path) -> None:
    """Equal but for the order of sums."""
    for stage, steps in (("inner/critic", 3), ("inner/solver", 3), ("outer", STEPS)):
        found, wanted = metrics(folder / stage), metrics(alone / stage)
        assert [line["step"] for line in found] == list(range(1, steps + 1))
        for line, other in zip(found, wanted, strict=True):
            assert line.keys() == other.keys()
            for name, value in other.items():
                np.testing.assert_allclose(line[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    found, wanted = (load_file(at / "links" / "links.safetensors") for at in (folder, alone))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-4, err_msg=name)
    names = {file.name for file in (folder / "evaluate").iterdir()}
    assert names == {"questions.jsonl", "records.jsonl", "timings.jsonl"}
    records = [(at / "evaluate" / "records.jsonl").read_bytes() for at in (folder, alone)]
    assert records[0] == records[1]


@pytest.mark.slow
def test_two_processes(tmp_path, alone):
    """Weights and links are split within each, rows over both."""
    assert pod(tmp_path, 2, "data=2,fsdp=2") == 0
    same(tmp_path, alone)


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_preempted_as_two_and_resumed_as_four(tmp_path, alone, number):
    """One process is told to end; both save the same step, and four others go on from it.

    Links lie in parts on both. The notice comes right behind a save, in the second training of the
    process: neither is to make it be overlooked.
    """
    assert pod(tmp_path, 2, "fsdp=4", stop_at=11, number=number) == 143
    stopped = metrics(tmp_path / "outer")[-1]["step"]
    assert 10 < stopped < STEPS
    saved = [
        int(p.name) for p in (tmp_path / "outer" / "checkpoints").iterdir() if p.name.isdigit()
    ]
    assert max(saved) == stopped
    assert pod(tmp_path, 4, "data=4,tensor=2") == 0
    same(tmp_path, alone)


ERRS = """
import time
from experiments import app
from rmas.errors import InputError, PeersLostError
from rmas.parallel import barrier, is_first
def main(_):
    app.start()
    if WHO:
        raise ERROR("no such thing")
    barrier("never", 600)
app.run(main, workdir="x", pod=True)
"""


@pytest.mark.slow
def test_an_error_of_one_ends_all_with_its_status():
    """Soon, and not when the others have waited in vain; three runs side by side."""
    pod = [str(TESTS.parent / "launch" / "local_pod.py"), "--processes=2", "--devices=1", "--"]
    cases = {  # status, and how often the error is told
        ("is_first()", "InputError"): (2, 1),
        ("True", "InputError"): (2, 2),
        ("not is_first()", "PeersLostError"): (1, 1),
    }
    runs = {}
    for who, error in cases:
        program = ERRS.replace("WHO", who).replace("ERROR", error)
        runs[who, error] = subprocess.Popen(
            [sys.executable, *pod, sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for case, run in runs.items():
        shown, _ = run.communicate(timeout=150)
        status, count = cases[case]
        assert run.returncode == status, shown
        assert shown.count("error: no such thing") == count, shown
