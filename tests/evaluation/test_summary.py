"""Rows of hand-made evaluations, against figures worked out by hand."""

import json
import math
import random

import pytest

from rmas.errors import InputError
from rmas.evaluation.records import read_evaluations
from rmas.evaluation.statistics import bootstrap_ratio, difference, wilson
from rmas.evaluation.summary import summarise, summarise_workdir
from support.evaluations import alone, old, record, timing, write, write_ceilings


def rows_of(*workdirs, k=None):
    (rows,) = summarise(read_evaluations(workdirs), k).values()
    if len(workdirs) == 1 and k is None:
        assert summarise_workdir(workdirs[0]) == rows
    return rows


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def approximately(value, low, high):
    return pytest.approx(estimate(value, low, high), rel=1e-6)


def pair(questions=4, batch=2, seconds=(1.0, 3.0), **more):
    """Records and timings of latent (8 states) and text, in equal groups."""
    records, timings = [], []
    for method, length, tokens, spent in (
        ("latent", 8, 10, seconds[0]),
        ("text", None, 40, seconds[1]),
    ):
        for q in range(questions):
            records.append(record(q, method, length=length, tokens=tokens + q, **more))
        for start in range(0, questions, batch):
            asked = range(start, min(start + batch, questions))
            timings.append(timing(method, start, asked, spent * (1 + start), length=length))
    return records, timings


def test_what_a_method_reached_and_its_cost(tmp_path):
    records, timings = pair()
    records[1]["scores"] = {"exact": 0.0, "release_compatible": 1.0, "f1": 0.5}
    records[2] |= {"answer": None, "retried": True, "note": "timeout"}
    latent, text = rows_of(write(tmp_path, records, timings))
    assert (latent["name"], latent["latent_length"], latent["rounds"]) == ("latent", 8, 1)
    assert (latent["n"], latent["records"], latent["rollouts"]) == (4, 4, [1, 1])
    assert latent["accuracy"] == 0.75
    assert (latent["accuracy_low"], latent["accuracy_high"]) == wilson(3, 4)
    assert (latent["release_compatible"], latent["f1"]) == (1.0, None)  # not all records have f1
    assert (latent["ours_only"], latent["release_only"]) == (0, 1)
    assert (latent["unanswered"], latent["retried"], latent["notes"]) == (1, 1, {"timeout": 1})
    assert (latent["decoded_tokens"], text["decoded_tokens"]) == (23.0, 83.0)
    assert (latent["latent_steps"], text["latent_steps"]) == (16.0, 0.0)
    assert (latent["prompt_tokens"], latent["positions"]) == (60.0, 60.0)
    assert latent["reused_positions"] == 9.0
    # Groups of 1 + 3 seconds, over four questions; a quarter of a second each renders.
    assert (latent["seconds"], latent["timed"], latent["groups"]) == (1.0, 4, 2)
    assert (latent["cpu_seconds"], text["cpu_seconds"]) == (1.5, 4.5)
    assert (latent["compile"], latent["peak_bytes"]) == (1.0, 1 << 30)
    assert latent["phases"] == {"render": 0.125, "write": 0.875}
    assert latent["pass_k"] is None and text["against_text"] is None


def test_against_text(tmp_path):
    records, timings = pair()
    for wrong in (4, 5, 6):
        records[wrong]["scores"] |= {"exact": 0.0}
    found = rows_of(write(tmp_path, records, timings))[0]["against_text"]
    ours, theirs = [20 + 2 * q for q in range(4)], [80 + 2 * q for q in range(4)]
    ratio = bootstrap_ratio(theirs, ours)
    assert ratio[0] == 332 / 92
    assert found == {
        "n": 4,
        "groups": 2,
        "unpaired": 0,
        "token_ratio": estimate(*ratio),
        "position_ratio": estimate(1.0, 1.0, 1.0),
        "time_ratio": approximately(3.0, 3.0, 3.0),
        "difference": estimate(*difference([1] * 4, [0, 0, 0, 1])),
        "p": 0.25,
    }
    assert found["difference"]["value"] == 0.75


def test_times_are_compared_within_groups(tmp_path):
    """Eight questions in two groups of 1 and 4 against 4 and 4 seconds: ratios of 4 and 1."""
    records, timings = pair(questions=8, batch=4)
    timings = [line | {"seconds": s} for line, s in zip(timings, (1.0, 4.0, 4.0, 4.0), strict=True)]
    found = rows_of(write(tmp_path, records, timings))[0]["against_text"]
    half = 12.706205 * math.log(2)  # log 4 and 0 have the standard deviation log(2) * sqrt(2)
    ends = 2 * math.exp(-half), 2 * math.exp(half)
    assert found["time_ratio"] == approximately(2.0, *ends)
    assert (found["groups"], found["unpaired"]) == (2, 0)


