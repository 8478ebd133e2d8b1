"""Prompt sets: the JSON form, every refusal, and the packaged sets."""

import copy
import json
import re

import pytest

from rmas.errors import InputError
from rmas.system import prompts
from rmas.system.prompts import Field, Interface, Slot, from_json, parse_template
from rmas.system.styles import SEQUENTIAL
from rmas.system.topology import Edge, Topology, single

SET = {
    "name": "mine",
    "system": {"default": "Think.", "deliberation": "Use tools."},
    "interface": {"program": "Read stdin."},
    "roles": {
        "planner": {"math": {"first": "P {question}", "later": "Q {question} {slot:solver}"}},
        "critic": {"math": {"first": "{question} {slot:planner}"}},
        "solver": {"math": {"first": "{slot:critic}{question} \\boxed{{}}"}},
        "single": {"math": {"first": "{question}"}, "choice": {"first": "Pick: {question}"}},
    },
}


def changed(path, value):
    """SET with one place replaced."""
    out = copy.deepcopy(SET)
    *parents, last = path
    place = out
    for key in parents:
        place = place[key]
    place[last] = value
    return out


def made(raw):
    return from_json(raw if isinstance(raw, str) else json.dumps(raw), "FILE")


def test_parts():
    s = made(SET)
    assert s.template("planner", "math", "first") == ("P ", Field("question"))
    later = ("Q ", Field("question"), " ", Slot("solver"))
    assert s.template("planner", "math", "later") == later
    solver = (Slot("critic"), Field("question"), " \\boxed{}")
    assert s.template("solver", "math", "first") == solver
    assert s.name == "mine"
    assert s.interface == {"program": ("Read stdin.",)}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("{{}}", ("{}",)),
        ("{{{question}}}", ("{", Field("question"), "}")),
        ("{{question}}", ("{question}",)),
        ("{slot:a}{slot:b}", (Slot("a"), Slot("b"))),
        ("\\frac{{1}}{{2}}\n{interface}", ("\\frac{1}{2}\n", Field("interface"))),
    ],
)
def test_braces(text, parts):
    assert parse_template(text, "here") == parts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a {", "here: lone '{' at 2; write '{{'"),
        ("} b", "here: lone '}' at 0; write '}}'"),
        ("{{}", "here: lone '}' at 2; write '}}'"),
        ("{a{question}", "here: lone '{' at 0; write '{{'"),
        ("{quest}", "here: unknown field {quest}; known: question, interface, slot:<agent>"),
        ("{}", "here: unknown field {}; known:"),
        ("{ question }", "here: unknown field { question }; known:"),
    ],
)
def test_refused_templates(text, told):
    with pytest.raises(InputError, match=re.escape(told)):
        parse_template(text, "here")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("{", "FILE is not valid JSON: "),
        ('{"name": "a", "name": "b"}', "FILE is not valid JSON: 'name' is there twice"),
        ("[" * 100_000, "FILE is not valid JSON: "),
        ("[]", "FILE: must be a JSON object"),
        (changed(["name"], "\ud800"), "FILE: a text holds half a surrogate pair"),
        (changed(["rolls"], {}), "FILE: unknown keys ['rolls']"),
        (changed(["name"], 3), "FILE: needs a text 'name'"),
        (changed(["system"], "Think."), "FILE: 'system' must be an object of texts"),
        (changed(["system"], {"sequential": "x"}), "FILE: 'system' needs a 'default' text"),
        (changed(["interface"], {"program": 1}), "FILE: 'interface' must be an object of texts"),
        (changed(["roles"], []), "FILE: needs an object 'roles'"),
        (changed(["roles", "critic"], {}), "FILE: role 'critic' needs prompts by task family"),
        (changed(["roles", "critic"], "x"), "FILE: role 'critic' needs prompts by task family"),
        (
            changed(["roles", "critic", "math"], "x"),
            "FILE: 'critic.math' must be an object of texts",
        ),
        (
            changed(["roles", "critic", "math"], {"later": "x"}),
            "FILE: critic.math: needs a 'first' prompt",
        ),
        (
            changed(["roles", "critic", "math", "last"], "x"),
            "FILE: critic.math: only 'first' and 'later' are known",
        ),
        (
            changed(["roles", "critic", "math", "first"], "{questions}"),
            "FILE: critic.math.first: unknown field {questions}",
        ),
        (
            changed(["roles", "planner", "math", "later"], "x { y"),
            "FILE: planner.math.later: lone '{' at 2",
        ),
    ],
)
def test_refused_sets(raw, told):
    with pytest.raises(InputError, match=re.escape(told)) as e:
        made(raw)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("key", ["name", "system", "roles"])
def test_missing_keys(key):
    with pytest.raises(InputError, match=f"FILE: .*'{key}'"):
        made({k: v for k, v in SET.items() if k != key})


