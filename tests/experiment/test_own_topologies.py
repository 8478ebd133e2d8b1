"""Patterns written in a config: made, refused by name, and links that know where they belong."""

import json
import re
from importlib import resources

import pytest

from rmas.errors import InputError
from rmas.experiment.links import read_links, write_links
from rmas.system.prompts import load
from rmas.system.styles import SEQUENTIAL
from rmas.tools import FunctionTool
from support.experiments import experiment, settings

DOUBLE = FunctionTool("double", "a number; its double comes back", lambda body: body)


def topology(**changes):
    """The debate's topology with some fields changed."""
    return settings(
        "debate", **{f"system__topology__{name}": value for name, value in changes.items()}
    ).system.graph()


def test_the_embedded_systems():
    for name, agents in (("chain", 5), ("debate", 3)):
        found = settings(name).system.graph()
        assert (found.name, len(found.agents)) == (name, agents)
        load(name).check(found, name)
    assert settings().system.graph() == SEQUENTIAL


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"round": ("pro->judge", "con->jury")}, "edge con->jury names unknown agent 'jury'"),
        ({"round": ("pro->judge",), "feedback": ("judge->con",)},
         "no message of 'con' reaches the output agent"),
        ({"round": ("pro->con", "con->pro", "con->judge"), "feedback": ()},
         "round edges pro->con->pro form a cycle"),
        ({"output": "jury"}, "output 'jury' is not an agent"),
        ({"round": ("pro judge",)}, "edge 'pro judge' is not a pair of agents"),
        ({"agents": ("pro", "judge")}, "names unknown agent 'con'"),
        ({"roles": {"porro": "pro"}}, "role 'pro' is given to unknown agent 'porro'"),
    ],
)  # fmt: skip
def test_refused(changes, told):
    with pytest.raises(InputError, match=re.escape(told)):
        topology(**changes)


def test_two_outputs_are_refused():
    with pytest.raises(InputError, match=r"topology\.output is .*judge.*it must be str"):
        topology(output=("pro", "judge"))


def test_a_known_name_is_not_taken():
    with pytest.raises(
        InputError, match=r"topology\.name is 'sequential'; that is a known topology"
    ):
        topology(name="sequential")
    with pytest.raises(InputError, match=r"topology\.name is 'debate'; known topologies are"):
        settings("debate", system__topology={"name": "debate"})


def test_other_agents_than_the_topology_has_are_refused():
    with pytest.raises(
        InputError, match=r"system\.agents are a, b; topology 'debate' has pro, con"
    ):
        settings("debate", system__agents={"a": "x", "b": "y"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"round": ("pro->judge",), "feedback": ("pro->con", "con->pro", "judge->pro")},
         "role 'con', 'later' prompt: slot {slot:judge} has no edge judge->con in this phase"),
        ({"feedback": ("pro->con", "con->pro", "judge->pro", "judge->con", "judge->judge")},
         "role 'judge', 'later' prompt: edge judge->judge has no slot; add {slot:judge}"),
    ],
    ids=["slot without edge", "edge without slot"],
)  # fmt: skip
def test_slots_and_edges_belong_together(changes, told):
    with pytest.raises(InputError, match=re.escape(told)):
        load("debate").check(topology(**changes), "debate")


def write(run, folder):
    """Untrained links of an experiment, as training writes them."""
    write_links(folder, run.untrained_links(), run.manifest())


def test_links_of_another_topology_are_refused_with_the_difference(tmp_path):
    write(experiment(tmp_path, "debate"), tmp_path / "links")
    raw = (resources.files("rmas.system") / "prompt_sets" / "debate.json").read_text()
    (tmp_path / "prompts.json").write_text(raw.replace("{slot:pro} {slot:judge}", "{slot:pro}"))
    fewer = experiment(
        tmp_path,
        "debate",
        system__prompts=str(tmp_path / "prompts.json"),
        system__topology__feedback=("pro->con", "con->pro", "judge->pro"),
    )
    told = "trained in another topology: edge judge->con (feedback) only there"
    with pytest.raises(InputError, match=re.escape(told)):
        read_links(tmp_path / "links", fewer.outline.link_template, fewer.manifest())


@pytest.mark.parametrize("named", [None, [], {"edges": [{"src": "pro"}]}, {"edges": 3}, 7])
def test_a_manifest_that_names_no_topology_is_refused(tmp_path, named):
    whole = experiment(tmp_path, "debate")
    write(whole, tmp_path / "links")
    path = tmp_path / "links" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"topology": named}))
    with pytest.raises(InputError, match="does not say what topology") as error:
        read_links(tmp_path / "links", whole.outline.link_template, whole.manifest())
    assert "\n" not in str(error.value)


def test_tools_of_a_config(tmp_path):
    tools = {"agents": ("judge",), "names": (), "functions": (DOUBLE,), "calls": 2}
    system = experiment(tmp_path, "debate", tools=tools).system
    assert list(system.tools) == ["judge"]
    assert system.tools["judge"].names == {"double"}
    assert system.tools["judge"].calls == 2
    # What prompts do not say of a tool enters the system message, and the facts of the links.
    assert system.facts()["tools"] == {
        "judge": "<double>...</double>: a number; its double comes back"
    }


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ({"agents": ("jury",)}, "tools.agents: unknown agent 'jury'; known: pro, con, judge"),
        ({"agents": ("judge",), "names": ("search",)}, "tools.index names no index"),
        ({"names": (), "functions": (DOUBLE,)}, "tools.functions are given to nobody"),
        ({"agents": ("judge",), "names": ("search",), "index": "none.db"}, "none.db"),
        ({"agents": ("judge",), "names": ("perl",)}, "it must be 'python' or 'search'"),
        ({"calls": 0}, "tools.calls is 0"),
        ({"seconds": 0.0}, "tools.seconds is 0.0"),
        ({"seconds": float("inf")}, "tools.seconds is inf"),
        (
            {"agents": ("judge",), "names": ()},
            "tools.agents is ('judge',) (tuple); they may call nothing",
        ),
    ],
)
def test_tools_that_cannot_work_are_told_at_the_start(tmp_path, tools, told):
    with pytest.raises(InputError, match=re.escape(told)):
        _ = experiment(tmp_path, "debate", tools=tools).system


def test_deliberation_calls_tools_unless_told_not_to(tmp_path):
    """Without an index that is reported before anything is loaded, with the ways out."""
    base = settings("debate").system.agents["judge"]
    changes = {
        "system__topology": {"name": "deliberation"},
        "system__agents": {"reflector": base, "toolcaller": base},
        "system__prompts": "default",
        "system__task_family": "math",
    }
    told = "reflector, toolcaller may search, but tools.index names no index"
    with pytest.raises(InputError, match=told):
        _ = experiment(tmp_path, "debate", **changes).system
    assert experiment(tmp_path, "debate", **changes, tools__names=()).system.tools == {}
