"""Benchmarks that pages name run, on little."""

import json

import pytest

from support.commands import run


@pytest.mark.extended
def test_hidden_state_cache():
    less = ("--config.data.train=64", "--config.inner.batch_size=4")
    done = run("benchmarks.hidden_state_cache", "--steps=10", *less)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "warning" not in done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [row["agent"] for row in told["rows"]] == ["planner", "critic", "solver"]
    assert all(row["cached"] > 0 for row in told["rows"])
