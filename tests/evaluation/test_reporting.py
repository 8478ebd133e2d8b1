"""Summaries and reports as files, and remarks on what is missing."""

import json

import pytest

from rmas.checksums import read_checked
from rmas.errors import InputError
from rmas.evaluation.records import read_evaluations
from rmas.evaluation.reporting import make_report, write_report, write_summary
from rmas.evaluation.summary import summarise, summarise_workdir
from support.evaluations import compared, record, write


def both(*workdirs):
    found = read_evaluations(workdirs)
    return summarise(found), found.files


@pytest.fixture
def workdir(tmp_path):
    return compared(tmp_path / "run")


def test_summary(workdir):
    rows = write_summary(workdir, {"asked": 4})
    assert rows == summarise_workdir(workdir)
    assert read_checked(workdir / "evaluate" / "summary.json") == {
        "data": {"asked": 4},
        "records": 8,
        "rows": rows,
    }


def test_one_workdir_by_any_name(workdir, monkeypatch):
    monkeypatch.setattr("rmas.evaluation.plots.can_draw", lambda: False)
    report = make_report([workdir, workdir / ".." / "run"])
    assert report.rows == both(workdir)[0]
    out = workdir / ".." / "run" / "report"
    assert report.paths == [out / "report.md", out / "report.json"]
    assert list(map(str, report.remarks)) == [
        f"unfinished: the evaluation in {workdir / '..' / 'run'} has not ended; give its command "
        "again",
        "no plots: they need matplotlib, pip install -e '.[plots]'",
    ]
    write_summary(workdir, {})
    assert make_report([workdir]).remarks == report.remarks[1:]


def test_remarks_on_several_workdirs(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("rmas.evaluation.plots.can_draw", lambda: False)
    (workdir / "evaluate" / "summary.json").write_text('{"records": 9, "rows": []}')
    empty = write(tmp_path / "empty", [])
    report = make_report([empty, workdir], tmp_path / "out")
    assert report.remarks[:2] == [
        f"left out: the evaluation in {empty} has no records yet",
        f"unfinished: the evaluation in {workdir} has 8 of its 9 records; give its command again",
    ]


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "short"])
def test_a_remark_on_times_that_are_lost(damage, workdir, monkeypatch):
    monkeypatch.setattr("rmas.evaluation.plots.can_draw", lambda: False)
    write_summary(workdir, {})
    path = workdir / "evaluate" / "timings.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    left = {"cut": "".join(lines)[: -len(lines[-1]) // 2], "short": "".join(lines[:-1])}
    path.write_text(left.get(damage, ""))
    if damage == "gone":
        path.unlink()
    (remark, _) = make_report([workdir]).remarks
    lost = 8 if damage in ("emptied", "gone") else json.loads(lines[-1])["n"]
    assert remark == f"no times of {lost} of 8 records in {path}"


def test_settings_that_make_no_report(workdir, tmp_path):
    for workdirs, k, message in (
        ([], None, "at least one workdir"),
        ([workdir, tmp_path], None, "several workdirs needs a folder"),
        ([workdir], 2, "k of pass@k is 2; it must be from 1 to 1"),
        ([workdir], 0, "k of pass@k is 0"),
        ([write(tmp_path / "empty", [])], None, "has no records yet"),
    ):
        with pytest.raises(InputError, match=message):
            make_report(workdirs, k=k)
    assert not (workdir / "report").exists()


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
    assert [(f["kind"], f["lines"]) for f in data["files"]] == [
        ("records", 8), ("timings", 4), ("ceilings", 6),
    ]  # fmt: skip
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