def test_groups_of_other_questions_are_not_paired(tmp_path):
    """Three groups of two against two groups of three."""
    records, timings = pair(questions=6)
    threes = [timing("text", start, range(start, start + 3), 3.0) for start in (0, 3)]
    timings = [*timings[:3], *threes]
    found = rows_of(write(tmp_path, records, timings))[0]["against_text"]
    assert (found["time_ratio"], found["groups"], found["unpaired"]) == (None, 0, 5)


def test_one_group_has_a_ratio_but_no_interval(tmp_path):
    found = rows_of(write(tmp_path, *pair(questions=2)))[0]["against_text"]
    assert found["time_ratio"] == estimate(pytest.approx(3.0), None, None)
    assert found["groups"] == 1


def test_a_group_that_was_run_again_counts_once(tmp_path):
    records, timings = pair()
    again = [timing("text", 0, [0, 1], 99.0), *timings, timings[0]]
    assert rows_of(write(tmp_path / "1", records, again)) == rows_of(
        write(tmp_path / "2", records, timings)
    )


def test_only_what_both_completed_is_paired(tmp_path):
    """Of a run that goes on: text has not asked q3, and q2 but once."""
    records, timings = [], []
    for rollout in (0, 1):
        more, times = pair()
        records += [r | {"rollout": rollout} for r in more]
        timings += [t | {"rollout": rollout} for t in times]
    records = [r for r in records if (r["method"], r["id"]) != ("text", "q3")]
    records = [r for r in records if (r["method"], r["id"], r["rollout"]) != ("text", "q2", 1)]
    latent, text = rows_of(write(tmp_path, records, timings))
    assert (latent["n"], text["n"], text["rollouts"]) == (4, 3, [1, 2])
    found = latent["against_text"]
    assert found["n"] == 2
    assert found["token_ratio"]["value"] == (80 + 82) / (20 + 22)
    # The group of q2 and q3 is not known whole, so its time is nobody's.
    assert (text["timed"], found["groups"], found["unpaired"]) == (4, 2, 2)
    assert found["time_ratio"] == approximately(3.0, 3.0, 3.0)


def test_rollouts_and_pass_at_k(tmp_path):
    right = {0: {0}, 1: set(), 2: {0, 1, 3}}
    records = [record(q, rollout=n, exact=float(n in right[q])) for n in range(4) for q in range(3)]
    workdir = write(tmp_path, records)
    (row,) = rows_of(workdir, k=2)
    # Pairs without a right one: 3 of 6, all, none.
    assert row["pass_k"] == {"k": 2, "value": pytest.approx((0.5 + 0 + 1) / 3)}
    assert (row["n"], row["records"], row["accuracy"]) == (3, 12, pytest.approx(1 / 3))
    assert rows_of(workdir)[0]["pass_k"] == {"k": 4, "value": pytest.approx(2 / 3)}
    assert rows_of(workdir, k=5)[0]["pass_k"] is None
    write(tmp_path, [*records[:-1], record(2, rollout=3, exact=0.5)])
    assert rows_of(tmp_path, k=2)[0]["pass_k"] is None


def test_rollouts_are_tested_by_signs(tmp_path):
    records = [
        record(q, m, length=8 if m == "latent" else None, rollout=n, exact=float(x))
        for m, own in (("latent", "10111111"), ("text", "00010101"))
        for (q, n), x in zip([(q, n) for q in range(4) for n in (0, 1)], own, strict=True)
    ]
    found = rows_of(write(tmp_path, records))[0]["against_text"]
    assert found["difference"]["value"] == 0.5
    assert found["p"] == 2 / 16  # four halves of one sign, of 16 ways
    assert found["time_ratio"] is None and found["groups"] == 0


