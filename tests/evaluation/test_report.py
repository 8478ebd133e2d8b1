import json
import random

import pytest

from rmas.errors import InputError
from rmas.evaluation import report
from rmas.evaluation.intervals import wilson


def record(question, method="latent", rounds=3, rollout=0, exact=1.0, **more):
    return {
        "schema": 1,
        "id": f"relay-{question:06d}",
        "benchmark": "relay",
        "method": method,
        "rounds": rounds,
        "rollout": rollout,
        "agents": {
            "planner": {"prompt_tokens": 31, "latent_steps": 24, "decoded_tokens": 0},
            "solver": {"prompt_tokens": 40, "latent_steps": 16, "decoded_tokens": 20 + question},
        },
        "scores": {"exact": exact, "release_compatible": 0.0},
        **more,
    }


def test_one_row():
    records = [record(0), record(1), record(2, exact=0.0), record(3)]
    low, high = wilson(3, 4)
    assert report.summarise(records, ceilings={3: 0.9}, seconds={("latent", 3): 0.5}) == [
        {
            "method": "latent",
            "rounds": 3,
            "latent_length": None,
            "accuracy": 0.75,
            "accuracy_low": low,
            "accuracy_high": high,
            "ceiling": 0.9,
            "decoded_tokens": 21.5,
            "latent_steps": 40.0,
            "prompt_tokens": 71.0,
            "seconds_per_100": 12.5,
            "n": 4,
        }
    ]
    assert report.summarise(records, score="release_compatible")[0]["accuracy"] == 0.0


def test_order_of_rows_and_no_dependence_on_order_of_records():
    methods = ["latent", "text", "text_terse", "single:critic", "single:planner", "untrained"]
    records = [
        record(q, m, r, exact=random.Random(q).random())
        for m in [*methods, "new"]
        for r in (1, 2, 10)
        for q in range(7)
    ]
    rows = report.summarise(records)
    expected = [(m, r) for m in [*methods, "new"] for r in (1, 2, 10)]
    assert [(row["method"], row["rounds"]) for row in rows] == expected
    random.Random(0).shuffle(records)
    assert report.summarise(records) == rows


def test_rollouts_of_a_question_count_once():
    records = [record(0, exact=1.0), record(0, rollout=1, exact=0.0), record(1, exact=1.0)]
    (row,) = report.summarise(records, seconds={("latent", 3): 3.0})
    assert (row["n"], row["accuracy"], row["seconds_per_100"]) == (2, 0.75, 150.0)


def test_every_latent_length_is_a_row_of_its_own():
    records = [record(q, exact=float(m == 16), latent_length=m) for m in (16, 8) for q in (0, 1)]
    seconds = {("latent", 3, 8): 1.0, ("latent", 3, 16): 3.0}
    short, long = report.summarise([*records, record(0, "text")], seconds=seconds)[:2]
    assert (short["method"], short["latent_length"], short["accuracy"]) == ("latent m=8", 8, 0.0)
    assert (long["method"], long["latent_length"], long["accuracy"]) == ("latent m=16", 16, 1.0)
    assert (short["seconds_per_100"], long["seconds_per_100"]) == (50.0, 150.0)
    (one,) = report.summarise(records[:2], seconds={("latent", 3): 3.0})
    assert (one["method"], one["latent_length"], one["seconds_per_100"]) == ("latent", 16, 150.0)


def test_a_line_given_twice_counts_once():
    assert report.summarise([record(0), record(1), record(0)])[0]["n"] == 2
    with pytest.raises(InputError, match="two different records of question relay-000000"):
        report.summarise([record(0), record(0, exact=0.0)])


def test_bad_records_are_named():
    broken = record(5)
    del broken["agents"]["solver"]["latent_steps"]
    with pytest.raises(InputError, match=r"record 2 \(relay-000005\) has no field 'latent_steps'"):
        report.summarise([record(0), broken])
    with pytest.raises(InputError, match=r"more than one benchmark \(gsm8k, relay\)"):
        report.summarise([record(0), record(1, benchmark="gsm8k")])
    with pytest.raises(InputError, match=r"scores.exact nan, not 0 to 1"):
        report.summarise([record(0, exact=float("nan"))])
    assert report.summarise([]) == []


def test_table_is_aligned_and_says_what_is_unknown():
    rows = report.summarise(
        [record(0), record(0, "single:planner", 1)], ceilings={3: 1.0}, seconds={}
    )
    lines = report.table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split("  ")[0] == "method"
    expected = "latent 3 1.000 0.207-1.000 1.000 20.0 40.0 71.0 - 1"
    assert lines[2].split() == expected.split()
    assert lines[3].split()[4] == "-"
    json.dumps(rows, allow_nan=False)


def test_markdown_has_one_cell_per_column():
    rows = report.summarise([record(0), record(0, "odd|name\x1b[2J")])
    lines = report.markdown(rows).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert lines[3].startswith("| odd\\|name\\x1b[2J |")
