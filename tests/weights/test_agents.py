"""Weights of several agents as one tree."""

import jax
import jax.numpy as jnp

from rmas.weights.agents import AgentParams


def test_shared_weights_are_there_once_and_stay_shared():
    own, shared = {"w": jnp.ones(2)}, {"w": jnp.zeros(3), "b": jnp.ones(1)}
    params = AgentParams(planner=shared, critic=own, solver=shared)
    leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(params)}
    assert list(leaves) == ["['planner']['b']", "['planner']['w']", "['critic']['w']"]

    seen = []

    @jax.jit
    def program(params):
        seen.append(params["solver"] is params["planner"])
        return jax.tree.map(lambda x: x + 1, params)

    got = program(params)
    assert seen == [True]
    assert list(got) == ["planner", "critic", "solver"]
    assert got["solver"] is got["planner"]
    assert (got["solver"]["w"] == 1).all() and (got["critic"]["w"] == 2).all()
    program(AgentParams(planner=shared, critic=own, solver=dict(shared)))
    assert seen == [True, False]


def test_the_same_sharing_is_the_same_structure():
    first, second = {"w": 1}, {"w": 2}
    one = AgentParams(a=first, b=first)
    assert jax.tree.structure(one) == jax.tree.structure(AgentParams(a=second, b=second))
    assert jax.tree.structure(one) != jax.tree.structure(AgentParams(a=first, b=second))