def test_text_of_the_same_rounds_is_the_reference(tmp_path):
    records = [
        record(q, m, r, tokens=10 * r) for m in ("latent", "text") for r in (1, 2) for q in (0, 1)
    ]
    records += [record(q, "latent", 3) for q in (0, 1)] + [record(0, "single:a", tokens=0)]
    rows = rows_of(write(tmp_path, records))
    names = [(row["name"], row["rounds"]) for row in rows]
    assert names == [*(("latent", r) for r in (1, 2, 3)), ("text", 1), ("text", 2), ("single:a", 1)]
    assert [row["against_text"] is None for row in rows] == [False, False, True, True, True, False]
    assert rows[1]["against_text"]["token_ratio"] == estimate(1.0, 1.0, 1.0)
    alone = rows[-1]["against_text"]
    assert (alone["n"], alone["token_ratio"], alone["time_ratio"]) == (1, None, None)
    assert alone["difference"] == estimate(0.0, None, None)


def test_nothing_in_common(tmp_path):
    records = [record(0, "latent"), record(1, "text")]
    found = rows_of(write(tmp_path, records))[0]["against_text"]
    assert found == {
        "n": 0, "groups": 0, "unpaired": 0, "token_ratio": None, "position_ratio": None,
        "difference": None, "p": None, "time_ratio": None,
    }  # fmt: skip


def test_every_latent_length_is_a_row(tmp_path):
    variants = (("latent", 2, 16), ("latent", 1, 16), ("latent", 2, 8), ("text", 2, None))
    records = [record(q, *variant) for q in (0, 1) for variant in variants]
    rows = rows_of(write(tmp_path, records))
    assert [(r["name"], r["rounds"], r["latent_length"]) for r in rows] == [
        ("latent m=8", 2, 8), ("latent m=16", 1, 16), ("latent m=16", 2, 16), ("text", 2, None),
    ]  # fmt: skip
    assert [r["against_text"] is None for r in rows] == [False, True, False, True]


def test_two_workdirs_are_not_compared(tmp_path):
    """They may be of two machines, and of two systems."""
    records, timings = pair()
    one = write(tmp_path / "1", records[:4], timings[:2])
    two = write(tmp_path / "2", records[4:], timings[2:])
    latent, text = rows_of(one, two)
    assert (latent["seconds"], text["seconds"]) == (1.0, 3.0)
    assert latent["against_text"]["n"] == 0
    assert latent["against_text"]["token_ratio"] is latent["against_text"]["time_ratio"] is None
    # A copy of a whole evaluation changes nothing.
    three = write(tmp_path / "3", records, timings)
    four = write(tmp_path / "4", records, timings)
    assert rows_of(three, four) == rows_of(three)
    assert rows_of(three)[0]["against_text"]["time_ratio"] == approximately(3.0, 3.0, 3.0)
    assert rows_of(three)[0]["against_text"]["token_ratio"]["value"] == 332 / 92


def test_times_of_two_machines_are_not_compared(tmp_path):
    """As where a killed run went on elsewhere; tokens are, and times of the same machine."""
    records, timings = pair()
    machines = ["1 A", "1 A", "1 B", "1 A"]
    timings = [line | {"machine": own} for line, own in zip(timings, machines, strict=True)]
    found = rows_of(write(tmp_path, records, timings))[0]["against_text"]
    assert (found["n"], found["groups"], found["unpaired"]) == (4, 1, 1)
    timings = [line | {"machine": "1 A"} for line in timings]
    found = rows_of(write(tmp_path, records, timings))[0]["against_text"]
    assert (found["n"], found["groups"], found["unpaired"]) == (4, 2, 0)


def test_other_data_of_one_name_are_refused(tmp_path):
    for name, data in (("1", "v1"), ("2", "v2")):
        write(tmp_path / name, *pair())
        config = {"data": {"version": data, "split": "test"}}
        (tmp_path / name / "evaluate" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="answers to different data, both named"):
        read_evaluations([tmp_path / "1", tmp_path / "2"])
    read_evaluations([tmp_path / "1"])


def test_every_benchmark_has_its_own_rows(tmp_path):
    records, timings = pair()
    other, _ = pair(benchmark="aime25", exact=0.0)
    one, two = write(tmp_path / "1", records, timings), write(tmp_path / "2", other)
    found = summarise(read_evaluations([one, two]))
    assert list(found) == ["aime25", "gsm8k"]
    assert [row["accuracy"] for row in found["aime25"]] == [0.0, 0.0]
    assert found["gsm8k"] == rows_of(one)
    both = write(tmp_path / "3", [*records, *other])
    with pytest.raises(InputError, match=r"several benchmarks \(aime25, gsm8k\)"):
        summarise_workdir(both)


