"""The command that writes what a released system thinks: its files, their keys, nothing by halves.

The numbers are held against PyTorch's in `tests/system`; the system here is the same.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from support.commands import run

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "system" / "released_goldens"
EXPECTED = json.loads((GOLDENS / "expected.json").read_text())
STYLE = "sequential_scaled"
WIDTHS = {"planner": 16, "critic": 12, "solver": 20}
ROUNDS, STEPS, TOKENS = 3, 4, 24
N = len(EXPECTED["questions"])


def command(**flags) -> subprocess.CompletedProcess:
    flags = {
        "style": STYLE,
        "root": GOLDENS / "root",
        "task_family": "math",
        "prompts": GOLDENS / "prompts.json",
        "rounds": ROUNDS,
        "latent_steps": STEPS,
        "max_new_tokens": TOKENS,
        "dtype": "float32",
    } | flags
    return run("dump_latents", *(f"--{k}={v}" for k, v in flags.items()))


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "questions.json"
    path.write_text(json.dumps(EXPECTED["questions"]))
    return path


def read(out: Path) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(out / f"{STYLE}.npz") as file:
        return dict(file), json.loads((out / f"{STYLE}.json").read_text())


@pytest.fixture(scope="module")
def dumped(tmp_path_factory, questions):
    """The files of one run with all questions in one batch."""
    out = tmp_path_factory.mktemp("dump") / "new" / "folder"
    done = command(questions=questions, batch_size=3, out=out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert f"{STYLE}.npz" in line
    assert f"{STYLE}.json" in line
    assert {p.name for p in out.iterdir()} == {f"{STYLE}.npz", f"{STYLE}.json"}
    return read(out)


@pytest.mark.slow
def test_arrays(dumped):
    arrays, _ = dumped
    shapes = {
        f"round{r}/{agent}/hidden": (N, STEPS, width)
        for r in range(1, ROUNDS + 1)
        for agent, width in WIDTHS.items()
        if agent != "solver" or r < ROUNDS
    } | {
        f"round{r}/{src}->{dst}/message": (N, STEPS, WIDTHS[dst])
        for r in range(1, ROUNDS + 1)
        for src, dst in (("planner", "critic"), ("critic", "solver"), ("solver", "planner"))
        if src != "solver" or r < ROUNDS
    }
    assert {name: array.shape for name, array in arrays.items()} == shapes
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    with np.load(GOLDENS / "expected.npz") as file:
        for name in file.files:
            np.testing.assert_allclose(arrays[name], file[name], rtol=0, atol=5e-4, err_msg=name)


@pytest.mark.slow
def test_segments(dumped):
    _, text = dumped
    assert text.keys() == {"segments", "outputs"}
    assert text["segments"] == {
        agent: {
            phase: [[piece for piece in row if isinstance(piece, list)] for row in rows]
            for phase, rows in phases.items()
        }
        for agent, phases in EXPECTED["segments"].items()
    }
    slots = {agent: len(phases["later"][0]) - 1 for agent, phases in text["segments"].items()}
    assert slots == {"planner": 1, "critic": 1, "solver": 1}
    assert len(text["segments"]["planner"]["first"][0]) == 1


@pytest.mark.slow
def test_outputs_of_every_number_of_rounds(dumped):
    """One answer stops early: its eos is among the ids, and nowhere else is one."""
    _, text = dumped
    assert list(text["outputs"]) == ["R1", "R2", "R3"]
    for name, rows in text["outputs"].items():
        assert [row["ids"] for row in rows] == EXPECTED["ids"][name]
        assert [row["text"] for row in rows] == EXPECTED["texts"][name]
    config = json.loads((GOLDENS / "root/solver/config.json").read_text())
    for rows in text["outputs"].values():
        for ids in (row["ids"] for row in rows):
            assert config["eos_token_id"] not in ids[:-1]
            assert (len(ids) == TOKENS) != (ids[-1] == config["eos_token_id"])
    assert any(len(row["ids"]) < TOKENS for row in text["outputs"]["R3"])


@pytest.mark.slow
def test_neither_the_batch_nor_later_rounds_matter(dumped, questions, tmp_path):
    """Two questions at a time, the last one alone, and one round of three."""
    done = command(questions=questions, rounds=1, batch_size=2, out=tmp_path)
    assert done.returncode == 0, done.stderr
    arrays, text = read(tmp_path)
    outputs = {"R1": dumped[1]["outputs"]["R1"]}
    assert text == {"segments": dumped[1]["segments"], "outputs": outputs}
    senders = ("round1/planner", "round1/critic")
    assert arrays.keys() == {name for name in dumped[0] if name.startswith(senders)}
    for name, array in arrays.items():
        np.testing.assert_allclose(array, dumped[0][name], rtol=0, atol=5e-4, err_msg=name)


def failed(done: subprocess.CompletedProcess, *told: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for words in told:
        assert words in line


def test_an_out_that_cannot_be_made(questions, tmp_path):
    """Told before anything is loaded."""
    (tmp_path / "file").write_text("mine")
    done = command(questions=questions, out=tmp_path / "file" / "out")
    failed(done, "--out=", "file/out", "cannot be made")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_out_that_cannot_be_written_holds_nothing_new(questions, tmp_path):
    """A folder in the place of the file: told before anything is loaded."""
    (tmp_path / f"{STYLE}.npz").mkdir()
    done = command(questions=questions, batch_size=3, out=tmp_path)
    failed(done, "--out=", "cannot be written")
    assert [p.name for p in tmp_path.iterdir()] == [f"{STYLE}.npz"]
    assert list((tmp_path / f"{STYLE}.npz").iterdir()) == []
