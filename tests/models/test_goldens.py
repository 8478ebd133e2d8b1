"""Parity with PyTorch where torch is not installed: the committed checkpoints and numbers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rmas.models import embed, read_spec
from rmas.weights import load_params
from support import rollouts

GOLDENS = Path(__file__).parent / "goldens"
CASES = sorted(p.name for p in GOLDENS.iterdir())


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    folder = GOLDENS / request.param
    spec = read_spec(folder)
    want = {}
    for name in ("expected", "rollout"):
        with np.load(folder / f"{name}.npz") as arrays:
            want[name] = dict(arrays)
    return spec, load_params(spec, folder), want["expected"], want["rollout"]


def test_every_family_and_composite_has_one():
    families = {read_spec(GOLDENS / case).family for case in CASES}
    assert families == {"llama", "mistral", "qwen2", "qwen3", "gemma3", "qwen3_5"}
    kinds = {json.loads((GOLDENS / c / "config.json").read_text())["model_type"] for c in CASES}
    assert kinds >= {"gemma3_text", "gemma3", "qwen3_5_text", "qwen3_5"}


def test_states_and_logits_of_a_padded_batch(golden):
    """In float64, so that what differs is PyTorch's own rounding, on any processor."""
    spec, params, want, _ = golden
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        h, logits = rollouts.whole(spec, params, embed(spec, params, want["ids"]), want["valid"])
    v = want["valid"]
    assert h.dtype == logits.dtype == np.float64
    np.testing.assert_allclose(np.asarray(h)[v], want["states"][v], rtol=0, atol=3e-5)
    np.testing.assert_allclose(np.asarray(logits)[v], want["logits"][v], rtol=0, atol=3e-5)


def test_greedy_ids(golden):
    spec, params, want, _ = golden
    ids = rollouts.greedy(spec, params, want["ids"], want["valid"], want["greedy"].shape[1])
    np.testing.assert_array_equal(ids, want["greedy"])
    assert len(np.unique(want["greedy"])) > 8


def test_cached_rollout(golden):
    """Eight cached steps against states of PyTorch, which read all again at every step.

    The steps are fed what PyTorch's were: rollouts on their own part ways by rounding, which
    each step magnifies.
    """
    spec, params, want, rollout = golden
    assert rollout["states"].shape == (3, 9, spec.d_model)
    x, fed = embed(spec, params, want["ids"]), rollout["states"][:, :-1] @ rollout["map"]
    states = rollouts.forced(spec, params, x, want["valid"], fed)
    np.testing.assert_allclose(states, rollout["states"], rtol=0, atol=3e-5)


@pytest.mark.parametrize("golden", ["gemma3", "mistral_window", "qwen3", "qwen3_5"], indirect=True)
def test_padding_changes_nothing(golden):
    """In double, where rounding is no excuse."""
    spec, params, want, _ = golden
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        x = np.asarray(embed(spec, params, want["ids"]))
        h, _ = rollouts.whole(spec, params, x, want["valid"])
        valid = want["valid"][1:2, want["valid"][1]]
        alone, _ = rollouts.whole(spec, params, x[1:2, -valid.shape[1] :], valid)
        np.testing.assert_allclose(h[1, -valid.shape[1] :], alone[0], rtol=0, atol=1e-9)
