"""The method latent_memory in an evaluation, on links that were not trained."""

import json

import numpy as np
import pytest

from rmas.errors import InputError
from rmas.system.answers import Question
from rmas.training.head import head_to_embeddings
from support.experiments import experiment

SMALL = {
    "links__form": "linear_res",
    "links__init": "head",
    "links__aligned_rows": 4,
    "data__train": 16,
    "data__test": 3,
    "inner__optim__steps": 0,
    "outer__optim__steps": 0,
    "inner__batch_size": 8,
    "outer__batch_size": 8,
    "evaluate__methods": ("latent_memory",),
    "evaluate__rounds": (2,),
    "evaluate__batch_size": 2,
    "limits__latent_steps": 3,
    "limits__max_new_tokens": 4,
}


def test_from_no_training_to_records(tmp_path):
    run = experiment(tmp_path, "debate", **SMALL)
    run.train_inner()
    run.train_outer()
    links = run.trained_links()
    w_DD, _ = head_to_embeddings(run.system.agents["pro"], 1e-3)
    kernel = np.asarray(links["inner"]["pro"]["proj1"]["kernel"], np.float64) + np.eye(128)
    scale = np.sum(kernel * w_DD) / np.sum(w_DD * w_DD)
    np.testing.assert_allclose(kernel, scale * w_DD, atol=1e-5)
    for link in links["outer"].values():
        np.testing.assert_array_equal(link["residual_proj"]["kernel"], np.eye(128))
        assert not link["proj1"]["kernel"].any()
    assert not list(tmp_path.rglob("checkpoints")) and not (tmp_path / "hidden_states").exists()

    (row,) = run.evaluate()
    assert (row["method"], row["rounds"], row["n"]) == ("latent_memory", 2, 3)
    renderer = run.examples("outer").renderer
    lines = (tmp_path / "evaluate" / "records.jsonl").read_text().splitlines()
    asked = {row.id: row.question for row in run.data.asked}
    for record in map(json.loads, lines):
        for agent, counts in record["agents"].items():
            read = sum(  # slots are empty
                len(ids)
                for phase in ("first", "later")
                for ids in renderer.encoded(agent, asked[record["id"]], phase)
                if isinstance(ids, tuple)
            )
            turns = 1 if agent == "judge" else 2
            wrote = counts["decoded_tokens"]
            assert (wrote > 0) == (agent == "judge")
            assert counts["prompt_tokens"] == read and counts["reused_positions"] == 0
            assert counts["latent_steps"] == 3 * turns
            assert counts["positions"] == read + 3 * turns + max(wrote - 1, 0)


def test_a_question_that_does_not_fit(tmp_path):
    """What is read before the prompt counts."""
    run = experiment(tmp_path, "debate", **SMALL)
    questions = [Question("1", run.data.asked[0].question)]
    sizes = {"rounds": 2, "batch": 1, "answer_tokens": 4}
    lines = run.examples("outer").renderer.memory_lines
    read = {agent: len(own[0][0]) for agent, own in lines(questions, steps=1, **sizes).items()}
    # It reads con and the judge, with their thoughts, and thinks itself.
    steps = (256 - read["pro"] - read["con"] - read["judge"]) // 3
    assert lines(questions, steps=steps, **sizes)
    with pytest.raises(InputError, match=r"question .* of agent 'pro', whose context has 256"):
        lines(questions, steps=steps + 1, **sizes)


def test_agents_of_several_base_models_are_refused_before_they_are_loaded(tmp_path):
    run = experiment(tmp_path, evaluate__methods=("latent_memory",))
    for call in (run.evaluate, run.dry_run):
        with pytest.raises(InputError, match="share one base model; those of sequential have 3"):
            call()
    assert not (tmp_path / "evaluate").exists()
