"""Patterns written in a config: made, refused by name, and links that know where they belong."""

import json
import re
from importlib import resources

import pytest

from experiments.assembly import Assembly
from experiments.configs import tiny_chain, tiny_debate, tiny_sequential
from experiments.freeze import freeze
from experiments.settings import Settings
from rmas.errors import InputError
from rmas.system.prompts import load
from rmas.system.styles import SEQUENTIAL
from rmas.tools import FunctionTool

DOUBLE = FunctionTool("double", "a number; its double comes back", lambda body: body)


def pattern(**changes):
    """The debate's pattern with some fields changed."""
    config = tiny_debate.get_config()
    config.system.topology.update(changes)
    return freeze(config, Settings).system.pattern()


def test_the_shipped_examples():
    for module in (tiny_chain, tiny_debate):
        settings = freeze(module.get_config(), Settings)
        topology = settings.system.pattern()
        assert topology.agents == module.AGENTS
        load(settings.system.prompts).check(topology, settings.system.task_family)
    assert freeze(tiny_sequential.get_config(), Settings).system.pattern() is SEQUENTIAL


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"round": ("pro->judge", "con->jury")}, "edge con->jury names unknown agent 'jury'"),
        ({"round": ("pro->judge",), "feedback": ("judge->con",)},
         "nothing that 'con' says reaches the output agent"),
        ({"round": ("pro->con", "con->pro", "con->judge"), "feedback": ()},
         "round edges pro->con->pro form a cycle"),
        ({"output": "jury"}, "output 'jury' is no agent"),
        ({"round": ("pro judge",)}, "edge 'pro judge' is no pair of agents"),
        ({"agents": ("pro", "judge")}, "names unknown agent 'con'"),
        ({"roles": {"porro": "pro"}}, "role 'pro' is of unknown agent 'porro'"),
    ],
)  # fmt: skip
def test_refused(changes, told):
    with pytest.raises(InputError, match=re.escape(told)):
        pattern(**changes)


def test_two_outputs_are_refused():
    with pytest.raises(InputError, match=r"topology\.output is .*judge.*wanted str"):
        pattern_of_two = tiny_debate.get_config()
        pattern_of_two.system.topology = {
            **pattern_of_two.system.topology.to_dict(),
            "output": ("pro", "judge"),
        }
        freeze(pattern_of_two, Settings)


def test_a_known_name_is_not_taken():
    config = tiny_debate.get_config()
    config.system.style = "sequential"
    with pytest.raises(InputError, match="'sequential' is a known pattern; give yours another"):
        freeze(config, Settings).system.pattern()
    config.system.style = "debate"
    del config.system["topology"]
    with pytest.raises(InputError, match=r"'debate' is unknown; .* in system\.topology"):
        freeze(config, Settings).system.pattern()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"round": ("pro->judge",), "feedback": ("pro->con", "con->pro", "judge->pro")},
         "role 'con', 'later' prompt: slot {slot:judge} has no edge judge->con then"),
        ({"feedback": ("pro->con", "con->pro", "judge->pro", "judge->con", "judge->judge")},
         "role 'judge', 'later' prompt: edge judge->judge has no slot; add {slot:judge}"),
    ],
    ids=["slot without edge", "edge without slot"],
)  # fmt: skip
def test_slots_and_edges_belong_together(changes, told):
    with pytest.raises(InputError, match=re.escape(told)):
        load("debate").check(pattern(**changes), "debate")


def test_links_of_another_pattern_are_refused_with_the_difference(tmp_path):
    whole = Assembly(freeze(tiny_debate.get_config(), Settings), tmp_path)
    whole.save(tmp_path / "links", whole.untrained_links())
    config = tiny_debate.get_config()
    config.system.prompts = str(tmp_path / "prompts.json")
    raw = (resources.files("rmas.system") / "prompt_sets" / "debate.json").read_text()
    (tmp_path / "prompts.json").write_text(raw.replace("{slot:pro} {slot:judge}", "{slot:pro}"))
    config.system.topology.feedback = ("pro->con", "con->pro", "judge->pro")
    fewer = Assembly(freeze(config, Settings), tmp_path)
    told = "trained in another topology: edge judge->con (feedback) only there"
    with pytest.raises(InputError, match=re.escape(told)):
        fewer.load(tmp_path / "links", fewer.untrained_links())


@pytest.mark.parametrize("topology", [None, [], {"edges": [{"src": "pro"}]}, {"edges": 3}, 7])
def test_a_manifest_that_names_no_topology_is_told(tmp_path, topology):
    whole = Assembly(freeze(tiny_debate.get_config(), Settings), tmp_path)
    whole.save(tmp_path / "links", whole.untrained_links())
    path = tmp_path / "links" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"topology": topology}))
    with pytest.raises(InputError, match="does not say what topology") as error:
        whole.load(tmp_path / "links", whole.untrained_links())
    assert "\n" not in str(error.value)


def test_tools_of_a_config(tmp_path):
    config = tiny_debate.get_config()
    config.tools = {
        "agents": ("judge",),
        "names": (),
        "functions": (DOUBLE,),
        "calls": 2,
    }
    system = Assembly(freeze(config, Settings), tmp_path).system
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
        ({"agents": ("judge",), "names": ("perl",)}, "wanted 'python' or 'search'"),
        ({"calls": 0}, "tools.calls is 0"),
        ({"seconds": 0.0}, "tools.seconds is 0.0"),
        ({"seconds": float("inf")}, "tools.seconds is inf"),
        ({"agents": ("judge",), "names": ()}, "tools.agents may call nothing; name python"),
    ],
)
def test_tools_that_cannot_work_are_told_at_the_start(tmp_path, tools, told):
    config = tiny_debate.get_config()
    config.tools = tools
    with pytest.raises(InputError, match=re.escape(told)):
        _ = Assembly(freeze(config, Settings), tmp_path).system


def test_deliberation_calls_tools_unless_told_not_to(tmp_path):
    """Without an index that is told before anything is loaded, with the ways out."""
    config = tiny_debate.get_config()
    base = config.system.agents.judge
    config.system.update({"style": "deliberation", "prompts": "default", "task_family": "math"})
    config.system.agents = {"reflector": base, "toolcaller": base}
    del config.system["topology"]
    told = "reflector, toolcaller may search, but tools.index names no index"
    with pytest.raises(InputError, match=told):
        _ = Assembly(freeze(config, Settings), tmp_path).system
    config.tools.names = ()
    assert Assembly(freeze(config, Settings), tmp_path).system.tools == {}


def test_rows_without_a_text_are_told_before_training(tmp_path):
    rows = [{"question": "q", "answer": "1", "texts": {"pro": "a", "con": "b", "judge": "c"}}] * 2
    rows[1] = rows[1] | {"texts": {"pro": "a", "con": "b"}}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = tiny_debate.get_config()
    config.data.name = str(tmp_path / "rows.json")
    made = Assembly(freeze(config, Settings), tmp_path)
    with pytest.raises(InputError, match="row rows-000001: no teacher text for role 'judge'"):
        made.check_texts(["judge"])
    with pytest.raises(InputError, match="row rows-000001"):  # pro hears the judge
        made.check_texts(["pro"])


def test_limits_of_an_unknown_agent():
    config = tiny_debate.get_config()
    config.evaluate.own_tokens = {"jury": 3}
    with pytest.raises(
        InputError, match=r"own_tokens: unknown agent 'jury'; known: con, judge, pro"
    ):
        freeze(config, Settings)
