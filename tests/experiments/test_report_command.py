"""The report as a command: its files and table, and wrong input in one line."""

import json
from pathlib import Path

import pytest

from support.commands import run


def line(question, method, benchmark="gsm8k", rollout=0, tokens=10):
    counts = {"prompt_tokens": 3, "latent_steps": 0, "decoded_tokens": tokens}
    return {
        "schema": 1, "id": question, "benchmark": benchmark, "method": method, "rounds": 1,
        "rollout": rollout, "agents": {"a": counts}, "answer": "1", "gold": "1",
        "scores": {"exact": 1.0, "release_compatible": 1.0},
    }  # fmt: skip


def workdir(folder: Path, benchmark="gsm8k") -> Path:
    (folder / "evaluate").mkdir(parents=True)
    lines = [
        line(q, m, benchmark, n, 20 if m == "text" else 10)
        for m in ("latent", "text") for n in (0, 1) for q in "ab"
    ]  # fmt: skip
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (folder / "evaluate" / "records.jsonl").write_text(text)
    return folder


def test_one_workdir(tmp_path):
    done = run("report", str(workdir(tmp_path / "run")), "--k=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2.00 [2.00, 2.00]" in done.stdout
    assert "1.000 (k=1)" in done.stdout
    out = tmp_path / "run" / "report"
    written = [w.removeprefix("written: ") for w in done.stdout.splitlines() if w[:8] == "written:"]
    assert sorted(written) == sorted(map(str, out.iterdir()))
    data = json.loads((out / "report.json").read_text())
    assert [row["records"] for row in data["benchmarks"]["gsm8k"]] == [4, 4]


def test_several_workdirs_without_matplotlib(tmp_path, monkeypatch):
    (tmp_path / "path" / "matplotlib").mkdir(parents=True)
    (tmp_path / "path" / "matplotlib" / "__init__.py").write_text("raise ImportError('broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    one, two = workdir(tmp_path / "1"), workdir(tmp_path / "2", "aime25")
    done = run("report", str(one), str(two), f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no plots: they need matplotlib, pip install -e '.[plots]'" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.json"}
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.index("## Overview") < text.index("## aime25") < text.index("## gsm8k")
    rows = [row.split() for row in done.stdout.splitlines()[1:5]]
    assert [rows[0], *rows[2:]] == [
        ["method", "rounds", "aime25", "gsm8k", "mean", "time", "ratio", "token", "ratio"],
        ["latent", "1", "1.000", "1.000", "1.000", "-", "2.00"],
        ["text", "1", "1.000", "1.000", "1.000", "-", "-"],
    ]
    assert "Of the 1,319 public questions at most 2 were asked by any method." in text


def test_what_is_unfinished_is_told(tmp_path):
    """And does not keep the others from being reported."""
    one, two = workdir(tmp_path / "1"), workdir(tmp_path / "2", "aime25")
    (one / "evaluate" / "summary.json").write_text('{"records": 9, "rows": []}')
    (two / "evaluate" / "records.jsonl").write_text("")
    done = run("report", str(one), str(two), f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"left out: the evaluation in {two} has no records yet" in done.stdout
    assert f"unfinished: the evaluation in {one} has 8 of its 9 records" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a workdir, as in"),
        (["runs/none"], "records.jsonl is missing; name a workdir of experiments.evaluate"),
        (["{run}", "other"], "several workdirs need --out=FOLDER"),
        (["{run}", "--k=0"], "flag --k=0"),
        (["{run}", "--k=3"], "k of pass@k is 3; it must be from 1 to 2, the most rollouts"),
        (["{broken}"], "evaluate/records.jsonl, line 2 is not a JSON object"),
        (["{run}", "--out={run}/evaluate/records.jsonl"], "cannot be written: Not a directory"),
    ],
)  # fmt: skip
def test_wrong_input_ends_in_one_line(tmp_path, words, told):
    folders = {name: workdir(tmp_path / name) for name in ("run", "broken")}
    path = folders["broken"] / "evaluate" / "records.jsonl"
    path.write_text(path.read_text().replace("\n", "\nnot json \x1b[2J\n", 1))
    done = run("report", *(word.format(**folders) for word in words))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and told in done.stderr
    assert done.stderr.startswith("error: ") and "\x1b" not in done.stderr
    assert not (folders["run"] / "report").exists()
