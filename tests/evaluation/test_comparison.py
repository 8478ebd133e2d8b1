"""Records and timings with known figures: the rows, the report, and what is refused."""

import json

import pytest

from rmas.errors import InputError
from rmas.evaluation.comparison import compare
from rmas.evaluation.intervals import wilson
from rmas.evaluation.records import read_evaluation
from rmas.evaluation.reporting import write_report
from rmas.evaluation.tables import text_report


def record(
    question, method="latent", rounds=1, length=None, rollout=0, exact=1.0, tokens=10, **more
):
    counts = {"prompt_tokens": 30, "latent_steps": 8 if length else 0, "decoded_tokens": tokens}
    return {
        "schema": 2, "id": f"q{question}", "benchmark": "gsm8k", "method": method,
        "rounds": rounds, "latent_length": length, "rollout": rollout, "seed": 0,
        "agents": {"a": counts | {"positions": 40}, "b": counts | {"positions": 20}},
        "texts": {}, "tools": [], "answer": "1", "gold": "1",
        "scores": {"exact": exact, "release_compatible": 1.0}, "retried": False, "note": "",
    } | more  # fmt: skip


def timing(method, length, start, n, seconds, rounds=1, **more):
    return {
        "method": method, "rounds": rounds, "latent_length": length, "rollout": 0, "start": start,
        "n": n, "ids": [], "seconds": seconds, "compile": 0.5,
        "phases": {"render": 0.1, "write": seconds - 0.1}, "peak_bytes": 1000,
    } | more  # fmt: skip


