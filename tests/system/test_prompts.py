"""Prompt sets: the JSON form, every refusal, and the packaged sets."""

import copy
import json
import re

import pytest

from rmas.errors import InputError
from rmas.system import prompts
from rmas.system.prompts import Field, Slot, from_json, parse_template
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
    assert s.interface == {"program": "Read stdin."}


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
        ("[" * 100_000, "FILE is not valid JSON: "),
        ("[]", "FILE: must be a JSON object"),
        (changed(["name"], "\ud800"), "FILE: a text holds half a surrogate pair"),
        (changed(["rolls"], {}), "FILE: unknown keys ['rolls']"),
        (changed(["name"], 3), "FILE: needs a text 'name'"),
        (changed(["system"], "Think."), "FILE: 'system' must be an object of texts"),
        (changed(["system"], {"sequential": "x"}), "FILE: 'system' needs a 'default' text"),
        (changed(["interface"], {"program": 1}), "FILE: 'interface' must be an object of texts"),
        (changed(["roles"], []), "FILE: needs an object 'roles'"),
        (changed(["roles", "critic"], {}), "FILE: role 'critic' needs families"),
        (changed(["roles", "critic"], "x"), "FILE: role 'critic' needs families"),
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
            "role 'planner', 'first' prompt: slot {slot:solver} has no edge solver->planner then; "
            "slots wanted once each: none",
        ),
        (
            ["roles", "solver", "math", "first"],
            "{slot:critic}{slot:planner}",
            "role 'solver', 'first' prompt: slot {slot:planner} has no edge planner->solver then; "
            "slots wanted once each: critic",
        ),
        (
            ["roles", "critic", "math", "first"],
            "{slot:plan}{slot:planner}",
            "role 'critic', 'first' prompt: slot {slot:plan} has no edge plan->critic then; "
            "slots wanted once each: planner",
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
    with pytest.raises(InputError, match="role 'critic' has no prompts for 'code'; it has math"):
        s.template("critic", "code", "first")
    # Only choice falls back to math, not the other way round.
    choice_only = made(changed(["roles", "critic"], {"choice": {"first": "{slot:planner}"}}))
    with pytest.raises(InputError, match="no prompts for 'math'; it has choice"):
        choice_only.template("critic", "math", "first")


def test_system_text_by_style():
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


@pytest.mark.parametrize("role", ["planner", "critic", "solver", "single"])
@pytest.mark.parametrize("family", ["math", "choice", "code"])
def test_default_prompts(role, family):
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
        question, slot = parts.index(Field("question")), [isinstance(p, Slot) for p in parts]
        if any(slot):
            assert (slot.index(True) < question) == (role == "solver")
    assert "{name}" in s.interface["function"]
    assert s.interface.keys() == {"function", "unnamed_function", "program"}
    style = Topology("deliberation", ("a",), (), "a")
    assert all(f"<{tag}>" in s.system_text(style) for tag in ("search", "python", "result"))