def test_braces_mean_the_same_in_all_texts():
    raw = changed(["system", "default"], "Write \\boxed{{}}.")
    raw["interface"] = {"function": "def {name}() -> {{}}", "program": "Print {{name}}."}
    s = made(raw)
    assert s.system_text(SEQUENTIAL) == "Write \\boxed{}."
    assert s.interface_text(Interface("function", "add{{}}")) == "def add{{}}() -> {}"
    assert s.interface_text() == "Print {name}."


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            ["system", "default"],
            "Be {kind}.",
            "FILE: system.default: unknown field {kind}; known: none; if the braces are literal, "
            "write {{kind}}",
        ),
        (
            ["system", "deliberation"],
            "{question}",
            "FILE: system.deliberation: unknown field {question}; known: none;",
        ),
        (["system", "default"], "{slot:planner}", "unknown field {slot:planner}; known: none;"),
        (["system", "default"], "a {", "FILE: system.default: lone '{' at 2; write '{{'"),
        (
            ["interface", "program"],
            "{name}",
            "FILE: interface.program: unknown field {name}; known: none;",
        ),
        (
            ["interface", "function"],
            "{question}",
            "FILE: interface.function: unknown field {question}; known: name;",
        ),
        (["interface", "function"], "}", "FILE: interface.function: lone '}' at 0; write '}}'"),
    ],
)
def test_refused_system_and_interface_texts(path, value, told):
    with pytest.raises(InputError, match=re.escape(told)) as e:
        made(changed(path, value))
    assert "\n" not in str(e.value)


def test_interface_may_be_left_out():
    assert made({k: v for k, v in SET.items() if k != "interface"}).interface == {}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            ["roles", "critic", "math", "first"],
            "{question}",
            "role 'critic', 'first' prompt: edge planner->critic has no slot; add {slot:planner}",
        ),
        (
            ["roles", "planner", "math", "later"],
            "{question}",
            "role 'planner', 'later' prompt: edge solver->planner has no slot; add {slot:solver}",
        ),
        (
            ["roles", "planner", "math", "first"],
            "{question}{slot:solver}",
            "role 'planner', 'first' prompt: slot {slot:solver} has no edge solver->planner "
            "in this phase, or is repeated; slots wanted once each: none",
        ),
        (
            ["roles", "solver", "math", "first"],
            "{slot:critic}{slot:planner}",
            "role 'solver', 'first' prompt: slot {slot:planner} has no edge planner->solver "
            "in this phase, or is repeated; slots wanted once each: critic",
        ),
        (
            ["roles", "critic", "math", "first"],
            "{slot:plan}{slot:planner}",
            "role 'critic', 'first' prompt: slot {slot:plan} has no edge plan->critic "
            "in this phase, or is repeated; slots wanted once each: planner",
        ),
        (
            ["roles", "critic", "math", "first"],
            "{slot:planner}{slot:planner}",
            "role 'critic', 'first' prompt: slot {slot:planner}",
        ),
        (
            ["roles"],
            {k: v for k, v in SET["roles"].items() if k != "critic"},
            "prompt set 'mine' has no role 'critic'; it has planner, solver, single",
        ),
    ],
)
def test_slots_are_held_against_edges(path, value, told):
    made(SET).check(SEQUENTIAL, "math")
    with pytest.raises(InputError, match=re.escape(told)):
        made(changed(path, value)).check(SEQUENTIAL, "math")


def test_a_prompt_for_the_first_round_serves_later_ones_only_without_feedback():
    raw = changed(["roles", "planner", "math"], {"first": "{question}"})
    with pytest.raises(InputError, match="'later' prompt: edge solver->planner has no slot"):
        made(raw).check(SEQUENTIAL, "math")
    no_feedback = Topology(
        "chain",
        SEQUENTIAL.agents,
        tuple(e for e in SEQUENTIAL.edges if e.when == "round"),
        "solver",
    )
    made(raw).check(no_feedback, "math")


def test_an_agent_may_play_another_role():
    topology = Topology(
        "t", ("x", "solver"), (Edge("x", "solver", "round"),), "solver", (("x", "planner"),)
    )
    raw = changed(["roles", "solver", "math", "first"], "{slot:x}{question}")
    raw["roles"]["planner"]["math"].pop("later")
    made(raw).check(topology, "math")


def test_fallbacks():
    s = made(SET)
    critic = s.template("critic", "math", "first")
    assert s.template("critic", "math", "later") == critic
    assert s.template("critic", "choice", "later") == critic
    assert s.template("single", "choice", "first") == ("Pick: ", Field("question"))
    assert s.template("single", "choice", "later") == ("Pick: ", Field("question"))
    assert s.template("planner", "choice", "later") == s.template("planner", "math", "later")
    # gpqa falls back to choice, or further to math; reasoning to math, never to choice.
    assert s.template("single", "gpqa", "first") == ("Pick: ", Field("question"))
    assert s.template("critic", "gpqa", "first") == critic
    assert s.template("single", "reasoning", "first") == (Field("question"),)
    lacks = "no prompts of role 'critic' for task family"
    with pytest.raises(InputError, match=f"{lacks} 'code'; the role has math; write roles.critic"):
        s.template("critic", "code", "first")
    # Only choice falls back to math, not the other way round.
    choice_only = made(changed(["roles", "critic"], {"choice": {"first": "{slot:planner}"}}))
    with pytest.raises(InputError, match=f"{lacks} 'math'; the role has choice"):
        choice_only.template("critic", "math", "first")


