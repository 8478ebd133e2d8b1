"""The table of released systems on slices: resumed by cell, cells without a compiler's help."""

import json

import pytest

from experiments import plan_cells
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


def test_lines_are_read_back_and_half_a_line_is_taken_off(tmp_path):
    path = tmp_path / "cells.jsonl"
    lines = [{"cell": cell(batch=n), "plan": {"fits": False}, "seconds": 1.0} for n in (1, 2)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cell": {"st')
    found = plan_cells.read(path)
    assert list(found) == [plan_cells.key(cell(batch=n)) for n in (1, 2)]
    assert path.read_text().endswith("}\n")
    assert plan_cells.read(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--styles=none"], "--styles names 'none'; known: deliberation, "),
        (["--stages=think"], "--stages names 'think'; known: inner, outer, evaluate"),
        (["--slices=v5litepod-8"], "write its shape: v5e:2x4"),
        (["--slices="], "--styles, --slices and --stages must name at least one each"),
    ],
)
def test_unknown_cells_are_one_line(tmp_path, flags, message):
    done = run("plan_released", *flags, f"--out={tmp_path / 'x.jsonl'}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x.jsonl").exists()


def test_a_home_folder_of_nobody_is_one_line():
    done = run("plan_released", *ONE, "--out=~nosuchuser/x.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ~nosuchuser/x.jsonl: the home folder of nosuchuser is")
    assert len(done.stderr.splitlines()) == 1


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    done = run("plan_released", *ONE, f"--out={tmp_path / 'x.jsonl'}")
    assert done.returncode == 2
    assert (
        "x.jsonl:1 is not a cell of this command; delete the line, or name another" in done.stderr
    )


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
