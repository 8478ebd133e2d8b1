"""Gradients by round: against the definition, finite differences, and the objective's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.errors import InputError
from rmas.links import edge_name
from rmas.system.topology import Edge, Topology
from rmas.training.gradients import (
    _norm_by_round,
    gradients_by_use,
    link_gradients,
    shared_tokens,
    text_gradients,
    uses_by_round,
    with_rounds,
)
from rmas.training.objectives import OBJECTIVES, make_probes
from support.tiny_training import PAIR, Case, make_examples, make_rows, make_system

ROWS = make_rows(2)
# Two agents that read words, each in an order of its own.
WORDS = Topology(
    name="words",
    agents=("planner", "critic"),
    edges=(Edge("planner", "critic", "round"), Edge("critic", "planner", "feedback")),
    output="critic",
)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def make_case(topology=PAIR, rounds=3) -> Case:
    return Case(make_examples(topology, np.float64, rounds=rounds, latent_steps=2))


def prepare(case, rows=ROWS):
    return OBJECTIVES["rollout"].prepare(case.examples, rows)


def at(tree, k):
    return jax.tree.map(lambda x: x[k], tree)


def definition(case, uses):
    """The mean loss of all rows, one at a time, where each turn of each round has its own links."""
    losses = []
    for b, row in enumerate(ROWS):
        messages = {}
        for k, agent, last in case.turns():
            if last:
                losses.append(case.cross_entropy(agent, row, k, messages))
                break
            own = at(uses[agent], k)
            z_MD = case.thoughts(own.links, agent, row, k, messages)
            case.send(messages, own.links, agent, k, z_MD, len(z_MD))
            for name, added_BMD in own.added.items():
                sent_MD, count = messages[k, name]
                messages[k, name] = sent_MD + added_BMD[b], count
    return sum(losses) / len(losses)


@functools.cache
def pair():
    """A case, its batch, and gradients by use."""
    case = make_case()
    batch = prepare(case)
    uses = uses_by_round(case.context, case.links, batch, case.links)
    found = gradients_by_use(case.context, case.params, case.links, batch)
    return case, batch, uses, found


@pytest.mark.extended
def test_one_use_by_finite_differences():
    """Links and messages of a turn in the first round, and of one in between."""
    case, _, uses, (value, grads) = pair()
    np.testing.assert_allclose(value, definition(case, uses), rtol=0, atol=1e-9)
    random, step = np.random.default_rng(0), 1e-5
    for k, agent in ((0, "critic"), (1, "solver")):
        slopes = at(grads[agent], k)
        for part in ("links", "added"):
            tree = jax.tree.map(lambda g: random.standard_normal(g.shape), getattr(slopes, part))
            size = np.sqrt(sum(np.sum(d**2) for d in jax.tree.leaves(tree)))

            def moved(by, agent=agent, part=part, tree=tree, k=k):
                own = getattr(uses[agent], part)
                changed = jax.tree.map(lambda x, way: x.at[k].add(by * way), own, tree)
                return definition(case, uses | {agent: uses[agent].replace(**{part: changed})})

            slope = sum(
                np.sum(g * d) / size
                for g, d in zip(*map(jax.tree.leaves, (getattr(slopes, part), tree)), strict=True)
            )
            measured = (moved(step / size) - moved(-step / size)) / (2 * step)
            np.testing.assert_allclose(measured, slope, rtol=1e-6, atol=1e-9)
    # The output agent writes in the last round, and sends nothing.
    assert not any(map(np.any, jax.tree.leaves(at(grads[PAIR.output], -1))))


def test_rounds_sum_up_to_the_objective():
    """The parts add up to the whole gradient, and their norms are those of training's record."""
    case, batch, _, (value, grads) = pair()
    probes = make_probes(case.context, 3)

    @jax.jit
    def objective(links, params):
        def loss(links, probes):
            return OBJECTIVES["rollout"].loss(case.context, params, links, batch, None, probes)[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(links, probes)

    whole, (links, squares) = objective(case.links, case.params)
    np.testing.assert_allclose(value, whole, rtol=0, atol=1e-12)
    summed = {"inner": {}, "outer": {}}
    for own in grads.values():
        for part in summed:
            summed[part] |= jax.tree.map(lambda x: x.sum(0), own.links[part])
    assert jax.tree.structure(summed) == jax.tree.structure(links)
    for x, y in zip(*map(jax.tree.leaves, (summed, links)), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)
    found = link_gradients(case.context, case.params, case.links, batch)
    size = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(links)))
    np.testing.assert_allclose(found.whole, size, rtol=1e-9)
    for agent, own in grads.items():
        names = {f"{part}/{n}": t for part, trees in own.links.items() for n, t in trees.items()}
        for name, tree in (names | {f"message/{n}": x for n, x in own.added.items()}).items():
            leaves = [np.reshape(x, (3, -1)) for x in jax.tree.leaves(tree)]
            turns = 3 if name.endswith(("inner/critic", "critic->solver")) else 2
            norms = np.linalg.norm(np.concatenate(leaves, axis=1), axis=1)
            assert not norms[turns:].any()
            assert found.norms[name].shape == (turns,) and norms[:turns].min() > 0
            norms = norms[:turns]
            np.testing.assert_allclose(found.norms[name], norms, rtol=1e-9)
        for name, squares_R in squares[agent].items():  # float32 numbers
            np.testing.assert_allclose(
                np.sqrt(squares_R[: len(found.norms[name])]),
                found.norms[name],
                rtol=1e-5,
                atol=1e-12,
            )


