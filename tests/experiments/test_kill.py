"""kill -9 at any stage, then the same command: the same links and records, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.commands import run

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--config.data.train=200",
    "--config.data.validation=8",
    "--config.data.test=40",
    "--config.inner.optim.steps=40",
    "--config.inner.save_every=7",
    "--config.outer.optim.steps=12",
    "--config.outer.save_every=5",
    "--config.outer.batch_size=4",
    "--config.links.aligned_rows=32",
    "--config.evaluate.batch_size=8",
    "--config.evaluate.methods=('latent', 'text_terse')",
    "--config.evaluate.rounds=(1, 2, 3)",
]
SAME = [
    *[f"inner/{agent}/links/links.safetensors" for agent in ("planner", "critic", "solver")],
    "inner/critic/metrics.jsonl",
    "outer/links/links.safetensors",
    "outer/metrics.jsonl",
    "evaluate/records.jsonl",
]


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.quickstart", f"--workdir={workdir}", *FLAGS],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.extended
def test_killed_runs_end_like_an_uninterrupted_one(tmp_path):
    cache = tmp_path / "cache"
    whole = start(tmp_path / "whole", cache)
    _, errors = whole.communicate(timeout=900)
    assert whole.returncode == 0, errors

    killed = tmp_path / "killed"
    for file, least in (
        ("inner/critic/metrics.jsonl", 10),
        ("outer/metrics.jsonl", 7),
        ("evaluate/records.jsonl", 1),
        ("evaluate/records.jsonl", 150),
    ):
        process = start(killed, cache)
        deadline = time.monotonic() + 300
        while lines(killed / file) < least:
            assert process.poll() is None, f"ended before {file} had {least} lines"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(killed, cache)
    _, errors = last.communicate(timeout=900)
    assert last.returncode == 0, errors
    for name in SAME:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    report = run("report", str(killed))
    assert report.returncode == 0, report.stderr
    data = json.loads((killed / "report" / "report.json").read_text())
    rows = data["benchmarks"]["relay"]
    assert [(row["name"], row["rounds"], row["n"]) for row in rows] == [
        (method, rounds, 40) for method in ("latent", "text_terse") for rounds in (1, 2, 3)
    ]
