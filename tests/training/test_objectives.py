"""Every objective against its definition, values and gradients, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.system.preamble import ROW_AXES
from rmas.training.objectives import (
    OBJECTIVES,
    TrainingContext,
    align,
    inner_loss,
    parse_objective,
    system_loss,
)
from support.tiny_training import BEHIND, PAIR, SELF, Case, make_examples, make_rows

ROWS = make_rows(4)
KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def close(a, b, tolerance=1e-9):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == jnp.float64
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def mean(trees):
    trees = list(trees)
    return jax.tree.map(lambda *x: sum(x) / len(trees), *trees)


def make_case(topology, rounds, **changes) -> Case:
    facts = {k: changes.pop(k) for k in ("on_policy", "earlier_rounds") if k in changes}
    return Case(make_examples(topology, np.float64, rounds=rounds, **changes), **facts)


def prepare(name, case, rows):
    return OBJECTIVES[name].prepare(case.examples, rows)


def compiled(name, case):
    """Value and gradient as one program: `(batch, on_policy)`."""

    @jax.jit
    def program(links, params, batch, on_policy):
        context = dataclasses.replace(case.context, on_policy=on_policy)
        return jax.value_and_grad(
            lambda links: OBJECTIVES[name].loss(context, params, links, batch, KEY)[0]
        )(links)

    return lambda batch, on_policy=0.0: program(case.links, case.params, batch, on_policy)


def naive(method, case, row, *more):
    return jax.value_and_grad(lambda links: getattr(case, method)(links, row, *more))(case.links)


# Inner training.


@pytest.mark.parametrize("max_length", [64, 6])
def test_inner(max_length):
    case = make_case(PAIR, 3, max_length=max_length)
    batch = case.examples.inner(
        "solver", ROWS, case.examples.draw_rounds(np.random.default_rng(5), len(ROWS))
    )
    counts = batch.text_BT.sum(axis=1)
    assert len(set(counts.tolist())) > 1
    assert max_length == 64 or counts.max() == 6  # a row that is nothing but text

    @jax.jit
    def both(links, batch):
        return jax.value_and_grad(
            lambda links: inner_loss(case.context, "solver", case.params["solver"], links, batch)
        )(links)

    found = both(case.links, batch)

    def definition(links):
        rounds = np.random.default_rng(5)
        losses = []
        for b, row in enumerate(ROWS):
            k = int(rounds.integers(3))
            ids = batch.prompt.ids_BT[b][batch.prompt.valid_BT[b]]
            losses.append(case.inner(links, ids, "solver", k, row))
        return sum(losses) / len(losses)

    close(found, jax.value_and_grad(definition)(case.links))
    # Only that agent's inner link learns.
    used = {name for name, p in found[1]["inner"].items() if any(map(np.any, jax.tree.leaves(p)))}
    assert used == {"solver"}
    assert not any(map(np.any, jax.tree.leaves(found[1]["outer"])))
    if max_length == 6:
        return
    # More padding, and the ids in it, change nothing; nor does a row's company.
    wider = jax.tree.map(lambda x: np.pad(x, ((0, 0), (16, 0)), constant_values=0), batch)
    wider.prompt.ids_BT[:, :16] = 7
    close(both(case.links, wider), found)
    alone = [both(case.links, jax.tree.map(lambda x, b=b: x[[b] * 4], batch)) for b in range(4)]
    close(mean(alone), found)


# The whole system.


def test_teacher_forced():
    """The release's positions and ours, earlier rounds counted in."""
    case = make_case(PAIR, 2, earlier_rounds=0.1)
    engine = compiled("teacher_forced", case)
    batch = prepare("teacher_forced", case, ROWS[:2])
    found = engine(batch)
    everything_learns(found[1])
    close(found, mean([naive("teacher_forced", case, row) for row in ROWS[:2]]))
    close(mean(engine(only(b, batch)) for b in (0, 1)), found)
    case = make_case(PAIR, 2, earlier_rounds=0.1, shift=1)
    shifted = engine(prepare("teacher_forced", case, ROWS[:2]))
    close(shifted, mean([naive("teacher_forced", case, row) for row in ROWS[:2]]))
    assert abs(shifted[0] - found[0]) > 1e-3


def test_teacher_forced_counts_the_last_round_alone():
    """Three rounds, some rows cut from the left, an agent behind the output agent."""
    case = make_case(BEHIND, 3, max_length=22)
    assert cut(case)
    loss = functools.partial(OBJECTIVES["teacher_forced"].loss, case.context)
    batch = prepare("teacher_forced", case, ROWS[1:3])
    value, _ = jax.jit(loss)(case.params, case.links, batch, KEY)
    wanted = mean(case.teacher_forced(case.links, row) for row in ROWS[1:3])
    np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_rollout():
    case = make_case(BEHIND, 3, max_length=22)
    assert cut(case)
    engine, (prompts, last) = compiled("rollout", case), prepare("rollout", case, ROWS[1:3])
    found = engine((prompts, last))
    everything_learns(found[1])
    close(found, mean(naive("rollout", case, row) for row in ROWS[1:3]))
    alone = [(only(b, prompts, ROW_AXES), only(b, last, axis=0)) for b in (0, 1)]
    close(mean(map(engine, alone)), found)


