"""The benchmark of compile time, on little."""

import json

import pytest

from support.commands import run

LITTLE = ("--base=1,1,1", "--rows=2", "--prompt_tokens=8", "--latent_steps=2")


def test_points_and_slopes(tmp_path):
    path = tmp_path / "times.json"
    flags = (*LITTLE, "--layers=1,2", "--rounds=2", "--agents=", f"--json={path}")
    done = run("benchmarks.compile_time", *flags)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == json.loads(path.read_text())
    assert [(p["varied"], p["program"], p["layers"], p["rounds"]) for p in told["points"]] == [
        ("layers", "think", 1, 1),
        ("layers", "decode", 1, 1),
        ("layers", "think", 2, 1),
        ("layers", "decode", 2, 1),
        ("rounds", "think", 1, 2),
    ]
    for point in told["points"]:
        assert min(point[name] for name in ("lowering", "compiling", "cpu", "operations")) > 0
    one, two = (p for p in told["points"] if p["program"] == "decode")
    wanted = {name: two[name] - one[name] for name in ("lowering", "compiling", "cpu")}
    assert told["slopes"].keys() == {"think per layer", "decode per layer"}
    assert told["slopes"]["decode per layer"] == pytest.approx(wanted)
    head = done.stdout.splitlines()[0].split()
    assert head[:6] == ["varied", "program", "layers", "rounds", "agents", "operations"]


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--layers=2,x", "--layers=2,x; wanted numbers above 0, as in 8,32"),
        ("--rounds=0", "--rounds=0; wanted numbers above 0, as in 8,32"),
        ("--base=2,2", "--base=2,2; wanted layers, rounds and agents: 4,2,2"),
        ("--layers= --rounds= --agents=", "are all empty; name numbers, as in 2,4"),
        ("--json=/nowhere/times.json", "there is no folder /nowhere"),
        ("--mesh=data=3", "data=3"),
    ],
)
def test_wrong_flags(flag, line):
    done = run("benchmarks.compile_time", *flag.split())
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
