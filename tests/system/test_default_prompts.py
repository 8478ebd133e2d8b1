"""The packaged prompts of all released patterns: where the slots stand, and what they ask for."""

import itertools

import pytest

from rmas.system import prompts
from rmas.system.prompts import Field, Slot
from rmas.system.styles import TOPOLOGIES
from rmas.system.topology import Topology

FAMILIES = ("math", "choice", "code")
ROLES = [(t.name, agent) for t in TOPOLOGIES.values() for agent in t.agents]
TITLES = {"math": "mathematics expert", "code": "programming expert", "science": "science expert"}
QUESTION = Field("question")


@pytest.fixture(scope="module")
def default():
    return prompts.load("default")


def words(parts) -> str:
    return "".join(p for p in parts if isinstance(p, str))


def slots(parts) -> list[str]:
    return [p.source for p in parts if isinstance(p, Slot)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_slots_fit_the_edges(name, family, default):
    default.check(TOPOLOGIES[name], family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "role"), ROLES)
def test_what_a_prompt_holds(name, role, family, default):
    """The question once, the interface of code, the answer's form for the output agent alone."""
    topology = TOPOLOGIES[name]
    for phase in ("first", "later"):
        parts = default.template(role, family, phase)
        fields = [p.name for p in parts if isinstance(p, Field)]
        assert fields == ["question"] + ["interface"] * (family == "code")
        text = words(parts)
        answers = role == topology.output
        assert ("\\boxed{}" in text) == (answers and family != "code")
        assert ("```python" in text) == (answers and family == "code")
        assert f"You are the {TITLES.get(role, role)}." in text
        assert "  " not in text
        assert "\n\n\n" not in "".join(p if isinstance(p, str) else "..." for p in parts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "role"), ROLES)
def test_where_slots_stand(name, role, family, default):
    """Messages come after all else that rounds share: what stands before them is read once."""
    topology = TOPOLOGIES[name]
    for phase in ("first", "later"):
        parts = default.template(role, family, phase)
        wanted = [e.src for e in topology.incoming(role) if e.when == "round" or phase == "later"]
        assert slots(parts) == wanted
        asked = max(i for i, part in enumerate(parts) if isinstance(part, Field))
        assert slots(parts[asked:]) == wanted
        shared = default.template(role, family, "first")[: asked + 1]
        assert parts[: asked + 1] == shared


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_slots_stand_on_lines_of_their_own(name, family, default):
    for agent, phase in itertools.product(TOPOLOGIES[name].agents, ("first", "later")):
        parts = default.template(agent, family, phase)
        for i, part in enumerate(parts):
            if isinstance(part, Slot):
                assert parts[i - 1].endswith(":\n")
                assert parts[i + 1].startswith("\n\n")


def test_agents_that_get_feedback_are_told_so_in_later_rounds_only(default):
    for topology in TOPOLOGIES.values():
        for agent, family in itertools.product(topology.before, FAMILIES):
            first, later = (default.template(agent, family, p) for p in ("first", "later"))
            fed = any(e.when == "feedback" for e in topology.incoming(agent))
            assert (first != later) == fed
            assert "last attempt" not in words(first)
            assert ("last attempt" in words(later)) == fed


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_roles_are_told_the_same(family, default):
    texts = [words(default.template(role, family, "first")) for _, role in ROLES]
    assert len(set(texts)) == len(texts) == 11


def test_only_deliberation_has_tools(default):
    for name, topology in TOPOLOGIES.items():
        system = default.system_text(topology)
        for tag in ("search", "python", "result"):
            has = f"<{tag}>" in system and f"</{tag}>" in system
            assert has == (name == "deliberation")
        prompted = " ".join(
            words(default.template(a, f, p))
            for a in topology.agents
            for f in FAMILIES
            for p in ("first", "later")
        )
        assert ("tool" in prompted) == (name == "deliberation")


@pytest.mark.parametrize("role", ["planner", "critic", "solver", "single"])
@pytest.mark.parametrize("family", ["math", "choice", "code"])
def test_sequential_prompts(role, family):
    """Every prompt asks the question once, code with its interface; answers have their form."""
    s = prompts.load("default")
    for phase in ("first", "later"):
        parts = s.template(role, family, phase)
        fields = [p.name for p in parts if isinstance(p, Field)]
        assert fields == ["question"] + ["interface"] * (family == "code")
        text = "".join(p for p in parts if isinstance(p, str))
        answers = role in ("solver", "single")
        assert ("\\boxed{}" in text) == (answers and family != "code")
        assert ("```python" in text) == (answers and family == "code")
        question, slot = parts.index(QUESTION), [isinstance(p, Slot) for p in parts]
        assert not any(slot[:question])
    assert Field("name") in s.interface["function"]
    assert s.interface.keys() == {"function", "unnamed_function", "program"}
    style = Topology("deliberation", ("a",), (), "a")
    assert all(f"<{tag}>" in s.system_text(style) for tag in ("search", "python", "result"))
