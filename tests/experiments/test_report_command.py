import json

import pytest
from commands import run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "error: name a workdir"),
        (["runs/none"], "records.jsonl is missing; run experiments.evaluate"),
        (["a", "b"], "several workdirs need --out"),
        (["a", "--k=0"], "--k=0: name whole numbers above 0"),
    ],
)
def test_wrong_words_end_in_one_line(words, told):
    done = run("report", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_several_workdirs(tmp_path):
    for name, exact in (("one", 1.0), ("two", 0.0)):
        folder = tmp_path / name / "evaluate"
        folder.mkdir(parents=True)
        counts = {"prompt_tokens": 3, "latent_steps": 0, "decoded_tokens": 2}
        line = {
            "id": "q", "benchmark": name, "method": "text", "rounds": 1, "rollout": 0,
            "agents": {"a": counts}, "scores": {"exact": exact, "release_compatible": exact},
        }  # fmt: skip
        (folder / "records.jsonl").write_text(json.dumps(line) + "\n")
    done = run("report", str(tmp_path / "one"), str(tmp_path / "two"), f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "1.000 [0.207, 1.000]" in done.stdout and "0.000 [0.000, 0.793]" in done.stdout
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["benchmark"] for row in data["rows"]] == ["one", "two"]
    assert (tmp_path / "out" / "one_1_rounds.png").is_file()