def test_order_of_rows_and_no_dependence_on_the_order_of_records(tmp_path):
    methods = ["latent", "text", "text_terse", "single:critic", "single:planner", "untrained"]
    records = [
        record(q, method, rounds, exact=random.Random(q).random())
        for method in [*methods, "new"]
        for rounds in (1, 2, 10)
        for q in range(7)
    ]
    random.Random(1).shuffle(records)
    rows = rows_of(write(tmp_path / "1", records))
    expected = [(method, rounds) for method in [*methods, "new"] for rounds in (1, 2, 10)]
    assert [(row["method"], row["rounds"]) for row in rows] == expected
    random.Random(0).shuffle(records)
    # Bootstrap samples are drawn by index.
    plain = [row | {"against_text": None} for row in rows]
    again = rows_of(write(tmp_path / "2", records))
    assert [row | {"against_text": None} for row in again] == plain


def test_rollouts_of_a_question_count_once_and_a_line_given_twice_too(tmp_path):
    records = [record(0), record(0, rollout=1, exact=0.0), record(1), record(1)]
    (row,) = rows_of(write(tmp_path, records))
    assert (row["n"], row["records"], row["accuracy"]) == (2, 3, 0.75)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_ceilings(tmp_path):
    records = [record(q, m, r) for m in ("latent", "single:a") for r in (1, 2) for q in (0, 1)]
    workdir = write(tmp_path / "1", records)
    assert [row["ceiling"] for row in rows_of(workdir)] == [None] * 4
    write_ceilings(workdir, 2, {1: 0.5})
    assert [row["ceiling"] for row in rows_of(workdir)] == [0.5, None, 0.5, None]
    # Not of a method that did not answer all questions, as in a run that goes on.
    write(tmp_path / "1", records[:-1])
    write_ceilings(workdir, 2, {1: 0.5, 2: 1.0})
    assert [row["ceiling"] for row in rows_of(workdir)] == [0.5, 1.0, 0.5, None]


def test_ceilings_of_several_workdirs(tmp_path):
    """A row that no workdir has whole is of other questions than a ceiling."""
    one = write(tmp_path / "1", [record(0), record(1)])
    two = write(tmp_path / "2", [record(1), record(2)])
    three = write(tmp_path / "3", [record(1)])
    for workdir, n in ((one, 2), (two, 2), (three, 1)):
        write_ceilings(workdir, n, {1: n / 4})
    assert rows_of(one, two)[0]["ceiling"] is None
    assert rows_of(one, three)[0]["ceiling"] == rows_of(three, one)[0]["ceiling"] == 0.5


def test_schema_1(tmp_path):
    records, timings = pair()
    latent, text = rows_of(write(tmp_path, map(old, records), map(old, timings)))
    assert (latent["latent_length"], latent["positions_estimated"]) == (None, 4)
    assert latent["positions"] == 60 + 16 + 23
    assert (latent["seconds"], text["seconds"]) == (1.0, 3.0)
    assert (latent["compile"], latent["phases"], latent["peak_bytes"]) == (None, {}, None)
    assert (latent["cpu_seconds"], latent["against_text"]["time_ratio"]) == (None, None)
    assert (latent["against_text"]["groups"], latent["against_text"]["unpaired"]) == (0, 2)


def test_times_of_methods_that_did_not_take_turns_have_no_ratio(tmp_path):
    """Schema 3: the load of the machine may have fallen on one of them."""
    records, timings = pair()
    latent, text = rows_of(write(tmp_path / "1", records, map(alone, timings)))
    assert (latent["seconds"], text["seconds"], latent["cpu_seconds"]) == (1.0, 3.0, None)
    found = latent["against_text"]
    assert (found["time_ratio"], found["groups"], found["unpaired"]) == (None, 0, 2)
    assert found["token_ratio"]["value"] == 332 / 92
    # Continued by this version: what was answered in turn counts.
    timings = [alone(timings[0]), timings[1], alone(timings[2]), timings[3]]
    found = rows_of(write(tmp_path / "2", records, timings))[0]["against_text"]
    assert (found["groups"], found["unpaired"]) == (1, 1)


def test_cpu_seconds_are_of_runs_without_an_accelerator(tmp_path):
    records, timings = pair()
    for name, change in (("1", {"accelerator": True}), ("2", {"cpu_seconds": 0.0})):
        changed = [timings[0] | change, *timings[1:]]
        latent, text = rows_of(write(tmp_path / name, records, changed))
        assert latent["cpu_seconds"] == (None if name == "1" else 4.5 / 4)
        assert text["cpu_seconds"] == 4.5