@pytest.mark.slow
def test_align():
    case, rows = make_case(BEHIND, 2), ROWS[:2]
    own = [naive("align", case, row, True) for row in rows]
    teacher = [naive("align", case, row, False) for row in rows]
    assert abs(mean(own)[0] - mean(teacher)[0]) > 1e-3
    engine, batch = compiled("align", case), prepare("align", case, rows)
    found = engine(batch, 0.0)
    everything_learns(found[1])
    close(found, mean(teacher))
    close(engine(batch, 1.0), mean(own))
    close(mean(engine(only(b, batch), 0.0) for b in (0, 1)), found)
    # In between, the key decides row by row.
    draws = jax.random.bernoulli(KEY, 0.5, (2, 1, 1)).ravel()
    assert set(draws.tolist()) == {True, False}
    mixed = [(own if draw else teacher)[b] for b, draw in enumerate(draws)]
    close(engine(batch, 0.5), mean(mixed))


def only(row, batch, axis=(ROW_AXES, 1)):
    """The batch with one row twice: a row's loss is its own, whatever stands beside it."""
    return jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: np.take(x, [row, row], axis), part), axis, batch
    )


def cut(case):
    """Whether some rows lose their beginning, and not all do."""
    _, last = prepare("rollout", case, ROWS[1:3])
    lengths = last.prompt.valid_BT.sum(axis=1)
    return lengths.max() == case.examples.max_length > lengths.min()


def everything_learns(gradient):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(leaf), path


def test_align_without_a_counterpart_is_finite():
    """A row without any wanted vector counts as zero error, not as nan."""
    z_BMD = jnp.ones((2, 3, 4))
    valid_BM = jnp.array([[True, False, True], [False] * 3])
    loss, gradient = jax.value_and_grad(
        lambda z: align._normalised_error(z, 2.0 * jnp.ones((2, 3, 4)), valid_BM)
    )(z_BMD)
    assert loss == (4 / 16) / 2
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
    zero = align._normalised_error(z_BMD, jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), bool))
    assert zero == 0


# Their sum.


def test_system_loss_adds_weighted_parts(monkeypatch):
    seen = {}

    def fake(name, value):
        def loss(context, params, links, batch, key, probes):
            seen[name] = (context, params, batch, jax.random.key_data(key).tolist())
            return value * links["inner"]["a"], {f"{name}/round": jnp.ones(2)}

        return dataclasses.replace(OBJECTIVES[name], loss=loss)

    for name, value in (("align", 3.0), ("rollout", 5.0), ("teacher_forced", 7.0)):
        monkeypatch.setitem(OBJECTIVES, name, fake(name, value))
    context = TrainingContext(PAIR, None, 1, 0.0, 0.0)
    links = {"inner": {"a": jnp.float64(2.0)}, "outer": {}}
    batches = {"align": "A", "rollout": "R"}
    loss = functools.partial(system_loss, context, (("rollout", 0.1), ("align", 2.0)), "params")
    (total, parts), gradient = jax.value_and_grad(loss, has_aux=True)(links, batches, KEY)
    assert set(parts) == {"rollout", "rollout/round", "align", "align/round"}
    assert (parts["rollout"], parts["align"]) == (10.0, 6.0)
    np.testing.assert_allclose(total, 0.1 * 10 + 2 * 6)
    np.testing.assert_allclose(gradient["inner"]["a"], 0.1 * 5 + 2 * 3)
    assert set(seen) == {"rollout", "align"}
    assert seen["rollout"][:3] == (context, "params", "R")
    assert seen["align"][2] == "A"
    assert seen["align"][3] != seen["rollout"][3]


@pytest.mark.slow
def test_rounds_cost_no_program_size_and_the_gradient_is_a_links_tree():
    """All objectives at once, for two, three and five rounds."""
    sizes = set()
    objective = (("teacher_forced", 1.0), ("rollout", 0.5), ("align", 2.0))
    for rounds in (2, 3, 5):
        case = make_case(SELF, rounds, latent_steps=2, earlier_rounds=0.1)
        batches = {name: prepare(name, case, ROWS[:1]) for name, _ in objective}
        loss = functools.partial(system_loss, case.context, objective, case.params)
        gradient = jax.value_and_grad(lambda links, loss=loss, b=batches: loss(links, b, KEY)[0])
        program, (value, tree) = jax.make_jaxpr(gradient, return_shape=True)(case.links)
        assert jax.tree.structure(tree) == jax.tree.structure(case.links)
        for leaf, link in zip(jax.tree.leaves(tree), jax.tree.leaves(case.links), strict=True):
            assert (leaf.shape, leaf.dtype) == (link.shape, link.dtype)
        assert value.shape == ()
        sizes.add(count(program.jaxpr))
    assert len(sizes) == 1
    assert sizes.pop() > 1000


def count(jaxpr) -> int:
    """Equations of a jaxpr with those of all programs inside it."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += count(inner)
    return total


# Its name.


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("align", (("align", 1.0),)),
        ("align:1.0,rollout:0.1", (("align", 1.0), ("rollout", 0.1))),
        (" teacher_forced : 2 , align ", (("teacher_forced", 2.0), ("align", 1.0))),
    ],
)
def test_parse_objective(text, parsed):
    assert parse_objective(text) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is unknown or repeated; known: teacher_forced, rollout, align"),
        ("aligned:1", "'aligned' is unknown"),
        ("align,", "'' is unknown"),
        ("align,rollout,align:2", "'align' is unknown or repeated"),
        ("align:0", "weight '0' of 'align' is not positive"),
        ("align:-1", "is not positive"),
        ("align:nan", "is not positive"),
        ("align:inf", "is not positive"),
        ("align:much", "weight 'much' of 'align' is not positive"),
        ("align:1:2", "is not positive"),
    ],
)
def test_parse_objective_refuses(text, message):
    with pytest.raises(InputError, match=message) as e:
        parse_objective(text)
    assert repr(text) in str(e.value)
