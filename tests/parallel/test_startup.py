"""Process start-up is about processes: each test starts real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
