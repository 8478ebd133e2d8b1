"""Topologies: what is refused, and the orders that the engine relies on."""

import dataclasses
import json
import re

import pytest

from rmas.errors import InputError
from rmas.system.styles import SEQUENTIAL, TOPOLOGIES
from rmas.system.topology import Edge, Topology, difference, parse_edge, single

AB = {"name": "t", "agents": ("a", "b"), "edges": (Edge("a", "b", "round"),), "output": "b"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"agents": ("a", "b", "a")}, "an agent is named twice in ('a', 'b', 'a')"),
        ({"output": "c"}, "output 'c' is not an agent; known: a, b"),
        ({"edges": (Edge("a", "x", "round"),)}, "edge a->x names unknown agent 'x'"),
        ({"edges": (Edge("x", "b", "feedback"),)}, "edge x->b names unknown agent 'x'"),
        (
            {"edges": (Edge("a", "b", "later"),)},
            "edge a->b: when is 'later'; write round or feedback",
        ),
        ({"output": ("a", "b")}, "output must be one agent, not a, b"),
        ({"roles": (("x", "a"),)}, "role 'a' is given to unknown agent 'x'"),
        ({"callers": ("x",)}, "callers names unknown agent 'x'"),
        ({"edges": (Edge("b", "a", "round"),)}, "round edge b->a runs against the order"),
        (
            {"edges": (*AB["edges"], Edge("b", "b", "round"))},
            "round edges b->b form a cycle; make one a feedback edge",
        ),
        (
            {"edges": (*AB["edges"], Edge("b", "a", "round"))},
            "round edges a->b->a form a cycle",
        ),
        (
            {
                "agents": ("x", "a", "b", "c"),
                "edges": (
                    Edge("x", "a", "round"),
                    Edge("a", "b", "round"),
                    Edge("b", "c", "round"),
                    Edge("c", "a", "round"),
                ),
            },
            "round edges a->b->c->a form a cycle",
        ),
        (
            {"edges": (*AB["edges"], Edge("a", "b", "feedback"))},
            "edge a->b is named twice",
        ),
        ({"edges": ()}, "no message of 'a' reaches the output agent"),
        (
            {"output": "a"},
            "no message of 'b' reaches the output agent",
        ),
    ],
)
def test_refused(changes, told):
    with pytest.raises(InputError, match=re.escape(f"topology 't': {told}")) as e:
        Topology(**(AB | changes))
    assert "\n" not in str(e.value)


def test_messages_may_take_any_way_to_the_output():
    """Through other agents, and through the next round."""
    Topology("t", ("a", "b", "c"), (Edge("c", "a", "feedback"), Edge("a", "b", "round")), "b")


def test_incoming_puts_round_edges_first():
    topology = Topology(
        name="t",
        agents=("a", "b", "c", "d"),
        edges=(
            Edge("d", "c", "feedback"),
            Edge("b", "c", "round"),
            Edge("c", "d", "round"),
            Edge("c", "c", "feedback"),
            Edge("a", "c", "round"),
        ),
        output="c",
    )
    incoming = topology.incoming("c")
    assert [(e.src, e.when) for e in incoming] == [
        ("b", "round"),
        ("a", "round"),
        ("d", "feedback"),
        ("c", "feedback"),
    ]
    assert [e.dst for e in topology.outgoing("c")] == ["d", "c"]
    assert topology.before == ("a", "b")
    assert topology.after == ("d",)
    assert topology.link_edges == (("d", "c"), ("b", "c"), ("c", "d"), ("c", "c"), ("a", "c"))


def test_single():
    topology = single("solver")
    assert topology.agents == ("solver",)
    assert topology.output == "solver"
    assert topology.edges == topology.before == topology.after == ()
    assert topology.role("solver") == "single"


def test_sequential():
    assert TOPOLOGIES["sequential"] is SEQUENTIAL
    assert SEQUENTIAL.agents == ("planner", "critic", "solver")
    assert SEQUENTIAL.output == "solver"
    assert {dataclasses.astuple(e) for e in SEQUENTIAL.edges} == {
        ("planner", "critic", "round"),
        ("critic", "solver", "round"),
        ("solver", "planner", "feedback"),
    }
    assert [SEQUENTIAL.role(a) for a in SEQUENTIAL.agents] == list(SEQUENTIAL.agents)


def test_topologies_are_static_facts():
    """Equal ones hash alike, so that equal systems share compiled programs."""
    assert hash(Topology(**AB)) == hash(Topology(**AB))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEQUENTIAL.output = "critic"


@pytest.mark.parametrize("name", ["a->b", "a/b", "", "..", "a b"])
def test_agent_names_that_would_break_paths_or_edges_are_refused(name):
    with pytest.raises(InputError, match="agent name"):
        Topology(name="t", agents=(name,), edges=(), output=name)


@pytest.mark.parametrize("text", ["a", "a->", "->b", "a->b->c", "a-b", ""])
def test_no_edges(text):
    with pytest.raises(InputError, match="is not a pair of agents; write src->dst"):
        parse_edge(text, "round")


def test_difference_names_agents_and_edges():
    here = dataclasses.asdict(SEQUENTIAL)
    assert difference(json.loads(json.dumps(here)), here) == ""
    assert difference(here | {"name": "other"}, here) == ""
    fewer = here | {"edges": here["edges"][:2]}
    assert difference(fewer, here) == "edge solver->planner (feedback) only here"
    assert difference(here, fewer) == "edge solver->planner (feedback) only there"
    turned = [e | {"when": "round"} for e in here["edges"]]
    assert difference(here | {"edges": turned}, here) == (
        "edge solver->planner (round) only there; edge solver->planner (feedback) only here"
    )
    told = difference(here | {"agents": ["a", "b"], "output": "b"}, here)
    assert told == "agents a, b there, planner, critic, solver here; output b there, solver here"
    assert "roles" in difference(here | {"roles": [["solver", "single"]]}, here)
    assert difference({}, here).startswith("agents None there")
