"""Process start-up is about processes: each test starts real ones."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.parallel import Cluster, all_reduce_max, barrier, broadcast_from_first, is_first, to_host
from rmas.parallel.startup import is_clustered

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from rmas import parallel
parallel.start(*sys.argv[1:])
import jax, jax.monitoring
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(jax.jit(lambda x: x * 3 + 1)(2.0), sum(name.endswith("cache_hits") for name in hits))
"""


def start(*args, **env) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, args)],
        env={**clean, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("how", ["argument", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"])
def test_second_start_compiles_nothing(tmp_path, how):
    args, env = ([tmp_path], {}) if how == "argument" else ([], {how: str(tmp_path)})
    first, second = start(*args, **env), start(*args, **env)
    folder = tmp_path / "rmas" / "xla" if how == "XDG_CACHE_HOME" else tmp_path
    assert any(folder.iterdir())
    assert first.stderr == second.stderr == ""
    assert first.stdout.split() == ["7.0", "0"]
    result, hits = second.stdout.split()
    assert result == "7.0"
    assert int(hits) >= 1


def test_folder_that_cannot_be_written_costs_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = start(tmp_path / "file" / "cache")
    assert done.stdout.split()[0] == "7.0"
    assert len(done.stderr.splitlines()) == 1
    assert "compile cache off" in done.stderr


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # a batch script, not a step
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3"}, True),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "t0"}, True),
    ],
)
def test_clusters_are_told_by_their_environment(environ, wanted):
    assert is_clustered(environ) == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("host", 2, 0), "'host' must be HOST:PORT"),
        (("host:99999", 2, 0), "must be HOST:PORT"),
        (("host:1234", 2, 2), "process 2 of 2: the index must be from 0"),
    ],
)
def test_clusters_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        Cluster(*settings)


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},
        {"TPU_WORKER_HOSTNAMES": "slice-0,slice-1"},
    ],
)
def test_a_cluster_that_cannot_be_joined_is_an_error(environ):
    """Not several runs that all take themselves for the only one."""
    done = subprocess.run(
        [sys.executable, "-c", "from rmas import parallel; parallel.start(pod=True)"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "PeersLostError: the run's other processes cannot be reached" in done.stderr


def test_alone_there_is_nobody_to_wait_for():
    assert (
        is_first(),
        all_reduce_max(7),
        broadcast_from_first(True),
        broadcast_from_first(False),
    ) == (True, 7, True, False)
    barrier("nobody", 0.01)
    tree = to_host({"a": np.arange(3), "b": jnp.ones(2)})
    assert all(isinstance(x, np.ndarray) for x in tree.values())
