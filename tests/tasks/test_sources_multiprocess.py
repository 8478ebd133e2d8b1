"""Two real processes prepare and read one dataset."""

import json
import os
import socket
import subprocess
import sys

import pytest

from rmas.tasks.relay import RELAY

WORKER = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
port, index, data_dir = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
from rmas.tasks.pipeline import batches
from rmas.tasks.sources import load_rows_source
try:
    rows = load_rows_source(data_dir=data_dir, seed=0, train=8, validation=1, test=1)["train"]
    settings = {"process_index": index, "process_count": 2}
    batch = next(iter(batches(rows, seed=0, batch_size=8, **settings)))
    answer = [row.id for row in batch]
except ValueError as error:
    answer = str(error)
print(json.dumps(answer))
"""


def run_two(data_dirs):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(port), str(index), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for index, folder in enumerate(data_dirs)
    ]
    answers = []
    try:
        for worker in workers:
            out, err = worker.communicate(timeout=120)
            assert worker.returncode == 0, err
            answers.append(json.loads(out.splitlines()[-1]))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return answers


@pytest.mark.slow
def test_two_processes_share_what_the_first_prepared(tmp_path):
    first, second = run_two([tmp_path, tmp_path])
    assert len(first) == len(second) == 4
    assert sorted(first + second) == [row.id for row in RELAY.make_rows(10, seed=0)[2:]]
    assert len(list(tmp_path.rglob("dataset_info.json"))) == 1


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_named(tmp_path):
    first, second = run_two([tmp_path / "a", tmp_path / "b"])
    assert len(first) == 4
    assert "is not there for process 1; name a folder that all processes share" in second
