"""Topologies: what is refused, and the orders that the engine relies on."""

import dataclasses
import re

import pytest

from rmas.errors import InputError
from rmas.system.styles import SEQUENTIAL, STYLES
from rmas.system.topology import Edge, Topology, single

AB = {"name": "t", "agents": ("a", "b"), "edges": (Edge("a", "b", "round"),), "output": "b"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"agents": ("a", "b", "a")}, "an agent is named twice in ('a', 'b', 'a')"),
        ({"output": "c"}, "output 'c' is no agent; known: ('a', 'b')"),
        ({"edges": (Edge("a", "x", "round"),)}, "edge a->x names unknown agent 'x'"),
        ({"edges": (Edge("x", "b", "feedback"),)}, "edge x->b names unknown agent 'x'"),
        ({"edges": (Edge("a", "b", "later"),)}, "edge a->b: when must be round or feedback"),
        ({"edges": (Edge("b", "a", "round"),)}, "round edge b->a runs against the order"),
        (
            {"edges": (*AB["edges"], Edge("b", "b", "round"))},
            "round edge b->b runs against the order",
        ),
        (
            {"edges": (*AB["edges"], Edge("a", "b", "feedback"))},
            "edge a->b is named twice",
        ),
        ({"edges": ()}, "nothing that 'a' says reaches the output agent"),
        (
            {"output": "a"},
            "nothing that 'b' says reaches the output agent",
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
    assert STYLES == {"sequential": SEQUENTIAL}
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
