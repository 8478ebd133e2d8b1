"""The recursion engine against the method's definition, and the size of its programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.system.recursion import recurse
from rmas.system.styles import DISTILLATION, SEQUENTIAL
from rmas.system.topology import Edge, Topology, single
from rmas.system.turn import Prompt
from support.tiny_systems import EVERYTHING, Case, mixture

extended = functools.partial(pytest.param, marks=pytest.mark.extended)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def close(a, b, tolerance=1e-9):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def engine(case, prompts, rows, checkpoint=False):
    """Logits of the first rows, and the gradient of a mixture of them."""

    @jax.jit
    def both(links, params, prompts):
        def loss(links):
            logits = case.logits(params, links, prompts, checkpoint)[:rows]
            return mixture(logits), logits

        return jax.grad(loss, has_aux=True)(links)

    gradient, logits = both(case.links, case.params, prompts)
    return logits, gradient


def naive(case):
    def loss(links):
        logits = jnp.stack([case.naive_logits(links, row) for row in range(case.rows)])
        return mixture(logits), logits

    gradient, logits = jax.grad(loss, has_aux=True)(case.links)
    return logits, gradient


@pytest.mark.parametrize(
    ("topology", "rounds", "steps"),
    [
        extended(SEQUENTIAL, 2, 2),
        extended(SEQUENTIAL, 1, 2),
        extended(SEQUENTIAL, 2, 1),
        extended(SEQUENTIAL, 2, 5),
        extended(SEQUENTIAL, 3, 2),
        extended(EVERYTHING, 1, 2),
        pytest.param(EVERYTHING, 2, 2, marks=pytest.mark.slow),
        extended(EVERYTHING, 3, 2),
    ],
    ids=lambda v: getattr(v, "name", v),
)
def test_the_definition(topology, rounds, steps):
    case = Case(topology, rounds, steps)
    logits, gradient = engine(case, case.prompts(), case.rows)
    expected, wanted = naive(case)
    assert logits.dtype == jnp.float64
    close(logits, expected)
    close(gradient, wanted)
    # Every link that a message passed has a gradient, and the others have none.
    for name, params in gradient["outer"].items():
        edge = next(e for e in topology.edges if f"{e.src}->{e.dst}" == name)
        used = rounds > 1 or (edge.when == "round" and edge.dst not in topology.after)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(params)) == used, name


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("topology", [SEQUENTIAL, EVERYTHING], ids=lambda t: t.name)
def test_the_scan_equals_an_unrolled_loop(topology, rounds):
    """Values and gradients of turns that are a few products."""
    batch, length, width = 2, 3, 2
    random = np.random.default_rng(rounds)
    names = [f"{src}->{dst}" for src, dst in topology.link_edges]
    weights = {name: random.standard_normal(width) for name in (*topology.agents, *names)}
    prompts = {
        a: Prompt(*(random.integers(0, 9, (rounds, batch, length)) for _ in range(3)))
        for a in topology.agents
    }
    data = {a: random.standard_normal(rounds) for a in topology.agents}

    def turn(weights, agent, prompt, incoming, number):
        h_BMD = jnp.sin(prompt.ids_BT * number)[..., None] * weights[agent]
        for place, z_BMD in enumerate(incoming, 1):
            h_BMD = h_BMD + place * jnp.sin(z_BMD)
        messages = {name: h_BMD * weights[name] for name in names if name.startswith(f"{agent}->")}
        return messages, h_BMD

    def scanned(weights):
        zeros = lambda edge: jnp.zeros((batch, length, width))  # noqa: E731
        return recurse(topology, prompts, functools.partial(turn, weights), zeros, data)

    def unrolled(weights):
        sent, aux = {}, {}
        for k in range(rounds):
            for agent in topology.agents:
                made = [(k - (e.when == "feedback"), e) for e in topology.incoming(agent)]
                incoming = tuple(sent[r, e] for r, e in made if r >= 0)
                if agent == topology.output and k == rounds - 1:
                    return incoming, {a: jnp.stack(values) for a, values in aux.items()}
                prompt = jax.tree.map(lambda x, k=k: x[k], prompts[agent])
                messages, h_BMD = turn(weights, agent, prompt, incoming, data[agent][k])
                aux.setdefault(agent, []).append(h_BMD)
                for e in topology.outgoing(agent):
                    sent[k, e] = messages[f"{e.src}->{e.dst}"]
        raise AssertionError("the output agent ends the last round")

    def gradient(run):
        return jax.grad(lambda w: sum(mixture(leaf) for leaf in jax.tree.leaves(run(w))))(weights)

    close(scanned(weights), unrolled(weights), 1e-12)
    close(gradient(scanned), gradient(unrolled), 1e-12)


@pytest.mark.slow
def test_checkpoints_change_nothing():
    """Eight steps: blocks of two and a remainder of one."""
    case = Case(DISTILLATION, 1, 8)
    plain = engine(case, case.prompts(), 2)
    close(engine(case, case.prompts(), 2, checkpoint=True), plain)


@pytest.mark.slow
@pytest.mark.parametrize("topology", [DISTILLATION, extended(EVERYTHING)], ids=lambda t: t.name)
def test_padding_company_and_empty_rows_change_nothing(topology):
    case = Case(topology, 2, 2, rows=3)
    logits, gradient = engine(case, case.prompts(), 3)
    close(engine(case, case.prompts(length=64, filler=2), 3), (logits, gradient))
    run = jax.jit(case.logits)
    for rows in ([2], [2, 0, 0, 1]):
        close(run(case.params, case.links, case.prompts(rows)), logits[np.array(rows)])


@pytest.mark.slow
def test_an_empty_row_has_finite_values_and_gradients():
    """Even of the empty row's own logits."""
    case = Case(SEQUENTIAL, 2, 2, rows=1)
    logits, gradient = engine(case, case.prompts(filler=1), 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((logits, gradient)))


