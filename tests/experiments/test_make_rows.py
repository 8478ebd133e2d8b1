"""Questions and answers without texts become rows that links can be trained on."""

import json

import pytest

from rmas.tasks.relay import RELAY
from support.commands import run

QUICK = [
    "--config.evaluate.batch_size=8",
    "--config.outer.rounds=2",
    "--config.inner.optim.steps=2",
    "--config.inner.batch_size=4",
    "--config.links.init=random",
]


@pytest.mark.slow
def test_rows_of_the_tiny_agents_and_training_on_them(tmp_path):
    made = RELAY.make_rows(12, seed=5)
    asked = tmp_path / "asked.jsonl"
    lines = [{"id": r.id, "question": r.question, "answer": r.answer} for r in made]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = ["--config.system.task_family=relay", "--config.system.prompts=relay"]
    flags = [f"--config.evaluate.data={asked}", *own, *QUICK]
    done = run("make_rows", f"--workdir={tmp_path / 'rows'}", *flags)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "rows" / "rows" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    # Two rounds can answer questions of up to two lines (and a few by luck).
    assert {row.id for row in made if row.meta["stop"] <= 2} <= {row["id"] for row in rows}
    assert 0 < len(rows) < len(made)
    assert done.stdout == f"{len(rows)} of 12 questions gave rows: {file}\n"
    by_id = {row.id: row for row in made}
    for row in rows:
        teacher = by_id[row["id"]].texts
        assert row["texts"] == {role: list(own[:2]) for role, own in teacher.items()}

    again = run("make_rows", f"--workdir={tmp_path / 'rows'}", *flags)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    other = run("make_rows", f"--workdir={tmp_path / 'rows'}", *flags, "--config.seed=3")
    assert other.returncode == 2
    assert "was made by another config: seed is 0 there and 3 here" in other.stderr

    flags[0] = f"--config.data.name={file}"
    trained = run("train_inner", f"--workdir={tmp_path / 'links'}", *flags)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "links" / "inner" / "planner" / "links").is_dir()
