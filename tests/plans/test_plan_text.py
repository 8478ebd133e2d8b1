"""Plans as text and as plain values."""

import json

from rmas.plans.plan import Exchange, MeshChoice, Need, Plan, Time

GIB = 1 << 30
PLAN = Plan(
    stage="evaluate",
    system="sequential",
    devices="v5e:2x4",
    mesh="data=4,fsdp=1,tensor=2",
    numbers="bfloat16",
    settings="batch 8",
    needs=(
        Need("think", {"weights": 4 * GIB, "activations": GIB}, 5 * GIB),
        Need("decode chunk", {"weights": 4 * GIB, "caches": 2 * GIB}, 6 * GIB),
    ),
    available=16 * GIB,
    times=(Time("token", 0.004, 0.002), Time("all", 2.5, None)),
    exchanges=(Exchange("think", 1200, 3_000_000_000), Exchange("decode chunk", 0, 0)),
)


def test_a_plan_that_fits():
    assert PLAN.fits
    assert PLAN.peak == 6 * GIB
    lines = [" ".join(line.split()) for line in str(PLAN).splitlines()]
    assert lines[0] == "evaluation of sequential, mesh data=4,fsdp=1,tensor=2, bfloat16, v5e:2x4"
    for line in (
        "each device weights caches activations total bytes",
        "think 4.000 GiB - 1.000 GiB 5.000 GiB 5,368,709,120",
        "decode chunk 4.000 GiB 2.000 GiB - 6.000 GiB 6,442,450,944",
        "fits: 6.00 GiB of 16.00 GiB, 10.00 GiB are left",
        "token 4.00 ms 2.00 ms",
        "all 2.50 s -",
        "not in the estimates: 1,200 exchanges between devices, 3.00 GB, in think",
    ):
        assert line in lines
    assert "in decode chunk" not in PLAN.text


def test_a_plan_that_does_not_fit_is_one_line():
    problem = "does not fit: think of sequential"
    plan = Plan("outer", "s", "v5e:2x4", "data=8", "bfloat16", "", problem=problem, available=1)
    assert plan.fits is False
    assert plan.text == problem
    assert plan.peak is None


def test_without_a_known_memory_nothing_is_said_about_fitting():
    plan = Plan("outer", "s", "8 CPU devices", "data=8", "float32", "", PLAN.needs)
    assert plan.fits is None
    assert "fits" not in plan.text


def test_meshes_are_a_table():
    choices = (
        MeshChoice("data=4,fsdp=1,tensor=2", 2, GIB, 0.001, 2 * GIB, True, 0.004),
        MeshChoice("data=8,fsdp=1,tensor=1", 1, 2 * GIB, 0.002),
        MeshChoice("data=16,fsdp=1,tensor=1", 0.5, 2 * GIB, 2e-5, divides=False),
    )
    plan = Plan("outer", "s", "v5e:2x4", "m", "n", "", meshes=choices, measured="outer step")
    rows = [" ".join(line.split()) for line in plan.text.splitlines()]
    assert "data=4,fsdp=1,tensor=2 2 1.000 GiB 2.000 GiB yes 4.00 ms 1.00 ms" in rows
    assert "data=8,fsdp=1,tensor=1 1 2.000 GiB - not compiled - 2.00 ms" in rows
    assert "data=16,fsdp=1,tensor=1 0.5 2.000 GiB - batch does not divide - 20.00 us" in rows


def test_json_says_the_same():
    values = json.loads(json.dumps(PLAN.to_dict()))
    assert values["fits"] is True
    assert values["peak"] == 6 * GIB
    assert values["needs"][1]["parts"] == {"weights": 4 * GIB, "caches": 2 * GIB}
    assert values["times"][0] == {"what": "token", "estimate": 0.004, "floor": 0.002}