@pytest.mark.slow
def test_rounds_cost_no_program_size():
    sizes = set()
    for rounds in (2, 5):
        case = Case(EVERYTHING, rounds, 3)

        def loss(links, prompts, case=case):
            return mixture(case.logits(case.params, links, prompts))

        sizes.add(count(jax.make_jaxpr(jax.grad(loss))(case.links, case.prompts()).jaxpr))
    assert len(sizes) == 1
    assert sizes.pop() > 1000


def count(jaxpr) -> int:
    """Equations of a jaxpr with those of all programs inside it."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += count(inner)
    return total


def turns(topology, rounds):
    """Runs turns that only note who speaks when, and what they hear."""
    batch, number = 1, {f"{s}->{d}": n for n, (s, d) in enumerate(topology.link_edges, 1)}
    prompts = {
        a: Prompt(*(np.zeros((rounds, batch, 1), np.int32) for _ in range(3)))
        for a in topology.agents
    }

    def turn(agent, prompt, incoming, k):
        heard = [0.0] * 4 + [z.ravel()[0] for z in incoming]
        messages = {
            name: jnp.full((batch, 1, 1), 100.0 * (k + 1) + n)
            for name, n in number.items()
            if name.startswith(f"{agent}->")
        }
        return messages, (k, jnp.stack([jnp.asarray(v) for v in heard[-4:]]))

    data = {a: np.arange(float(rounds)) for a in topology.agents}
    zeros = lambda edge: jnp.zeros((batch, 1, 1))  # noqa: E731
    incoming, aux = recurse(topology, prompts, turn, zeros, data)
    heard = {a: [row[row > 0].tolist() for row in np.asarray(z)] for a, (_, z) in aux.items()}
    spoke = {a: np.asarray(k).tolist() for a, (k, _) in aux.items()}
    return spoke, heard, [float(z.ravel()[0]) for z in incoming]


def test_sequential_turns():
    """Messages are numbered `100 * round + edge`; edges are p->c, c->s, s->p."""
    spoke, heard, final = turns(SEQUENTIAL, 3)
    assert spoke == {"planner": [0, 1, 2], "critic": [0, 1, 2], "solver": [0, 1]}
    assert heard == {
        "planner": [[], [103], [203]],
        "critic": [[101], [201], [301]],
        "solver": [[102], [202]],
    }
    assert final == [302]


def test_turns_of_a_topology_with_everything():
    """Round messages in the order of edges, then those of the round before."""
    spoke, heard, final = turns(EVERYTHING, 3)
    assert spoke == {"a": [0, 1, 2], "b": [0, 1, 2], "out": [0, 1], "z": [0, 1]}
    assert heard == {
        "a": [[], [101, 106], [201, 206]],
        "b": [[102], [202, 109], [302, 209]],
        "out": [[103, 105], [203, 205, 104]],
        "z": [[107, 108], [207, 208]],
    }
    assert final == [303, 305, 204]


@pytest.mark.parametrize("topology", [SEQUENTIAL, EVERYTHING], ids=lambda t: t.name)
def test_one_round(topology):
    spoke, _, final = turns(topology, 1)
    assert spoke == {a: [0] for a in topology.before}
    assert final == {"sequential": [102], "everything": [103, 105]}[topology.name]


def test_single():
    assert turns(single("x"), 1) == ({}, {}, [])


def test_an_output_that_runs_first():
    """No prologue: others speak only to the next round."""
    topology = Topology(
        "t",
        ("out", "z"),
        (Edge("out", "z", "round"), Edge("z", "out", "feedback")),
        "out",
    )
    spoke, heard, final = turns(topology, 3)
    assert spoke == {"out": [0, 1], "z": [0, 1]}
    assert heard == {"out": [[], [102]], "z": [[101], [201]]}
    assert final == [202]
    assert turns(topology, 1) == ({}, {}, [])
