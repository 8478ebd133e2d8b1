"""Parity with PyTorch where torch is not installed: the committed checkpoints and numbers."""

from pathlib import Path

import numpy as np
import pytest
import rollouts

from rmas.models import ModelSpec, embed
from rmas.weights import load_params

GOLDENS = Path(__file__).parent / "goldens"
CASES = sorted(p.name for p in GOLDENS.iterdir())


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    folder = GOLDENS / request.param
    spec = ModelSpec.from_config(folder)
    with np.load(folder / "expected.npz") as expected:
        return spec, load_params(spec, folder), dict(expected)


def test_every_family_has_one():
    families = {ModelSpec.from_config(GOLDENS / case).family for case in CASES}
    assert families == {"llama", "mistral", "qwen2", "qwen3"}


def test_states_and_logits_of_a_padded_batch(golden):
    spec, params, want = golden
    h, logits = rollouts.whole(spec, params, embed(params, want["ids"]), want["valid"])
    v = want["valid"]
    np.testing.assert_allclose(np.asarray(h)[v], want["states"][v], rtol=0, atol=3e-5)
    np.testing.assert_allclose(np.asarray(logits)[v], want["logits"][v], rtol=0, atol=5e-5)


def test_greedy_ids(golden):
    spec, params, want = golden
    ids = rollouts.greedy(spec, params, want["ids"], want["valid"], want["greedy"].shape[1])
    np.testing.assert_array_equal(ids, want["greedy"])
    assert len(np.unique(want["greedy"])) > 8
