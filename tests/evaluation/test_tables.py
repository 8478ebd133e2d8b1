"""The report's text says what the rows say, and nothing in a name acts in it."""

import json

import pytest

from rmas.errors import InputError
from rmas.evaluation.comparison import compare
from rmas.evaluation.records import read_evaluations
from rmas.evaluation.reporting import write_report
from rmas.evaluation.tables import markdown_report, text_report
from support.evaluations import record, timing, write


def both(*workdirs, k=None):
    found = read_evaluations(workdirs)
    rows = compare(found, k)
    return rows, found.files


@pytest.fixture
def workdir(tmp_path):
    """Text with four times the tokens and thrice the time; two batches of two questions."""
    records = [record(q, length=8) for q in range(4)]
    records += [record(q, "text", tokens=40, exact=float(q > 1)) for q in range(4)]
    times = [timing("latent", s, [s, s + 1], 1.0, length=8) for s in (0, 2)]
    times += [timing("text", s, [s, s + 1], 3.0) for s in (0, 2)]
    return write(tmp_path / "run", records, times)


def cells(text, method):
    """Cells of the first line of a method in a Markdown table."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_of_results(workdir):
    rows, files = both(workdir)
    text = markdown_report(rows, files)
    assert cells(text, "latent") == [
        "latent", "1", "8", "1.000 [0.510, 1.000]", "20.0", "16.0", "0.5",
        "4.00 [4.00, 4.00]", "3.00 [3.00, 3.00]", "+0.500 [+0.000, +1.000]", "0.5", "4",
    ]  # fmt: skip
    assert cells(text, "text")[7:] == ["-", "-", "-", "-", "4"]
    assert "latent    1          8" not in text
    lines = text_report(rows).splitlines()
    assert lines[0] == "gsm8k"
    assert len({len(line) for line in lines[1:]}) == 1
    assert "4.00 [4.00, 4.00]  3.00 [3.00, 3.00]" in lines[3]
    for file in (file for pair in files for file in pair):
        assert f"{file.path}: {file.lines} lines; sha256 `{file.sha256}`" in text


def test_tables_have_as_many_cells_as_heads(workdir):
    text = markdown_report(*both(workdir))
    heads = [line for line in text.splitlines() if line.startswith("| method")]
    assert len(heads) == 2  # results, costs
    block = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.count("|"))
            continue
        assert len(set(block)) <= 1
        block = []


def test_scores_are_told_where_they_differ(tmp_path):
    same = markdown_report(*both(write(tmp_path / "1", [record(0), record(1, exact=0.0)])))
    assert "Ours and the public release's agree on every record." in same
    assert "first integer" not in same.split("## What the columns say")[0]
    for name, reason in (
        ("math500", "it compares the first integers of both answers"),
        ("gpqa", "it takes an answer that cannot be read for A"),
        ("mine", "its rules read some answers otherwise"),
    ):
        differ = {"exact": 0.0, "release_compatible": 1.0, "f1": 0.25}
        records = [record(0, benchmark=name, answer=None, note="timeout", scores=differ)]
        text = markdown_report(*both(write(tmp_path / name, records)))
        scores = text.split("### Scores")[1].split("### What it took")[0]
        assert cells(scores, "latent") == ["latent", "1", "-", "0.000", "1.000", "0", "1"]
        assert reason in scores
        assert "| latent | 1 | - | 0.250 |" in scores
        assert "| latent | 1 | - | 1 | 0 | timeout 1 |" in scores


def test_pass_at_k_and_lengths(tmp_path):
    records = [record(0, length=m, rollout=n, exact=float(n == 0)) for m in (8, 16) for n in (0, 1)]
    records += [record(0, "text")]
    text = markdown_report(*both(write(tmp_path, records)))
    assert "| accuracy | pass@k | decoded tokens |" in text
    results = [line for line in text.splitlines() if line.startswith("| latent | 1 |")][:2]
    assert [line.split("|")[3].strip() for line in results] == ["8", "16"]
    assert all("| 1.000 (k=2) |" in line for line in results)
    assert cells(text, "text")[4] == "-"


def test_positions_that_are_estimated_are_told(tmp_path):
    line = record(0)
    del line["agents"]["a"]["positions"]
    text = markdown_report(*both(write(tmp_path, [line, record(1)])))
    assert "1 records do not tell their positions" in text
    assert "do not tell" not in markdown_report(*both(write(tmp_path / "2", [record(1)])))


def test_names_are_shown_as_they_are(tmp_path):
    name = "<b>|[x](http://e.org)`*![y](z)"
    records = [record(0, method=name, benchmark=name, note="<i>\x1b[2J")]
    text = markdown_report(*both(write(tmp_path, records)))
    safe = "\\<b\\>\\|\\[x\\](http://e.org)\\`\\*\\!\\[y\\](z)"
    assert f"## {safe}\n" in text and f"| {safe} |" in text
    assert "\\<i\\>\\\\x1b[2J" in text and "\x1b" not in text
    assert "<b>" not in text.replace("\\<b", "")


def test_report_in_a_folder(workdir, tmp_path):
    pytest.importorskip("matplotlib")
    rows, files = both(workdir)
    out = tmp_path / "deep" / "out"
    paths = write_report(rows, files, out)
    plots = ["accuracy_rounds.png", "accuracy_tokens.png", "time_phases.png"]
    assert [path.name for path in paths] == ["report.md", "report.json", *plots]
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {path.name for path in paths}
    assert all(f"![]({name})" in first["report.md"].decode() for name in plots)
    data = json.loads(first["report.json"])
    assert data["benchmarks"] == rows
    assert data["plots"] == {"gsm8k": plots}
    assert [(f["kind"], f["lines"]) for f in data["files"]] == [("records", 8), ("timings", 4)]
    write_report(rows, files, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_plots_of_several_benchmarks(tmp_path):
    pytest.importorskip("matplotlib")
    names = ["gsm8k", "../../up", "up"]
    workdirs = [write(tmp_path / str(n), [record(0, benchmark=b)]) for n, b in enumerate(names)]
    paths = write_report(*both(*workdirs), tmp_path / "out")
    assert {path.name for path in paths[2:]} == {
        f"{start}{name}.png"
        for start in ("gsm8k_", "_up_1_", "up_")
        for name in ("accuracy_rounds", "accuracy_tokens")
    }
    assert {path.parent for path in paths} == {tmp_path / "out"}


def test_folder_that_cannot_be_written(workdir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"report in .*file/out cannot be written: Not a dir"):
        write_report(*both(workdir), tmp_path / "file" / "out")
