"""The released systems as data: they name what is on the hub and on disk, and hang together."""

import dataclasses

import pytest

from rmas.models.base import base_models
from rmas.system.styles import STYLES, TOPOLOGIES

HUB = """
Sequential-Light-Planner-Qwen3-1.7B Sequential-Light-Critic-Llama3.2-1B
Sequential-Light-Solver-Qwen2.5-Math-1.5B Sequential-Light-Outerlinks
Sequential-Scaled-Planner-Gemma3-4B Sequential-Scaled-Critic-Llama3.2-3B
Sequential-Scaled-Solver-Qwen3.5-4B Sequential-Scaled-Outerlinks
Mixture-Math-DeepSeek-R1-Distill-Qwen-1.5B Mixture-Code-Qwen2.5-Coder-3B
Mixture-Science-BioMistral-7B Mixture-Summarizer-Qwen3.5-2B Mixture-Outerlinks
Distillation-Expert-Qwen3.5-9B Distillation-Learner-Qwen3.5-4B Distillation-Outerlinks
Deliberation-Reflector-Qwen3.5-4B Deliberation-Toolcaller-Qwen3.5-4B Deliberation-Outerlinks
"""

KEYS = {
    "sequential_light": "outer_12 outer_23 outer_31",
    "sequential_scaled": "outer_12 outer_23 outer_31",
    "mixture": "outer_1s outer_2s outer_3s outer_s1 outer_s2 outer_s3",
    "distillation": "outer_el outer_le",
    "deliberation": "outer_rt outer_tr",
}


def test_hub_ids():
    found = []
    for style in STYLES.values():
        found += [agent.hub_id for agent in style.agents.values()] + [style.outer_hub_id]
    assert found == [f"RecursiveMAS/{name}" for name in HUB.split()]


@pytest.mark.parametrize("name", STYLES)
def test_a_style_hangs_together(name):
    style = STYLES[name]
    assert style.name == name
    assert TOPOLOGIES[style.topology.name] is style.topology
    assert tuple(style.agents) == style.topology.agents
    assert list(style.legacy_keys) == list(style.topology.link_edges)
    assert " ".join(style.legacy_keys.values()) == KEYS[name]
    for agent, released in style.agents.items():
        assert released.label.lower() == agent
        assert f"-{released.label}-" in released.hub_id
        # The repository is named after the base model, more or less.
        size = released.hub_id.rsplit("-", 1)[1]
        assert size in released.base_model.upper()


def test_keys_of_links_are_numbered_in_the_order_of_agents():
    """`outer_23` leads from the second agent to the third, `outer_s1` back to the first."""
    for style in STYLES.values():
        names = {a: {a[0], str(i + 1)} for i, a in enumerate(style.topology.agents)}
        for (src, dst), key in style.legacy_keys.items():
            assert key[-2] in names[src], key
            assert key[-1] in names[dst], key


def test_base_models_are_those_that_are_known():
    named = {a.base_model for s in STYLES.values() for a in s.agents.values()}
    assert named == set(base_models())


@pytest.mark.parametrize(
    ("name", "before", "output"),
    [
        ("sequential", ("planner", "critic"), "solver"),
        ("mixture", ("math", "code", "science"), "summarizer"),
        ("distillation", ("expert",), "learner"),
        ("deliberation", ("reflector",), "toolcaller"),
    ],
)
def test_topologies(name, before, output):
    topology = TOPOLOGIES[name]
    assert topology.name == name
    assert (topology.before, topology.output, topology.after) == (before, output, ())
    assert [topology.role(a) for a in topology.agents] == list(topology.agents)
    for edge in topology.edges:
        assert edge.when == ("feedback" if edge.src == output else "round")
    assert list(TOPOLOGIES) == ["sequential", "mixture", "distillation", "deliberation"]


def test_experts_speak_to_the_summarizer_only_and_in_order():
    mixture = TOPOLOGIES["mixture"]
    assert [e.src for e in mixture.incoming("summarizer")] == ["math", "code", "science"]
    assert [e.dst for e in mixture.outgoing("summarizer")] == ["math", "code", "science"]
    for expert in ("math", "code", "science"):
        assert [e.src for e in mixture.incoming(expert)] == ["summarizer"]


def test_whose_links_a_family_uses():
    for name in ("sequential_light", "sequential_scaled", "distillation"):
        tasks = [STYLES[name].link_task(f) for f in ("math", "choice", "code", "reasoning")]
        assert tasks == ["math", "math", "code", "math"]
    for name in ("mixture", "deliberation"):
        assert STYLES[name].link_task("math") is STYLES[name].link_task("code") is None


def test_styles_are_facts():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STYLES["mixture"].task_scoped = True
