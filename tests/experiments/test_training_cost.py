"""The cost of training: tables with the paper's figures, refusals, and the whole command."""

import json

import pytest

from experiments.benchmarks.training_costs import measured_tables, planned_table
from support.commands import run

WAY = {
    "trained": 250_000,
    "optimizer_bytes": 2_000_000,
    "arguments": 5_000_000,
    "outputs": 3_000_000,
    "alias": 3_000_000,
    "temporaries": 5_000_000,
    "seconds": [0.3, 0.1, 0.2],
    "ratio": {"value": 1.0, "low": 0.9, "high": 1.1},
}
ROW = {"rounds": 3, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "ceiling": None}


def test_tables_of_what_was_measured():
    twice = {"ratio": {"value": 2.0, "low": 1.8, "high": 2.2}, "outputs": 4_000_000}
    facts = {
        "objective": "rollout",
        "batch": 8,
        "steps": 100,
        "machine": "two cores",
        "weights": 1_000_000,
        "rates": {"links": 1e-3, "full": 1e-4},
        "ways": {"links": WAY, "full": WAY | twice},
        "accuracy": {"start": [ROW], "full": [ROW | {"ceiling": 1.0}]},
    }
    lines = measured_tables(facts).splitlines()
    assert lines[0] == "rollout, batch 8, 100 steps; two cores"
    links = "| links | 250,000 | 25.0 | 2.0 | 10.0 | 1.00 | 15.29 | 1.00 | 0.200 | 1 |  |"
    assert links in lines
    full = (
        "| full | 250,000 | 25.0 | 2.0 | 11.0 | 1.10 | 41.40 | 2.71 | 0.200 | 2.00 | 1.80 - 2.20 |"
    )
    assert full in lines
    assert lines[-2:] == [
        "| start | - | 3 | 0.500 | 0.400-0.600 | - |",
        "| full | 0.0001 | 3 | 0.500 | 0.400-0.600 | 1.000 |",
    ]


def test_table_of_what_was_planned():
    links = {
        "trained": 20_000_000,
        "weights": 4_000_000_000,
        "frozen_bytes": 8_000_000_000,
        "trained_bytes": 80_000_000,
        "optimizer_bytes": 160_000_000,
        "fits": True,
        "peak": 10_000_000_000,
        "step": 2.0,
    }
    large = {"fits": False, "peak": 90_000_000_000}
    own = {name: value for name, value in links.items() if name != "step"}
    lines = planned_table({"links": links, "full_bfloat16": own | large}).splitlines()
    shared = "20.0 M | 0.50 | 8.00 | 0.08 | 0.16 | 8.24 | 1.00"
    assert lines[2] == f"| links | {shared} | 10.00 | 1.00 | 15.29 | 1.00 | 2.000 | 1.00 |"
    assert lines[3] == f"| full_bfloat16 | {shared} | 90.00 | 9.00 | - | - | does not fit | - |"
    shapes = {name: x for name, x in own.items() if name not in ("fits", "peak")}
    line = planned_table({"lora": shapes}).splitlines()[-1]
    assert line == f"| lora | {shared[:-4]}- | - | - | 21.67 | 1.42 | - | - |"


@pytest.mark.parametrize(
    ("command", "flag", "line"),
    [
        ("benchmarks.training_cost", "--ways=heads", "--ways: 'heads' is unknown; known: links,"),
        ("plan_training_cost", "--mesh=auto", "--mesh=auto leaves sizes open; name them, as in"),
    ],
)
def test_wrong_flags(command, flag, line):
    done = run(command, flag)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.extended
def test_the_whole_command_resumes(tmp_path):
    """From the same links, every way trains and answers; a second run finds all done."""
    flags = (
        *(f"--workdir={tmp_path / 'run'}", "--repeats=1", "--rank=2"),
        *("--config.inner.optim.steps=2", "--config.inner.batch_size=4"),
        *("--config.outer.optim.steps=2", "--config.outer.batch_size=4"),
        *("--config.objective=rollout", "--config.outer.rounds=2", "--config.evaluate.rounds=(1,)"),
        *("--config.evaluate.batch_size=8", "--config.num_questions=8"),
    )
    found = []
    for _ in range(2):
        done = run("benchmarks.training_cost", *flags)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / "run" / "training_cost.json").read_text()))
    one, two = found
    assert one["accuracy"] == two["accuracy"]
    assert set(one["accuracy"]) == {"start", "links", "lora", "full"}
    counts = {way: own["trained"] for way, own in one["ways"].items()}
    assert counts["full"] == one["weights"]
    assert counts["lora"] < counts["full"]
    # Two float32 moments of all that is trained, and counts.
    for own in one["ways"].values():
        assert 0 <= own["optimizer_bytes"] - 8 * own["trained"] <= 16
        assert own["temporaries"] > 0
    again = run("benchmarks.training_cost", *flags, "--config.outer.optim.lr=0.5")
    assert again.returncode == 2
    assert "was made by another config: outer.optim.lr" in again.stderr