def write(folder, records, timings=()):
    (folder / "evaluate").mkdir(parents=True, exist_ok=True)
    for name, lines in (("records", records), ("timings", timings)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "evaluate" / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Four questions: latent right on all, text on two, with four times the tokens."""
    records = [record(q, length=8) for q in range(4)]
    records += [record(q, "text", exact=float(q < 2), tokens=40) for q in range(4)]
    records += [record(q, "single:a", exact=0.0, tokens=5) for q in range(4)]
    timings = [
        timing("latent", 8, 0, 2, 9.0), timing("latent", 8, 0, 2, 1.0),  # the newer one counts
        timing("latent", 8, 2, 2, 1.0),
        timing("text", None, 0, 2, 3.0), timing("text", None, 2, 2, 3.0),
    ]  # fmt: skip
    return write(tmp_path / "run", records, timings)


def test_rows(folder):
    latent, text, single = compare(read_evaluation(folder))
    assert [row["name"] for row in (latent, text, single)] == ["latent", "text", "single:a"]
    assert (latent["accuracy"], text["accuracy"], single["accuracy"]) == (1.0, 0.5, 0.0)
    assert (text["accuracy_low"], text["accuracy_high"]) == wilson(2, 4)
    assert (latent["decoded_tokens"], text["decoded_tokens"]) == (20, 80)
    assert (latent["latent_steps"], latent["prompt_tokens"], latent["positions"]) == (16, 60, 60)
    assert (latent["seconds"], text["seconds"], single["seconds"]) == (0.5, 1.5, None)
    assert latent["compile"] == 1.0
    assert latent["phases"] == pytest.approx({"render": 0.05, "write": 0.45})
    assert latent["token_ratio"] == (4.0, 4.0, 4.0)
    assert latent["time_ratio"] == (3.0, 3.0, 3.0)
    assert latent["position_ratio"] == (1.0, 1.0, 1.0)
    assert latent["difference"][0] == 0.5
    assert latent["p"] == 0.5  # two questions differ, both one way
    assert latent["paired"] == 4
    assert "token_ratio" not in single and "token_ratio" not in text


def test_only_questions_that_both_answered_are_compared(folder):
    evaluation = read_evaluation(folder)
    left = {k: v for k, v in evaluation.records.items() if (k[1][0], k[2]) != ("text", "q3")}
    latent, text, _ = compare(type(evaluation)(left, evaluation.timings, evaluation.files))
    assert (latent["n"], text["n"], latent["paired"]) == (4, 3, 3)
    assert latent["difference"][0] == pytest.approx(1 / 3)


def test_rollouts_and_pass_at_k(tmp_path):
    records = [record(0, rollout=n, exact=float(n == 0)) for n in range(4)]
    records += [record(1, rollout=n, exact=0.0) for n in range(4)]
    (row,) = compare(read_evaluation(write(tmp_path, records)), ks=(1, 2, 10))
    assert (row["n"], row["records"], row["accuracy"]) == (2, 8, 0.125)
    assert row["pass@2"] == pytest.approx((1 - 3 / 6) / 2)  # 3 of 6 pairs lack the right one
    assert "pass@10" not in row and "pass@1" not in row


def test_every_latent_length_is_a_row(tmp_path):
    records = [record(q, length=n, exact=float(n == 16)) for n in (16, 8) for q in range(3)]
    rows = compare(read_evaluation(write(tmp_path, records)))
    assert [(row["name"], row["accuracy"]) for row in rows] == [
        ("latent m=8", 0.0),
        ("latent m=16", 1.0),
    ]


def test_records_of_schema_1(tmp_path):
    old = record(0)
    for name in ("latent_length", "retried", "note"):
        del old[name]
    for agent in old["agents"].values():
        del agent["positions"]
    line = timing("latent", None, 0, 1, 2.0)
    for name in ("latent_length", "rollout", "ids", "compile", "phases", "peak_bytes"):
        del line[name]
    (row,) = compare(read_evaluation(write(tmp_path, [old | {"schema": 1}], [line])))
    assert (row["positions"], row["seconds"], row["phases"]) == (80, 2.0, {})


def test_the_report(folder, tmp_path):
    evaluation = read_evaluation(folder)
    rows = [row | {"workdir": "run"} for row in compare(evaluation)]
    made, missing = write_report(rows, evaluation.files, tmp_path / "out")
    assert missing == ""
    names = ["report.md", "report.json", *(f"gsm8k_{n}.png" for n in ("rounds", "tokens", "time"))]
    assert [path.name for path in made] == names
    assert all(path.stat().st_size > 1000 for path in made)
    text = made[0].read_text()
    assert "| latent | 1 | 1.000 [0.510, 1.000] | 20.0 | 16.0 | 0.5000 |" in text
    assert "| 75.0% [75.0%, 75.0%] | 3.00 [3.00, 3.00] | +0.500 [" in text
    # Where the release grades otherwise, both stand there, with the reason.
    assert "| text | 1 | 0.500 | 1.000 |" in text
    assert "first integer" in text
    data = json.loads(made[1].read_text())
    assert data["rows"][0]["records"] == 4
    assert [file["lines"] for file in data["files"]] == [12, 5]
    assert len(data["files"][0]["sha256"]) == 64
    assert "latent" in text_report(rows)


def test_a_half_line_at_the_end_does_not_count(folder):
    path = folder / "evaluate" / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "q9", "benc')
    assert len(read_evaluation(folder).records) == 12


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "line 13: no JSON object"),
        ("{", "line 13: no JSON object"),
        (json.dumps({"id": "x"}), "line 13: the record has no field 'benchmark'"),
        (json.dumps(record(0, length=8, exact=0.0)), "line 13: another record of q0 than before"),
    ],
)
def test_bad_lines_are_told(folder, line, told):
    path = folder / "evaluate" / "records.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError) as error:
        read_evaluation(folder)
    assert str(error.value).startswith(f"{path}, ") and told in str(error.value)


def test_no_records(tmp_path):
    with pytest.raises(InputError, match=r"records.jsonl is missing; run experiments\.evaluate"):
        read_evaluation(tmp_path)
    with pytest.raises(InputError, match="holds no records yet"):
        read_evaluation(write(tmp_path, []))
