"""A released system on a benchmark: the plan, the records, the sweep, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from experiments import config
from experiments.configs import released
from rmas.experiment.derive import names
from rmas.system.styles import STYLES
from rmas.tasks.benchmarks import BENCHMARKS
from support.commands import ROOT, run

TINY = Path("tests", "system", "released_goldens")
FLAGS = [
    "--config=experiments/configs/released.py:sequential_scaled,gsm8k",
    f"--config.system.root={TINY / 'root'}",
    f"--config.system.prompts={TINY / 'prompts.json'}",
    "--config.system.dtype=float32",
    "--config.mesh=single",
    "--config.evaluate.source=tests/tasks/samples/gsm8k",
    "--config.evaluate.methods=('latent', 'text')",
    "--config.evaluate.rounds=(2,)",
    "--config.evaluate.latent_lengths=(2, 4)",
    "--config.evaluate.rollouts=2",
    "--config.evaluate.batch_size=4",
    "--config.limits.max_new_tokens=8",
    "--config.limits.message_tokens=8",
    "--config.num_questions=2",
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_config(style, benchmark):
    spec = f"{ROOT}/experiments/configs/released.py:{style},{benchmark}"
    settings, _ = names(config.settings_of(config.load(spec)))
    assert settings.system.graph() == STYLES[style].topology
    known = BENCHMARKS[benchmark]
    assert settings.system.task_family == known.task_family


def test_every_benchmark_has_a_config():
    assert set(released.SAMPLING) <= {"", *BENCHMARKS}
    assert set(released.STYLES) == set(STYLES)


def test_commands_are_printed(capsys):
    released.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(STYLES) * len(BENCHMARKS)
    for line in lines:
        spec = re.search(r"--config=(\S+)", line)[1]
        assert config.load(str(ROOT / spec)).evaluate.data in BENCHMARKS


def test_an_unknown_pair_is_told():
    done = run("evaluate", "--config=experiments/configs/released.py:light,x", "--workdir=runs/x")
    assert done.returncode == 2
    assert "'light,x' is not a STYLE,BENCHMARK; styles: sequential_light" in done.stderr


@pytest.mark.slow
def test_the_plan_and_the_records(tmp_path):
    flags = [*FLAGS, f"--config.data.folder={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"]
    plan = run("evaluate", *flags, "--config.dry_run")
    assert plan.returncode == 0, plan.stderr
    assert "gsm8k, split test: 2 questions, graded by gsm8k" in plan.stdout
    assert "12 answers in all" in plan.stdout
    assert not (tmp_path / "run" / "evaluate").exists()

    done = run("evaluate", *flags)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "evaluate"
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    keys = {(r["method"], r["rounds"], r["latent_length"], r["rollout"]) for r in records}
    latent = {("latent", 2, steps, n) for steps in (2, 4) for n in (0, 1)}
    assert keys == latent | {("text", 2, None, n) for n in (0, 1)}
    assert len(records) == 12
    for record in records:
        assert record["benchmark"] == "gsm8k"
        assert record["scores"].keys() >= {"exact", "release_compatible"}
        assert record["retried"] and r"\boxed{" in record["texts"]["solver"][-1]
        wrote = record["agents"]["solver"]["decoded_tokens"]
        turns = record["rounds"] if record["method"] == "text" else 1
        assert turns <= wrote <= 8 * turns + 16
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    for line in timings:
        middle = "think" if line["method"] == "latent" else "read"
        assert set(line["phases"]) == {"render", "preamble", middle, "write"}
        assert 0 < sum(line["phases"].values()) <= line["seconds"] + line["compile"]

    report = run("report", str(tmp_path / "run"))
    assert report.returncode == 0, report.stderr
    text = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "gsm8k" in text and "release" in text
    assert json.loads((tmp_path / "run" / "report" / "report.json").read_text())

    other = run("evaluate", *flags, "--config.num_questions=1")
    assert other.returncode == 2
    assert "num_questions is 2 there and 1 here" in other.stderr
