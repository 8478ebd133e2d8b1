"""The objectives of one hop against their definitions, values and gradients, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.system.encode import Slot
from rmas.system.rendered import phase
from rmas.training.objectives import OBJECTIVES, hops
from support.tiny_training import BEHIND, PAIR, Case, make_examples, make_rows

ROWS = make_rows(4)[:2]
KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def filled(case, agent, row, k):
    """Ids of a prompt with the senders' texts in its slots."""
    chat, ids = case.system.agents[agent].chat, []
    for run in case.examples.renderer.encoded(agent, row.question, phase(k)):
        if isinstance(run, Slot):
            (edge,) = (e for e in case.topology.incoming(agent) if e.src == run.source)
            at = max(k - (edge.when == "feedback"), 0)
            text = chat.data_ids(row.text(run.source, at))
            ids += text[: case.examples.message_tokens or None]
        else:
            ids += run
    return ids


def logits(case, agent, ids, x_TD):
    h_TD = case.states(agent, x_TD, len(ids))
    return models.unembed(case.spec.model(agent), case.params[agent], h_TD)


def embedded(case, agent, ids):
    padded = np.array([*ids, *[0] * (64 - len(ids))])
    return case.params[agent]["embed"]["weight"][padded]


def hop_losses(case, links, row, own, distill):
    """By round and reader, of turns that read messages; `own`: rollouts read them, else texts."""
    messages, losses = {}, {}
    for k, agent, last in case.turns():
        read = [e for e in case.topology.incoming(agent) if e.when == "round" or k]
        if read:
            text = case.ids(agent, row, k)
            ids_T, x_TD, n = case.sequence(agent, row, k, messages, text)
            log_p_TV = jax.nn.log_softmax(logits(case, agent, ids_T[:n], x_TD))
            taught = [*filled(case, agent, row, k), *text]
            p_TV = jax.nn.softmax(logits(case, agent, taught, embedded(case, agent, taught)))
            terms = []
            for i in range(len(text)):
                at, from_end = n - len(text) + i, len(taught) - len(text) + i
                if distill:
                    p_V = p_TV[from_end - 1]
                    terms.append(p_V @ (jnp.log(p_V) - log_p_TV[at - 1]))
                else:
                    terms.append(-log_p_TV[at - 1, ids_T[at]])
            losses[k, agent] = sum(terms) / len(terms)
        if last:
            return losses
        if own:
            constant = jax.tree.map(jax.lax.stop_gradient, messages)
            z_MD = case.thoughts(links, agent, row, k, constant)
        else:
            z_MD = rolled_out(case, links, agent, filled(case, agent, row, k))
        case.send(messages, links, agent, k, z_MD, len(z_MD))
    raise AssertionError("the output agent ends the last round")


def hop_loss(case, links, row, own, distill):
    """Their mean, and each of them."""
    losses = hop_losses(case, links, row, own, distill)
    return sum(losses.values()) / len(losses), losses


def rolled_out(case, links, agent, ids):
    x_TD, n, z = embedded(case, agent, ids), len(ids), []
    for i in range(case.examples.latent_steps):
        h_D = case.states(agent, x_TD, n + i)[n + i - 1]
        z.append(case.spec.links.inner(links, agent, h_D))
        x_TD = x_TD.at[n + i].set(z[-1])
    return jnp.stack(z)


def value_and_gradient(name, case, rows, on_policy):
    context = dataclasses.replace(case.context, on_policy=on_policy)
    batch = OBJECTIVES[name].prepare(case.examples, rows)

    @jax.jit
    def both(links, params):
        loss = OBJECTIVES[name].loss
        return jax.value_and_grad(
            lambda links: loss(context, params, links, batch, KEY), has_aux=True
        )(links)

    (loss, metrics), gradient = both(case.links, case.params)
    return (loss, gradient), metrics


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == jnp.float64
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def mean(trees):
    return jax.tree.map(lambda *x: sum(x) / len(x), *trees)


@pytest.mark.parametrize("own", [True, False], ids=["own messages", "texts"])
@pytest.mark.parametrize("name", ["hop", "distill"])
def test_values_and_gradients_are_those_of_the_definition(name, own):
    case = Case(make_examples(BEHIND, np.float64, rounds=2, message_tokens=2))
    found, metrics = value_and_gradient(name, case, ROWS, float(own))
    rows = [
        jax.value_and_grad(
            lambda x, row=row: hop_loss(case, x, row, own, name == "distill"), has_aux=True
        )(case.links)
        for row in ROWS
    ]
    close(found, mean([(loss, gradient) for (loss, _), gradient in rows]))
    losses = mean([losses for (_, losses), _ in rows])
    by_round = [[loss for (k, _), loss in losses.items() if k == round_] for round_ in (0, 1)]
    close(metrics.pop(f"{name}/round"), jnp.stack([mean(own) for own in by_round]))
    for reader, value in metrics.items():
        own = [x for (_, a), x in losses.items() if f"{name}/reader/{a}" == reader]
        close(value, mean(own))
    assert {f"{name}/reader/{agent}" for _, agent in losses} == set(metrics)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found[1]):
        assert np.any(leaf), path


@pytest.mark.parametrize("name", ["hop", "distill"])
def test_the_key_chooses_rows(name):
    case = Case(make_examples(PAIR, np.float64, rounds=1))
    draws = jax.random.bernoulli(KEY, 0.5, (2, 1)).ravel().tolist()
    assert set(draws) == {True, False}
    mixed, _ = value_and_gradient(name, case, ROWS, 0.5)
    alone = [
        value_and_gradient(name, case, [row, row], float(own))[0]
        for row, own in zip(ROWS, draws, strict=True)
    ]
    close(mixed, mean(alone))


def test_rows_that_are_nothing_but_text_are_finite():
    """What is cut from the left may reach the text; its first token is then not predicted."""
    case = Case(make_examples(PAIR, np.float64, rounds=2, max_length=6))
    batch = hops.HOP.prepare(case.examples, ROWS)
    for reading in batch.readings.values():
        texts_RB = reading.own_text.valid_BT.sum(-1)
        assert (reading.wanted_BL.sum(-1) < texts_RB).all()
    found, _ = value_and_gradient("distill", case, ROWS, 0.5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_what_nobody_read_has_no_loss():
    """In one round the first agent of a pair has messages by feedback alone, so none yet."""
    case = Case(make_examples(PAIR, np.float64, rounds=1))
    (loss, gradient), metrics = value_and_gradient("hop", case, ROWS, 0.5)
    assert np.isnan(metrics["hop/reader/critic"])
    close(metrics["hop/reader/solver"], loss)
    close(metrics["hop/round"], loss[None])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
