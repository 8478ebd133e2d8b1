"""The table of released systems on slices: resumed by cell, cells without a compiler's help."""

import json
import re

import pytest

from experiments import plan_cells
from rmas.errors import InputError
from support.commands import run

ONE = ["--styles=mixture", "--slices=v5e:1x1", "--stages=evaluate", "--mesh=single"]


def cell(**changes):
    own = {"stage": "evaluate", "slice": "v5e:2x4", "style": "mixture", "batch": 32}
    return own | changes


def test_the_table_has_a_line_for_every_cell():
    times = [
        {"what": "latent step of a", "estimate": 0.005, "floor": 0.0025},
        {"what": "latent step of b", "estimate": 0.008, "floor": 0.002},
        {"what": "token of a", "estimate": 0.004, "floor": 0.002},
    ]
    fits = {"fits": True, "peak": 3 << 30, "available": 15 << 30, "mesh": "data=8,fsdp=1,tensor=1"}
    problem = "does not fit: think of mixture, mesh data=8: 20 GiB; use more tensor"
    cells = [
        (cell(), {"plan": fits | {"times": times}}),
        (cell(stage="outer"), {"plan": {"fits": False, "problem": problem}}),
    ]
    rows = [" ".join(line.split()) for line in plan_cells.table(cells).splitlines()]
    assert rows[0] == "evaluation, estimates (floors):"
    fitting = "mixture 32 data=8,tensor=1 3.0 of 15.0 8 ms (2) 4 ms (2) -"
    assert f"v5e:2x4 {fitting}" in rows
    assert rows[-1] == "v5e:2x4 mixture 32 - think of mixture, mesh data=8: 20 GiB -"
    page = plan_cells.table(cells, markdown=True).splitlines()
    assert page[2].startswith("| slice | style | batch | mesh | GiB of a device | latent step |")
    assert page[4].endswith("| 3.0 of 15.0 | 8 ms (2) | 4 ms (2) | - |")


LINES = [{"cell": cell(batch=n), "plan": {"fits": False}, "seconds": 1.0} for n in (1, 2, 3)]
TEXT = "".join(json.dumps(line) + "\n" for line in LINES[:2])


def add_the_third(path, half):
    with path.open("a+") as file:
        plan_cells.append(file, LINES[2]["cell"], {"plan": {"fits": False}, "seconds": 1.0}, half)


@pytest.mark.parametrize("half", ["", '{"cell": {"st', "{", json.dumps(LINES[2])])
def test_lines_are_read_back_and_half_a_line_is_replaced(tmp_path, half):
    path = tmp_path / "cells.jsonl"
    path.write_text(TEXT + half)
    found, rest = plan_cells.read(path)
    assert list(found) == [plan_cells.key(line["cell"]) for line in LINES[:2]]
    assert path.read_text() == TEXT + half
    add_the_third(path, rest)
    assert path.read_text() == TEXT + json.dumps(LINES[2]) + "\n"
    assert len(plan_cells.read(path)[0]) == 3
    assert plan_cells.read(tmp_path / "none") == ({}, b"")


def test_half_of_the_only_line_is_replaced(tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text('{"cell": {"st')
    add_the_third(path, plan_cells.read(path)[1])
    assert path.read_text() == json.dumps(LINES[2]) + "\n"


@pytest.mark.parametrize("now", [TEXT, "", TEXT + '{"cell"'])
def test_lines_of_another_process_stay(tmp_path, now):
    """What is there when a cell is added need not be what was read minutes before."""
    path = tmp_path / "cells.jsonl"
    path.write_text(now)
    add_the_third(path, b'{"cell": {"st')
    assert path.read_text() == now + json.dumps(LINES[2]) + "\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--styles=none"], "--styles names 'none'; known: deliberation, "),
        (["--stages=think"], "--stages names 'think'; known: inner, outer, evaluate"),
        (["--slices=v5litepod-8"], "write its shape: v5e:2x4"),
        (["--mesh=bogus"], "mesh 'bogus': unknown axis 'bogus'; known: data, fsdp, tensor"),
        (["--objective=bogus"], "objective 'bogus': 'bogus' is unknown or repeated"),
        (["--slices="], "--styles, --slices and --stages must name at least one each"),
    ],
)
def test_unknown_cells_are_one_line(tmp_path, flags, message):
    refused(tmp_path / "new" / "x.jsonl", flags, message)
    assert list(tmp_path.iterdir()) == []


def refused(path, flags, message):
    done = run("plan_released", *flags, f"--out={path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slices=v5e:2x2,v5e:2x4"], "mesh data=4,fsdp=1,tensor=1 needs 4 devices, but there"),
        (["--slices=v4:2x2x4"], "mesh data=4,fsdp=1,tensor=1 needs 4 devices, but there are 16"),
        (["--slices=v5e:2x3"], "topology v5e:2x3: the compiler knows no such slice"),
    ],
)
def test_slices_that_the_mesh_does_not_suit_are_one_line(tmp_path, flags, message):
    refused(tmp_path / "new" / "x.jsonl", ["--mesh=data=4", "--stages=inner", *flags], message)
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_of_nobody_is_one_line():
    done = run("plan_released", *ONE, "--out=~nosuchuser/x.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ~nosuchuser/x.jsonl: the home folder of nosuchuser is")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", ":1 is not a cell of this command; delete the line, or name another --out"),
        ("my notes", " ends in what is not half a cell of this command; delete that, or name"),
        ("{", " ends in what is not half a cell"),
        (TEXT + "my notes", " ends in what is not half a cell"),
        (TEXT + 'my notes\n{"cell": {"st', ":3 is not a cell"),
    ],
)
def test_a_file_of_something_else_is_refused_as_it_is(tmp_path, text, message):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{path}{message}")):
        plan_cells.read(path)
    assert path.read_text() == text


def test_wrong_flags_leave_the_file_alone(tmp_path):
    path = tmp_path / "x.jsonl"
    for text, message in ((TEXT + '{"cell": {"st', "must name at least one"), ("my notes", "ends")):
        path.write_text(text)
        refused(path, ["--slices="], message)
        assert path.read_text() == text


@pytest.mark.tpu
def test_a_cell_is_planned_once(tmp_path):
    out = tmp_path / "folder" / "cells.jsonl"
    first = run("plan_released", *ONE, f"--out={out}")
    assert first.returncode == 0, first.stderr
    assert "1 of 1: evaluate, v5e:1x1, mixture" in first.stderr
    (line,) = out.read_text().splitlines()
    assert {"rmas", "jax", "libtpu"} <= set(json.loads(line)["cell"])
    assert json.loads(line)["plan"]["fits"] is False
    again = run("plan_released", *ONE, f"--out={out}")
    assert "1 of 1" not in again.stderr
    assert again.stdout == first.stdout
    assert out.read_text() == line + "\n"


@pytest.mark.tpu
def test_a_batch_that_does_not_divide_is_a_result(tmp_path):
    out = tmp_path / "cells.jsonl"
    flags = ["--styles=mixture", "--slices=v5e:2x2", "--stages=inner", "--mesh=data=4"]
    done = run("plan_released", *flags, "--batch=3", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "inner.batch_size is 3; on this mesh it must be a multiple of 4" in done.stdout
    assert json.loads(out.read_text())["plan"]["fits"] is False


@pytest.mark.tpu
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "x.jsonl", ONE, "x.jsonl: a file is where its folder should be")
