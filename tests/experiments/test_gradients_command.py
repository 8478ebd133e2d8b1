"""The command of gradients by round: ratios by hand, its plot, and runs as a user has them."""

import json
import math

import numpy as np
import pytest

from experiments import gradient_tables
from rmas.errors import InputError
from rmas.evaluation import gradient_plots
from rmas.experiment.links import write_links
from support.commands import run
from support.experiments import experiment


def cell(way="ln_res", rounds=3, seed=0, scale=1.0, **changes):
    """Norms of a sequence: two links of all rounds, and one that the last round does not use."""
    back = [scale ** (rounds - k) for k in range(1, rounds + 1)]
    norms = {
        "inner/a": [2 * x for x in back],
        "inner/out": [7.0] * (rounds - 1),
        "outer/a->b": back,
        "message/a->b": back,
        "message/b->out": [x**2 for x in back],
        "message/out->a": [9.0] * (rounds - 1),
    }
    found = {"system": "relay", "agents": "embedded", "way": way, "rounds": rounds, "seed": seed}
    return found | {"whole": 2.0, "confidence": None, "norms": norms} | changes


def test_ratios_by_hand():
    """Geometric means over what is used in the last round, and over seeds."""
    cells = [cell(seed=0, scale=0.1), cell(seed=1, scale=10.0), cell(rounds=2)]
    three, two = gradient_tables.ratios(cells)
    assert (three["rounds"], three["seeds"], two["rounds"], two["seeds"]) == (3, 2, 2, 1)
    assert three["inner"] == pytest.approx({"mean": 1.0, "least": 1e-2, "most": 1e2})
    # One edge falls as scale, the other as its square.
    assert three["message"] == pytest.approx({"mean": 1.0, "least": 1e-3, "most": 1e3})
    assert three["whole"] == {"mean": 2.0, "least": 2.0, "most": 2.0}
    text = gradient_tables.tables([*cells, cell("text", confidence=0.75)])
    assert "| ln_res | 3 | 2 | 1 (0.01 - 1e+02) |" in text
    assert "likeliest token on text's path: 0.7500 (3 rounds)" in text


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan])
def test_norms_that_have_no_ratio(bad):
    norms = {"message/a->b": [1.0, bad, 1.0], "inner/a": [1.0, 1.0, 1.0]}
    (row,) = gradient_tables.ratios([cell(), cell(seed=1, norms=norms)])
    assert row["message"] is None and row["outer"] is None and row["inner"]["mean"] == 1
    assert gradient_tables.tables([cell(norms=norms)]).count("| - ") >= 1


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    cells = [cell(scale=0.1), cell(seed=1, scale=0.2), cell("text", scale=1e-3)]
    cells.append(cell(agents="random", rounds=2))
    found = gradient_tables.curves(cells)
    assert list(found) == ["relay, embedded agents"]  # the others have fewer rounds
    np.testing.assert_allclose(found["relay, embedded agents"]["text"], [[1e-9, 10**-4.5, 1]])
    for name in ("a.png", "b.png"):
        gradient_plots.draw(gradient_plots.new_plot(1), found, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(InputError, match="nothing to plot"):
        gradient_plots.draw(gradient_plots.new_plot(1), {}, tmp_path / "a.png")


@pytest.mark.extended
def test_the_command(tmp_path):
    """A run, the same again with a damaged line, and with links that are named."""
    out, plot, workdir = tmp_path / "a.json", tmp_path / "a.png", tmp_path / "run"
    little = ("--rows=1", "--latent_steps=1", "--rounds=2", "--dtype=float32", "--forms=linear")
    flags = (*little, "--seeds=2", "--notext", f"--workdir={workdir}")
    done = run("gradients", *flags, f"--out={out}", f"--plot={plot}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "cell 2/2" in done.stderr
    told = json.loads(out.read_text())
    assert [cell["seed"] for cell in told["cells"]] == [0, 1]
    for own in told["cells"]:
        assert len(own["norms"]["message/planner->critic"]) == 2
        assert len(own["norms"]["message/solver->planner"]) == 1
    assert told["ratios"] == gradient_tables.ratios(told["cells"])
    assert done.stdout.strip() == gradient_tables.tables(told["cells"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    cells = workdir / "cells.jsonl"
    lines = cells.read_text().splitlines()
    assert len(lines) == 2
    cells.write_text(lines[0] + "\n" + lines[1].replace('"seed": 1', '"seed": 3') + '\n{"half')
    again = run("gradients", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert cells.read_text().splitlines() == lines
    # The same links as trained ones, which bring their form with them.
    made = experiment(tmp_path, links__form="linear", links__init="random", seed=1)
    write_links(tmp_path / "links", made.untrained_links(), made.manifest())
    flags = (*little[:-1], "--forms=", "--notext", f"--links={tmp_path / 'links'}")
    trained = run("gradients", *flags, f"--workdir={workdir}", f"--out={out}")
    assert trained.returncode == 0, trained.stderr
    (own,) = json.loads(out.read_text())["cells"]
    assert own["way"] == "linear, trained" and own["norms"] == told["cells"][1]["norms"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--rounds=1,3"], "--rounds=1: one round has no earlier one to compare with"),
        (["--rounds=x"], "--rounds=x; wanted numbers above 0"),
        (["--systems=gone"], "--systems: 'gone' is unknown; known: relay, digits, debate, chain"),
        (["--agents="], "--agents: '' is unknown; known: embedded, random"),
        (["--forms=mlp,x"], "--forms: 'x' is unknown; known: linear, linear_res, mlp"),
        (["--init=zero"], "--init: 'zero' is unknown; known: random, gated, aligned"),
        (["--init=aligned", "--forms=mlp", "--notext"], "is for the forms mlp_res and ln_res"),
        (["--links=gone"], "no links in gone: links.safetensors is missing"),
        (["--links=gone", "--systems=relay,debate"], "--links belong to one system"),
        (["--out=gone/a.json"], "--out=gone/a.json: there is no folder gone; make it first"),
        (["--plot=a.svg"], "--plot=a.svg: the file's name must end in .png"),
        (["--temperature=0"], "flag --temperature=0"),
    ],
)
def test_wrong_flags(flags, line, tmp_path):
    done = run("gradients", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and line in last
    assert not (tmp_path / "run").exists()
