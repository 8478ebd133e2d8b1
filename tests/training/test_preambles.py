"""Training with preambles against its definition, which knows none: values and gradients."""

import jax
import numpy as np
import pytest

from rmas.system import rendered
from rmas.system.preamble import ROW_AXES
from rmas.training.objectives import OBJECTIVES
from support.tiny_training import BEHIND, PAIR, Case, make_examples, make_rows

ROWS = make_rows(4)[:3]
KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def _short_preambles_in_float64(monkeypatch):
    """Preambles of these short prompts are read apart, too."""
    monkeypatch.setattr(rendered, "LEAST", 1)
    with jax.enable_x64(True):
        yield


def make_case(topology, **changes) -> Case:
    examples = make_examples(topology, np.float64, question_first=True, rounds=3, **changes)
    return Case(examples, earlier_rounds=0.1)


def value_and_gradient(case, name, batch):
    @jax.jit
    def program(links, params, batch):
        def loss(links):
            return OBJECTIVES[name].loss(case.context, params, links, batch, KEY)[0]

        return jax.value_and_grad(loss)(links)

    return program(case.links, case.params, batch)


def definition(case, name, *more):
    def loss(links):
        losses = [getattr(case, name)(links, row, *more) for row in ROWS]
        return sum(losses) / len(losses)

    return jax.value_and_grad(loss)(case.links)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "topology", "longest", "more"),
    [
        ("teacher_forced", PAIR, 64, ()),
        pytest.param("rollout", BEHIND, 64, (), marks=pytest.mark.slow),
        pytest.param("align", BEHIND, 64, (False,), marks=pytest.mark.extended),
        pytest.param("teacher_forced", BEHIND, 28, (), marks=pytest.mark.extended),
        pytest.param("rollout", PAIR, 30, (), marks=pytest.mark.extended),
    ],
)
def test_losses_and_gradients_are_those_of_whole_prompts(name, topology, longest, more):
    """Also where some rows are cut from the left, and so have no preamble."""
    case = make_case(topology, max_length=longest)
    batch = OBJECTIVES[name].prepare(case.examples, ROWS)
    lengths = {a: own.valid_BT.sum(axis=1) for a, own in batch[0].preambles.items()}
    assert set(lengths) == set(topology.agents)
    assert len({n for own_B in lengths.values() for n in own_B.tolist()}) > 1
    assert (min(own_B.min() for own_B in lengths.values()) == 0) == (longest < 64)
    assert_close(value_and_gradient(case, name, batch), definition(case, name, *more))


def test_padding_and_company_change_nothing():
    case = make_case(PAIR)
    prompts, masks = OBJECTIVES["teacher_forced"].prepare(case.examples, ROWS)
    before = value_and_gradient(case, "teacher_forced", (prompts, masks))
    wider = jax.tree.map(lambda x: np.pad(x, ((0, 0), (5, 0))), prompts.preambles)
    padded = type(prompts)(wider, prompts.rest)
    assert_close(value_and_gradient(case, "teacher_forced", (padded, masks)), before)
    alone = jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: np.take(x, [1, 1, 1], axis), part),
        (ROW_AXES, 1),
        (prompts, masks),
    )
    own, _ = value_and_gradient(case, "teacher_forced", alone)
    np.testing.assert_allclose(own, case.teacher_forced(case.links, ROWS[1]), rtol=0, atol=1e-9)