def test_added_rounds_change_nothing():
    """One round, and three, of which nothing reads the first two."""
    case = make_case(rounds=1)
    short = prepare(case)
    alone = link_gradients(case.context, case.params, case.links, short)
    longer = link_gradients(case.context, case.params, case.links, with_rounds(short, 3))
    np.testing.assert_allclose(longer.loss, alone.loss, rtol=0, atol=1e-12)
    np.testing.assert_allclose(longer.whole, alone.whole, rtol=1e-9)
    for name, norms in longer.norms.items():
        assert not norms[:2].any()
        np.testing.assert_allclose(norms[2:], alone.norms[name], rtol=1e-9)


def text_definition(case, added, temperature):
    """The loss of the path of text, from probabilities written out, one row at a time."""
    vocabularies = {a: case.system.agents[a].chat.tokenizer.get_vocab() for a in WORDS.agents}
    words = sorted(word for word in vocabularies["planner"] if word[0] not in "<[")
    ids = {a: np.array([own[word] for word in words]) for a, own in vocabularies.items()}
    losses, largest = [], []
    for b, row in enumerate(ROWS):
        messages = {}
        for k, agent, last in case.turns():
            if last:
                losses.append(case.cross_entropy(agent, row, k, messages))
                break
            spec, params = case.spec.model(agent), case.params[agent]
            _, x_TD, n = case.sequence(agent, row, k, messages)
            (edge,) = WORDS.outgoing(agent)
            reader_VD = case.params[edge.dst]["embed"]["weight"][ids[edge.dst]]
            sent = []
            for i in range(case.examples.latent_steps):
                h_D = case.states(agent, x_TD, n + i)[n + i - 1]
                weights_V = jnp.exp(models.unembed(spec, params, h_D)[ids[agent]] / temperature)
                p_V = weights_V / weights_V.sum()
                largest.append(p_V.max())
                sent.append(p_V @ reader_VD)
                x_TD = x_TD.at[n + i].set(p_V @ params["embed"]["weight"][ids[agent]])
            name = edge_name(edge.src, edge.dst)
            messages[k, name] = jnp.stack(sent) + added[name][k, b], len(sent)
    return sum(losses) / len(losses), sum(largest) / len(largest)


def test_the_path_of_text():
    case, temperature = make_case(WORDS, rounds=2), 0.5
    batch = prepare(case)
    tokens = shared_tokens(case.system)
    found = text_gradients(case.context, case.params, tokens, batch, temperature)
    uses = uses_by_round(case.context, {}, batch, case.params)
    added = {name: x for own in uses.values() for name, x in own.added.items()}
    (value, largest), grads = jax.value_and_grad(
        lambda added: text_definition(case, added, temperature), has_aux=True
    )(added)
    np.testing.assert_allclose(found.loss, value, rtol=0, atol=1e-9)
    assert found.whole == 0 and set(found.norms) == {f"message/{name}" for name in grads}
    for name, grad_RBMD in grads.items():
        turns = 1 if name.startswith(WORDS.output) else 2
        norms = np.linalg.norm(np.reshape(grad_RBMD, (2, -1)), axis=1)[:turns]
        assert norms.min() > 1e-6
        np.testing.assert_allclose(found.norms[f"message/{name}"], norms, rtol=1e-8)
    mean = np.concatenate(list(found.confidence.values())).mean()
    np.testing.assert_allclose(mean, largest, rtol=0, atol=1e-9)


def test_tokens_are_those_of_all_agents():
    system = make_system(WORDS)
    tokens = shared_tokens(system)
    texts = {
        agent: system.agents[agent].chat.tokenizer.convert_ids_to_tokens(ids.tolist())
        for agent, ids in tokens.items()
    }
    assert texts["planner"] == texts["critic"] and set(texts["planner"]) == {
        *("ab", "c", "def", "g", "hi", "kk", "l", "m")
    }
    assert tokens["planner"].tolist() != tokens["critic"].tolist()
    with pytest.raises(InputError, match=r"'critic' and 'solver' differ in .* does not exist"):
        shared_tokens(make_system(PAIR))


def test_small_numbers_have_a_norm():
    """Also where their squares are no numbers any more."""
    tree = [jnp.array([[3e-30, 0.0], [0.0, 0.0]], jnp.float32), jnp.array([[4e-30], [0.0]])]
    np.testing.assert_allclose(_norm_by_round(tree), [5e-30, 0], rtol=1e-6)