def test_a_family_that_a_role_lacks_says_what_to_write():
    told = (
        "prompt set 'mine' has no prompts of role 'planner' for task family 'law'; the role has "
        "math; write roles.planner.law with 'first' (round 1) and 'later' (further rounds; left "
        "out, 'first' is used)"
    )
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        made(SET).check(SEQUENTIAL, "law")


def without_single(**changes):
    roles = {k: v for k, v in SET["roles"].items() if k != "single"}
    return made(changed(["roles"], roles) | changes)


def test_an_agent_alone_has_the_sets_own_prompts_where_there_are_some():
    s, alone = made(SET), single("solver")
    for family in ("math", "choice", "gpqa", "reasoning"):
        assert s.alone(family) is s
    custom = made(changed(["roles", "single", "law"], {"first": "Law: {question}"}))
    assert custom.alone("law") is custom
    # Else it is the packaged set's, with what they need.
    code = s.alone("code")
    assert code.template("single", "code", "first") == prompts.load("default").template(
        "single", "code", "first"
    )
    assert code.interface_text() == "Read stdin."
    assert code.interface_text(Interface("function", "add")).startswith("Write a Python function")
    assert code.system_text(alone) == "Think."
    assert code.digest == s.digest


def test_an_agent_alone_in_a_set_without_the_role():
    default, s = prompts.load("default"), without_single()
    for family in ("math", "choice", "gpqa", "code", "reasoning"):
        found = s.alone(family)
        found.check(single("solver"), family)
        for phase in ("first", "later"):
            wanted = default.template("single", family, phase)
            assert found.template("single", family, phase) == wanted
        assert found.template("planner", "math", "first") == s.template("planner", "math", "first")


def test_an_agent_alone_in_a_family_that_no_set_knows():
    """The question as it is."""
    alone = single("solver")
    for s in (made(SET), without_single()):
        found = s.alone("law")
        found.check(alone, "law")
        assert found.template("single", "law", "later") == (Field("question"),)
        assert found.system_text(alone) == prompts.load("default").system_text(alone)
        assert found.system_text(SEQUENTIAL) == "Think."
    own = without_single(system={"default": "Think.", "single": "Alone."}).alone("law")
    assert own.system_text(alone) == "Alone."


PACKAGED = {
    "default": "cb9f632001e8c3f3e8b5350d798cc7bcea042c1e3136fe4867b7334159e470d7",
    "relay": "9bebacd6a7dbcf05b368effad066139f88f7b6cb99e079045a02145f0b5c2085",
    "chain": "b347e758fd25092fa55decfa01eb6fab51743620f2b119ab251e824cc54223f1",
    "debate": "0699d6352a914fb0d27360f3026eca17b50cd3a8c1692272b9dda78344da0f04",
}


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_sets_are_those_that_links_were_trained_with(name):
    """Change a packaged text only where trained links may be thrown away."""
    assert prompts.load(name).digest == PACKAGED[name]


def test_system_text_by_topology():
    s = made(SET)
    assert s.system_text(SEQUENTIAL) == "Think."
    style = Topology("deliberation", ("a",), (), "a")
    assert s.system_text(style) == "Use tools."


def test_digest_is_of_the_content():
    digest = made(SET).digest
    assert made(json.dumps(SET, indent=4)).digest == digest
    assert made(dict(reversed(SET.items()))).digest == digest
    for path in (
        ["name"],
        ["system", "default"],
        ["interface", "program"],
        ["roles", "single", "math", "first"],
    ):
        assert made(changed(path, "other")).digest != digest


def test_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(SET))
    assert prompts.load(str(path)).digest == made(SET).digest
    with pytest.raises(InputError, match=r"cannot read prompt set 'nowhere\.json'"):
        prompts.load("nowhere.json")
    with pytest.raises(InputError, match=r"cannot read prompt set .*give a packaged name"):
        prompts.load(str(tmp_path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read prompt set"):
        prompts.load(str(path))
    path.write_text('{"name": 1}')
    with pytest.raises(InputError, match=r"mine\.json: needs a text 'name'"):
        prompts.load(str(path))


@pytest.mark.parametrize(
    ("name", "families"), [("default", ["math", "choice", "code"]), ("relay", ["relay"])]
)
def test_packaged_sets(name, families):
    s = prompts.load(name)
    assert s.name == f"rmas-{name}"
    for family in families:
        s.check(SEQUENTIAL, family)
        s.check(single("solver"), family)
