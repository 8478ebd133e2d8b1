"""Latent steps and decoding on one CPU, where layers run one by one, against the scan of meshes."""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.parallel import single_device_mesh, use
from rmas.system import decode
from rmas.system.batch import Line, stack
from rmas.system.sampling import Sampling
from rmas.system.styles import SEQUENTIAL
from rmas.system.turn import inputs, rollout
from support.tiny_systems import Case

AGENT = "planner"
WHERE = {"scan": contextlib.nullcontext, "one CPU": lambda: use(single_device_mesh())}
LINES = [Line((5, 6, 7, 8, 9, 10), (-1,) * 6), Line((11, 12, 13), (-1,) * 3)]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def loops(function, *args) -> int:
    """The number of loops in a program, those within others included."""
    return len(re.findall(r"= (?:scan|while)\[", str(jax.make_jaxpr(function)(*args))))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_rollouts_and_gradients(checkpoint):
    case = Case(SEQUENTIAL, 1, 1)
    model, params = case.spec.model(AGENT), case.params[AGENT]
    prompt = jax.tree.map(lambda x: x[0], stack([LINES]))
    x_BTD = inputs(model, params, prompt, ())

    def states(links):
        return rollout(case.spec, params, links, AGENT, x_BTD, prompt.valid_BT, 6, checkpoint)

    def loss(links):
        return sum(jnp.sum(jnp.sin(y)) for y in states(links))

    values, counts = {}, {}
    for where, mesh in WHERE.items():
        with mesh():
            counts[where] = loops(states, case.links)
            values[where] = jax.jit(states)(case.links), jax.jit(jax.grad(loss))(case.links)
    assert counts["one CPU"] < counts["scan"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), *values.values())


def test_layers_that_are_recomputed_stay_in_a_scan():
    case = Case(SEQUENTIAL, 1, 1)
    spec = dataclasses.replace(case.spec, remat=True)
    prompt = jax.tree.map(lambda x: x[0], stack([LINES]))
    x_BTD = inputs(spec.model(AGENT), case.params[AGENT], prompt, ())

    def states(links):
        return rollout(spec, case.params[AGENT], links, AGENT, x_BTD, prompt.valid_BT, 6)

    counts = set()
    for mesh in WHERE.values():
        with mesh():
            counts.add(loops(states, case.links))
    assert len(counts) == 1


def test_chunks_of_tokens():
    """The state after a chunk has the same form, so that `admit` and `park` take either."""
    case = Case(SEQUENTIAL, 1, 1)
    model, params = case.spec.model(AGENT), case.params[AGENT]
    prompt = jax.tree.map(lambda x: x[0], stack([LINES]))
    x_BTD = inputs(model, params, prompt, ())
    keys, eos, limits = decode.row_keys(0, ["a", "b"]), np.array([39]), np.array([20, 9])

    def chunk(params):
        state = decode.start(model, params, x_BTD, prompt.valid_BT)
        state = decode.widen(state.prefix.valid_BS.shape[1], decode.CHUNK, state)
        return decode.chunk(model, Sampling(1.0), params, state, keys, eos, limits)

    values, counts = {}, {}
    for where, mesh in WHERE.items():
        with mesh():
            counts[where] = loops(chunk, params)
            values[where] = jax.jit(chunk)(params)
    assert counts["one CPU"] < counts["scan"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), *values.values())
    state, _, wrote_BC = values["one CPU"]
    assert wrote_BC.sum() > 9
    assert jax.tree.structure(state) == jax.tree.structure(values["scan"][0])
    assert models.length((state.tail,)).tolist() == (wrote_BC.sum(1) - 1).tolist()
