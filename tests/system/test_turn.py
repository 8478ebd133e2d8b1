"""One agent's turn: slots, rollouts of any length, states of a given text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.system.batch import Line, stack, with_states
from rmas.system.styles import SEQUENTIAL
from rmas.system.topology import Edge
from rmas.system.turn import Prompt, inputs, rollout, send, teacher_forced, zero_messages
from support.tiny_systems import Case, model_spec

AGENT = "planner"
LINES = [
    Line((5, 6, 7, 8, 9, 10), (-1,) * 6, text_length=4),
    Line((11, 12, 13), (-1,) * 3, text_length=2),
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case():
    with jax.enable_x64(True):
        return Case(SEQUENTIAL, 1, 1)


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)


def first(prompt):
    return jax.tree.map(lambda x: x[0], prompt)


def test_inputs_gather_messages_into_slots():
    table = jnp.arange(10.0)[:, None] * jnp.ones(2)
    one, two = -jnp.arange(1.0, 9.0).reshape(2, 2, 2), -jnp.arange(11.0, 19.0).reshape(2, 2, 2)
    ids = np.array([[0, 3, 0, 4], [5, 0, 0, 6]])
    slot = np.array([[-1, -1, 3, -1], [-1, 0, 2, -1]])
    prompt = Prompt(ids, ids >= 0, slot)
    params = {"embed": {"weight": table}}
    model = model_spec("qwen3", 2, vocab=10)
    x = inputs(model, params, prompt, (one, two))
    expected = np.asarray(table)[ids]
    expected[0, 2] = two[0, 1]
    expected[1, 1], expected[1, 2] = one[1, 0], two[1, 0]
    close(x, expected, 0)
    close(inputs(model, params, prompt, ()), np.asarray(table)[ids], 0)


def test_inputs_take_the_type_of_the_agent():
    """A float32 message enters a bfloat16 agent as bfloat16."""
    params = {"embed": {"weight": jnp.ones((4, 2), jnp.bfloat16)}}
    prompt = Prompt(np.zeros((1, 1), int), np.ones((1, 1), bool), np.zeros((1, 1), int))
    messages = (jnp.full((1, 1, 2), 1.0 / 3, jnp.float32),)
    x = inputs(model_spec("qwen3", 2, vocab=4), params, prompt, messages)
    assert x.dtype == jnp.bfloat16
    close(x.astype(jnp.float32), jnp.full((1, 1, 2), 1 / 3, jnp.bfloat16), 0)


def test_messages_and_their_silence(case):
    z = jnp.ones((2, 3, 16))
    messages = send(case.topology, case.spec, case.links, AGENT, z)
    assert messages.keys() == {"planner->critic"}
    close(messages["planner->critic"], case.spec.links.outer(case.links, AGENT, "critic", z), 0)
    quiet = zero_messages(case.spec, case.links, 2, 3)(Edge(AGENT, "critic", "round"))
    assert quiet.shape == messages["planner->critic"].shape == (2, 3, 24)
    assert quiet.dtype == messages["planner->critic"].dtype == jnp.float64
    assert not quiet.any()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_rollout(case, steps):
    """States `h_1 .. h_m`, the first at the last prompt position, each fed back once."""
    model, params = case.spec.model(AGENT), case.params[AGENT]
    prompt = first(stack([LINES]))
    x = inputs(model, params, prompt, ())
    states, got = jax.jit(
        lambda p, li: rollout(case.spec, p, li, AGENT, x, prompt.valid_BT, steps)
    )(params, case.links)
    assert states.shape == got.shape == (2, steps, 16)
    # Fed with its own states, one uncached pass over the whole sequence gives them again.
    fed = jnp.concatenate([x, got[:, :-1]], axis=1)
    valid = np.concatenate([prompt.valid_BT, np.ones((2, steps - 1), bool)], axis=1)
    h, _ = models.run(model, params, fed, valid, models.positions(valid))
    close(states, h[:, -steps:])
    close(got, case.spec.links.inner(case.links, AGENT, h[:, -steps:]))


@pytest.mark.parametrize("shift", [0, 1])
def test_teacher_forced_states(case, shift):
    """Inner-mapped states at the text's positions, or one before, whatever the row's length."""
    model, params = case.spec.model(AGENT), case.params[AGENT]
    prompt = first(with_states(stack([LINES]), [LINES], 3, shift))
    x = inputs(model, params, prompt, ())
    got = teacher_forced(case.spec, params, case.links, AGENT, x, prompt)
    assert got.shape == (2, 3, 16)
    for row, (own, n) in enumerate(zip(LINES, (3, 2), strict=True)):
        ids = np.array([own.ids])
        valid = np.ones(ids.shape, bool)
        own_x = models.embed(model, params, ids)
        h, _ = models.run(model, params, own_x, valid, models.positions(valid))
        begin = len(own) - own.text_length - shift
        z = case.spec.links.inner(case.links, AGENT, h[0, begin : begin + n])
        close(got[row, :n], z)


def test_a_shifted_text_is_what_a_rollout_reads(case):
    """With shift 1 the first state is that of the last prompt position: a rollout's `h_1`."""
    model, params = case.spec.model(AGENT), case.params[AGENT]
    prompt = first(with_states(stack([LINES]), [LINES], 1, 1))
    x = inputs(model, params, prompt, ())
    got = teacher_forced(case.spec, params, case.links, AGENT, x, prompt)
    bare = first(stack([[Line(r.ids[: -r.text_length], r.slots[: -r.text_length]) for r in LINES]]))
    x = inputs(model, params, bare, ())
    close(got, rollout(case.spec, params, case.links, AGENT, x, bare.valid_BT, 1)[1])
