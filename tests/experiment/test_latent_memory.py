"""The method latent_memory in an evaluation, on links that were not trained."""

import json

import numpy as np
import pytest

from rmas.errors import InputError
from rmas.experiment import Experiment, Settings
from rmas.system.answers import Question
from rmas.training.head import head_to_embeddings
from support import tiny_pair
from support.experiments import changed, experiment

SMALL = {
    "links": {"form": "linear_res", "init": "head", "aligned_rows": 4},
    "inner": {"optim": {"steps": 0}, "batch_size": 2},
    "outer": {"optim": {"steps": 0}, "batch_size": 2},
    "num_questions": 3,
    "limits.latent_steps": 3,
    "evaluate.methods": ("latent_memory",),
    "evaluate.rounds": (2,),
    "evaluate.batch_size": 2,
}


def make(folder, **changes):
    """Two agents of one base model."""
    base = changed(tiny_pair.make(folder / "pair"), SMALL | changes)
    agents = base["system"]["agents"]
    base["system"]["agents"] = dict.fromkeys(agents, agents["critic"])
    return Experiment(Settings.from_dict(base), folder / "run")


def test_from_no_training_to_records(tmp_path):
    run, folder = make(tmp_path), tmp_path / "run"
    run.train_inner()
    run.train_outer()
    links = run.trained_links()
    w_DD, _ = head_to_embeddings(run.system.agents["critic"], 1e-3)
    for link in links["inner"].values():
        kernel = np.asarray(link["proj1"]["kernel"], np.float64) + np.eye(16)
        scale = np.sum(kernel * w_DD) / np.sum(w_DD * w_DD)
        np.testing.assert_allclose(kernel, scale * w_DD, atol=1e-5)
    for link in links["outer"].values():
        np.testing.assert_array_equal(link["residual_proj"]["kernel"], np.eye(16))
        assert not link["proj1"]["kernel"].any()
    assert not list(folder.rglob("checkpoints")) and not (folder / "hidden_states").exists()

    (row,) = run.evaluate()
    assert (row["method"], row["rounds"], row["n"]) == ("latent_memory", 2, 3)
    renderer = run.examples("outer").renderer
    lines = (folder / "evaluate" / "records.jsonl").read_text().splitlines()
    asked = {row.id: row.question for row in run.data.asked}
    assert len(lines) == 3
    for record in map(json.loads, lines):
        for agent, counts in record["agents"].items():
            read = sum(  # slots are empty
                len(ids)
                for phase in ("first", "later")
                for ids in renderer.encoded(agent, asked[record["id"]], phase)
                if isinstance(ids, tuple)
            )
            turns = {"critic": 2, "solver": 1}[agent]
            wrote = counts["decoded_tokens"]
            assert (wrote > 0) == (agent == "solver")
            assert counts["prompt_tokens"] == read and counts["reused_positions"] == 0
            assert counts["latent_steps"] == 3 * turns
            assert counts["positions"] == read + 3 * turns + max(wrote - 1, 0)


def test_a_question_that_does_not_fit(tmp_path):
    """What is read before the prompt counts."""
    run = make(tmp_path)
    questions = [Question("1", run.data.asked[0].question)]
    sizes = {"rounds": 2, "batch": 1, "answer_tokens": 4}
    lines = run.examples("outer").renderer.memory_lines
    read = {
        agent: max(len(own[0]) for own in rounds)
        for agent, rounds in lines(questions, steps=1, **sizes).items()
    }
    # The critic reads the solver with its thoughts, and thinks itself.
    steps = (256 - read["critic"] - read["solver"]) // 2
    assert lines(questions, steps=steps, **sizes)
    with pytest.raises(InputError, match=r"question .* of agent 'critic', whose context has 256"):
        lines(questions, steps=steps + 1, **sizes)


def test_agents_of_several_base_models_are_refused_before_they_are_loaded(tmp_path):
    run = experiment(tmp_path, evaluate__methods=("latent_memory",))
    for call in (run.evaluate, run.dry_run):
        with pytest.raises(InputError, match="share one base model; those of sequential have 3"):
            call()
    assert not (tmp_path / "evaluate").exists()
