"""Every topology is data for one engine: the scan against a plain loop over rounds."""

import functools

import jax
import numpy as np
import pytest

from rmas import models
from rmas.links import edge_name
from rmas.system.styles import DELIBERATION, DISTILLATION, MIXTURE, SEQUENTIAL
from rmas.system.topology import Edge, single
from rmas.system.turn import inputs, rollout, send
from support.experiments import settings
from support.tiny_systems import FAMILIES, Case, mixture

DEBATE, CHAIN = (settings(name).system.graph() for name in ("debate", "chain"))
TOPOLOGIES = {t.name: t for t in (SEQUENTIAL, MIXTURE, DISTILLATION, DELIBERATION, DEBATE)}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def turn(topology, spec, agent, steps, params, links, prompt, incoming):
    """Messages of one agent in one round. Rounds after the first share its program."""
    x_BTD = inputs(spec.model(agent), params, prompt, incoming)
    _, z_BMD = rollout(spec, params, links, agent, x_BTD, prompt.valid_BT, steps)
    return send(topology, spec, links, agent, z_BMD)


@functools.partial(jax.jit, static_argnums=(0, 1))
def answer(spec, agent, params, prompt, incoming):
    """Logits behind the prompt, `[B, V]`."""
    model = spec.model(agent)
    x_BTD = inputs(model, params, prompt, incoming)
    h_BD, _ = models.prefill(model, params, x_BTD, prompt.valid_BT)
    return models.unembed(model, params, h_BD)


def unrolled(case: Case, params, links, prompts):
    """What the output agent would write first, `[B, V]`, round after round, agent after agent."""
    topology, spec, out = case.topology, case.spec, case.topology.output
    messages = {}
    for k in range(case.rounds):
        for agent in topology.agents:
            prompt = jax.tree.map(lambda x, k=k: x[k], prompts[agent])
            incoming = tuple(
                messages[made, edge_name(e.src, e.dst)]
                for e in topology.incoming(agent)
                if (made := k - (e.when == "feedback")) >= 0
            )
            if k == case.rounds - 1 and agent == out:
                return answer(spec, agent, params[agent], prompt, incoming)
            sent = turn(topology, spec, agent, case.steps, params[agent], links, prompt, incoming)
            messages |= {(k, name): z_BMD for name, z_BMD in sent.items()}
    raise AssertionError("the output agent ends the last round")


@pytest.mark.extended
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_scan_is_a_loop_over_rounds(name):
    """Values and gradients, of three rounds."""
    case = Case(TOPOLOGIES[name], rounds=3, steps=2)

    def of(logits):
        def loss(links, params, prompts):
            values = logits(params, links, prompts)
            return mixture(values), values

        return jax.grad(loss, has_aux=True)

    arguments = case.links, case.params, case.prompts()
    gradient, values = jax.jit(of(case.logits))(*arguments)
    wanted, expected = of(functools.partial(unrolled, case))(*arguments)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
    assert jax.tree.structure(gradient) == jax.tree.structure(wanted)
    for edge, params in gradient["outer"].items():
        assert all(np.any(leaf) for leaf in jax.tree.leaves(params)), edge
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_long_chain():
    """Five agents of one model, by the definition: no cache, no scan."""
    families = (*FAMILIES, ("llama", 16))
    case = Case(CHAIN, rounds=2, steps=2, rows=1, families=families)
    logits = jax.jit(case.logits)(case.params, case.links, case.prompts())
    np.testing.assert_allclose(logits[0], case.naive_logits(case.links, 0), rtol=0, atol=1e-9)


def test_an_agent_alone():
    case = Case(single("a"), rounds=1, steps=1)
    logits = jax.jit(case.logits)(case.params, case.links, case.prompts())
    expected = [case.naive_logits(case.links, row) for row in range(case.rows)]
    np.testing.assert_allclose(logits, np.stack(expected), rtol=0, atol=1e-9)


def test_example_topologies_are_what_their_configs_say():
    assert DEBATE.incoming("pro") == (
        Edge("con", "pro", "feedback"),
        Edge("judge", "pro", "feedback"),
    )
    assert DEBATE.output == "judge" and DEBATE.after == ()
    assert len(CHAIN.agents) == 5 and CHAIN.output == CHAIN.agents[-1]
    assert [e.when for e in CHAIN.edges] == ["round"] * 4 + ["feedback"]
