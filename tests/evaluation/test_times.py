"""Times are compared within groups, and what makes them doubtful is told."""

import math

import pytest

from rmas.evaluation.records import read_evaluations
from rmas.evaluation.reporting import make_report
from rmas.evaluation.summary import summarise
from rmas.evaluation.times import time_warnings
from support.evaluations import alone, record, timing, write

METHODS = ("latent", "text_terse", "text")
QUESTIONS = 16  # in groups of two
BUSY = range(2, 6)  # of eight groups: their times are three times as long


def run(tmp_path, methods, seconds, change=lambda method, n, line: line, tokens=10):
    """An evaluation: `seconds(method, n)` is the time of group n; half of it thinks or writes."""
    records, timings = [], []
    for n in range(QUESTIONS // 2):
        for method in methods:
            length = None if method.startswith("text") else 8
            asked = (2 * n, 2 * n + 1)
            records += [record(q, method, length=length, tokens=tokens) for q in asked]
            spent = seconds(method, n)
            phase = "think" if length else "write"
            phases = {phase: spent / 2, "render": spent / 8}
            line = timing(method, 2 * n, asked, spent, length=length, phases=phases)
            timings.append(change(method, n, line))
    return write(tmp_path, records, timings)


def warnings_of(workdir):
    found = read_evaluations([workdir])
    rows = summarise(found)
    return time_warnings(found, rows).get("gsm8k", []), {r["method"]: r for r in rows["gsm8k"]}


def steady(method, n):
    """Text takes three times as long as latents; groups differ a little."""
    return (3.0 if method == "text" else 1.0) * (1 + 0.02 * (n % 3))


def test_a_steady_machine_is_not_doubted(tmp_path):
    lines, rows = warnings_of(run(tmp_path, ("latent", "text", "untrained"), steady))
    assert lines == []
    found = rows["latent"]["against_text"]
    assert found["time_ratio"]["value"] == pytest.approx(3)
    assert (found["groups"], found["unpaired"]) == (8, 0)


def test_a_busy_period_falls_on_all_methods(tmp_path):
    """Methods that take turns keep their ratio; one after the other they would not."""

    def busy(method, n):
        return steady(method, n) * (3 if n in BUSY else 1)

    lines, rows = warnings_of(run(tmp_path / "turns", ("latent", "text"), busy))
    ratio = rows["latent"]["against_text"]["time_ratio"]
    assert ratio["value"] == pytest.approx(3) and ratio["high"] < 3.01
    assert len(lines) == 1
    differ = "groups of the same shape differ in the seconds of `think`"
    assert lines[0].startswith(f"{differ}: latent r=1 3.1 times; ")
    assert "other work ran on the machine" in lines[0]

    def falls_on_text(method, n):
        return steady(method, n) * (3 if method == "text" else 1)

    def in_earlier_order(method, n, line):
        return alone(line)

    old = run(tmp_path / "old", ("latent", "text"), falls_on_text, in_earlier_order)
    lines, rows = warnings_of(old)
    assert rows["text"]["seconds"] / rows["latent"]["seconds"] == pytest.approx(9)
    assert rows["latent"]["against_text"]["time_ratio"] is None
    assert lines == [
        "latent r=1: 8 of 8 groups cannot be paired with text exchange, since an earlier version "
        "timed one method after the other; there is no time ratio"
    ]


def test_a_group_that_was_disturbed_widens_the_interval(tmp_path):
    def disturbed(method, n):
        return steady(method, n) * (4 if (method, n) == ("text", 0) else 1)

    lines, rows = warnings_of(run(tmp_path, ("latent", "text"), disturbed))
    ratio = rows["latent"]["against_text"]["time_ratio"]
    # Eight ratios of 3, but one of 12; Student's t of seven degrees of freedom.
    mean, deviation = math.log(3) + math.log(4) / 8, math.log(4) / math.sqrt(8)
    half = 2.364624 * deviation / math.sqrt(8)
    ends = math.exp(mean - half), math.exp(mean + half)
    assert (ratio["low"], ratio["high"]) == pytest.approx(ends, rel=1e-5)
    assert ratio["low"] < 3 < ratio["high"]
    assert lines == []


def test_trained_and_untrained_links_think_alike(tmp_path):
    def disturbed(method, n):
        return steady(method, n) * (1.6 if method == "untrained" and n in BUSY else 1)

    lines, _ = warnings_of(run(tmp_path, ("latent", "untrained"), disturbed))
    assert [line.split(";")[0] for line in lines] == [
        "groups of the same shape differ in the seconds of `think`: untrained r=1 1.7 times",
        "trained and untrained links differ in `think`, which is the same computation: latent r=1 "
        "up to 1.6 times within 4 of 8 groups",
    ]


def test_only_groups_of_one_shape_are_held_against_each_other(tmp_path):
    """Longer questions take longer, and so do more of them."""

    def longer(method, n, line):
        return line | {"bucket": 64 if n < 4 else 512}

    def seconds(method, n):
        return 1.0 if n < 4 else 5.0

    workdir = run(tmp_path / "1", ("latent", "text", "untrained"), seconds, longer)
    assert warnings_of(workdir)[0] == []
    lines, _ = warnings_of(run(tmp_path / "2", ("latent",), seconds))
    assert len(lines) == 1 and "5.0 times" in lines[0]


def test_unpaired_groups_are_counted_once_each(tmp_path):
    """A time that one method lacks, and a time that the other lacks, are two."""
    workdir = run(tmp_path, ("latent", "text"), steady)
    path = workdir / "evaluate" / "timings.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lost = (lines[0], lines[3])  # latent's first, text's second
    path.write_text("".join(line for line in lines if line not in lost))
    told, rows = warnings_of(workdir)
    found = rows["latent"]["against_text"]
    assert (found["groups"], found["unpaired"]) == (6, 2)
    assert len(told) == 1 and "2 of 8 groups cannot be paired" in told[0]


def test_a_time_of_zero_is_told(tmp_path):
    def stopped(method, n):
        return 0.0 if (method, n) == ("latent", 0) else steady(method, n)

    told, rows = warnings_of(run(tmp_path, ("latent", "text"), stopped))
    assert rows["latent"]["against_text"]["groups"] == 7
    assert len(told) == 1 and "one of the two times is missing or zero, or" in told[0]


def test_times_that_are_missing_or_of_another_machine_or_session_are_told(tmp_path):
    """As where a run was killed while methods answered a group in turn."""

    def elsewhere(method, n, line):
        later = (method, n) in (("text", 3), *((m, k) for m in METHODS for k in range(4, 8)))
        return line | {
            "machine": "B" if (method, n) == ("text", 7) else "A",
            "session": "second" if later else "first",
        }

    workdir = run(tmp_path, METHODS, steady, elsewhere)
    path = workdir / "evaluate" / "timings.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line != lines[2]))  # text's first
    told, rows = warnings_of(workdir)
    assert rows["latent"]["against_text"]["groups"] == 5
    assert rows["latent"]["against_text"]["time_ratio"]["value"] == pytest.approx(3)
    assert told == [
        "latent r=1, text_terse r=1: 3 of 8 groups cannot be paired with text exchange, since one "
        "of the two times is missing or zero, or of another machine or session; time ratios are "
        "over the other 5"
    ]


def test_the_report_shows_them(tmp_path, monkeypatch):
    monkeypatch.setattr("rmas.evaluation.plots.can_draw", lambda: False)
    workdir = run(tmp_path, ("latent", "text"), steady, lambda method, n, line: alone(line))
    report = make_report([workdir])
    (line,) = report.warnings["gsm8k"]
    text = (workdir / "report" / "report.md").read_text()
    assert f"### Doubtful times\n\n- {line}\n" in text
    assert make_report([run(tmp_path, ("latent", "text"), steady)]).warnings == {}
    assert "Doubtful" not in (workdir / "report" / "report.md").read_text()
