"""A released system gives PyTorch's numbers where torch is not installed: the committed one."""

import json
from pathlib import Path

import numpy as np
import pytest

import rmas
from rmas.system.encode import Slot
from rmas.system.rendered import Renderer
from support.released_runs import record

GOLDENS = Path(__file__).parent / "released_goldens"
EXPECTED = json.loads((GOLDENS / "expected.json").read_text())
STEPS, TOKENS = 4, 24
ATOL = 5e-4
"""The design's, for a system with a hybrid agent."""


@pytest.fixture(scope="module")
def loaded():
    root, prompts = GOLDENS / "root", str(GOLDENS / "prompts.json")
    return rmas.load_system("sequential_scaled", root, dtype="float32", prompts=prompts)


def test_segments(loaded):
    renderer = Renderer(loaded.system)
    for agent, phases in EXPECTED["segments"].items():
        for phase, rows in phases.items():
            for question, want in zip(EXPECTED["questions"], rows, strict=True):
                runs = renderer.encoded(agent, question, phase)
                assert [r.source if isinstance(r, Slot) else list(r) for r in runs] == want


def expected(rounds: int) -> dict[str, np.ndarray]:
    """Arrays of a run of so many rounds, in whose last the solver has no latent turn."""

    def within(name: str) -> bool:
        r, what, _ = name.split("/")
        return int(r.removeprefix("round")) + (what.split("->")[0] == "solver") <= rounds

    with np.load(GOLDENS / "expected.npz") as file:
        return {name: file[name] for name in file.files if within(name)}


@pytest.mark.parametrize("rounds", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_thoughts_messages_and_answers(loaded, rounds):
    arrays, answers = record(loaded, EXPECTED["questions"], rounds, STEPS, TOKENS)
    want = expected(rounds)
    assert arrays.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_allclose(arrays[name], array, rtol=0, atol=ATOL, err_msg=name)
    assert [list(answer.ids) for answer in answers] == EXPECTED["ids"][f"R{rounds}"]
    assert [answer.text for answer in answers] == EXPECTED["texts"][f"R{rounds}"]


def test_the_expected_answers_could_be_missed():
    """Feedback changes two of them, and one ends early."""
    first, last = EXPECTED["ids"]["R1"], EXPECTED["ids"]["R3"]
    assert sum(a != b for a, b in zip(first, last, strict=True)) == 2
    assert min(map(len, last)) < TOKENS


def test_an_answer_ends_at_the_eos_token_alone(loaded):
    """As in the release; an agent that writes in text exchange alone stops as any other does."""
    solver, planner = (loaded.system.agents[name] for name in ("solver", "planner"))
    named = json.loads((GOLDENS / "root/solver/generation_config.json").read_text())
    assert len(named["eos_token_id"]) == 2
    assert solver.eos == (solver.chat.tokenizer.eos_token_id,)
    assert planner.chat.closing_id != planner.chat.tokenizer.eos_token_id
    assert {planner.chat.closing_id, planner.chat.tokenizer.eos_token_id} <= set(planner.eos)
