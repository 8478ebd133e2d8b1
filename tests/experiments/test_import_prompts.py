"""Importing prompts from a small release of our own making, a well-behaved one and others."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from experiments.import_prompts import SLOTS, release_prompt_set
from rmas.errors import InputError
from rmas.system import prompts
from rmas.system.prompts import Field, Slot
from rmas.system.styles import TOPOLOGIES

ROOT = Path(__file__).parents[2]
SMALL = Path(__file__).parent / "small_release"
RELEASE = (SMALL / "prompts.py").read_text()


def write(folder: Path, source: str = RELEASE) -> Path:
    """The small release with another `prompts.py`; its package cannot be imported as such."""
    clone = folder / "clone"
    shutil.copytree(SMALL, clone, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "prompts.py").write_text(source)
    return clone


def made(clone: Path, timeout: float = 60) -> prompts.PromptSet:
    raw = release_prompt_set(clone, sys.executable, timeout)
    return prompts.from_json(json.dumps(raw), "IMPORTED")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return write(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def imported(clone):
    return made(clone)


@pytest.fixture(scope="module")
def release():
    """The builders themselves."""
    notes = types.ModuleType("inference_utils.reflector_tool_notes")
    exec((SMALL / "inference_utils" / "reflector_tool_notes.py").read_text(), notes.__dict__)
    module = types.ModuleType("prompts_of_the_release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "inference_utils", types.ModuleType("inference_utils"))
        patch.setitem(sys.modules, notes.__name__, notes)
        exec(RELEASE, module.__dict__)
    return module


def filled(imported, release, role, family, phase, question, interface=""):
    """An imported prompt with the question, and the release's marks in its slots."""
    topology = next(t for t in TOPOLOGIES.values() if role in t.agents)
    marks = {}
    for name, source in SLOTS.items():
        own = name.startswith("HIE_") == (topology.name == "mixture")
        if own and source in topology.agents:
            marks[source] = getattr(release, name)
    values = {"question": question, "interface": interface}
    text = ""
    for part in imported.template(role, family, phase):
        if isinstance(part, Slot):
            text += marks[part.source]
        else:
            text += values[part.name] if isinstance(part, Field) else part
    return text


QUESTIONS = {
    "math": "What is {x}?",
    "choice": "Which {x}?\nA. a\nB. b",
    "gpqa": "Which {x}?\nA. a\nB. b",
    "medqa": "Which {x}?\nA. a\nB. b\nChoose the correct option.",
    "reasoning": "Why {x}?",
    "code": "Do {x}.",
}
TASKS = {"gpqa": "choice", "medqa": "choice"}


@pytest.mark.parametrize("family", QUESTIONS)
def test_prompts_are_those_of_the_builders(family, imported, release):
    """What the release's inference would give for another question, character by character."""
    question, task = QUESTIONS[family], TASKS.get(family, family)
    # In sequential systems the loaders of data tell to choose.
    asked = release.build_hie_task_context(question, task)[3:-1] if task == "choice" else question
    kinds = [("function", "foo"), ("function", None), ("complete", None)]
    for task_type, fn_name in kinds if family == "code" else kinds[2:]:
        interface = release.build_code_interface_prompt(task_type, fn_name)

        def check(role, builder, phase="first", *args, interface=interface, **values):
            text = filled(imported, release, role, family, phase, question, interface)
            assert text == getattr(release, builder)(*args, **values)

        given = {"task_type": task_type, "fn_name": fn_name}
        values = {"question": question, "mas_task": task, **given}
        for role in ("math", "code", "science"):
            expert = values | {"hie_role": f"hie_{role}_expert"}
            check(role, "build_hie_expert_prompt", **expert)
            check(role, "build_hie_expert_prompt_with_feedback_slot", "later", **expert)
        check("expert", "build_distill_expert_prompt", **values)
        check("expert", "build_distill_expert_prompt_with_feedback_slot", "later", **values)
        check("reflector", "build_deliberation_reflector_prompt", **values)
        check(
            "reflector",
            "build_deliberation_reflector_prompt_with_feedback_slot",
            "later",
            **values,
        )
        options = types.SimpleNamespace(
            choice_old_prompt=2 if family == "gpqa" else 0, solver_pre_question=0
        )
        kind = "math" if task == "choice" else task
        given = given if kind == "code" else {}
        later = "math" if kind == "code" else kind
        check("planner", f"build_{kind}_planner_prompt", "first", asked, **given)
        check("planner", f"build_{later}_planner_prompt_with_feedback_slot", "later", asked)
        for phase in ("first", "later"):
            check("critic", f"build_{kind}_refiner_prompt_with_slot", phase, asked, **given)
            solver = f"build_{kind}_solver_prompt_with_slots"
            check("solver", solver, phase, asked, args=options, **given)
            check("summarizer", "build_hie_summarizer_prompt_with_slots", phase, **values)
            check("learner", "build_distill_learner_prompt_with_slot", phase, **values)
            check("toolcaller", "build_deliberation_toolcaller_prompt_with_slot", phase, **values)


def test_templates(clone):
    """A few as they stand in the file."""
    raw = release_prompt_set(clone, sys.executable, 60)
    roles = raw["roles"]
    assert roles["planner"]["math"] == {
        "first": "Plan {question} {{}}",
        "later": "Plan {question} anew {slot:solver}",
    }
    assert roles["solver"]["choice"] == {
        "first": "Solve {slot:critic} {question}\nChoose the correct option {{here}}. \\boxed{{A}}"
    }
    assert roles["solver"]["gpqa"]["first"].endswith("{{here}}. Old: \\boxed{{A}}")
    assert roles["solver"]["medqa"]["first"] == "Solve {slot:critic} {question} \\boxed{{A}}"
    assert roles["toolcaller"]["choice"]["first"] == (
        "Call {slot:reflector} Q: {question}\nChoose the correct option {{here}}.\n\\boxed{{A}}"
    )
    assert roles["summarizer"]["code"]["first"] == (
        "Sum {slot:math}{slot:code}{slot:science} {interface} Code: {question}\n```"
    )
    assert roles["expert"]["code"]["later"] == "Teach {slot:learner} {interface} Code: {question}\n"
    assert raw["interface"] == {
        "function": "A function `{name}`.",
        "unnamed_function": "A function.",
        "program": "A program, in {{braces}}.",
    }
    assert raw["system"] == {
        "default": "Be {{kind}}.",
        "deliberation": "Use <python> and \\boxed{{}}.",
    }
    assert list(roles) == [a for t in TOPOLOGIES.values() for a in t.agents]
    assert raw == release_prompt_set(clone, sys.executable, 60)


def test_system_texts_go_with_the_topologies(imported):
    for name in ("sequential", "mixture", "distillation"):
        assert imported.system_text(TOPOLOGIES[name]) == "Be {kind}."
    deliberation = imported.system_text(TOPOLOGIES["deliberation"])
    assert deliberation == "Use <python> and \\boxed{}."


def test_code_is_planned_as_the_clones_inference_does(tmp_path):
    clone = write(tmp_path)
    assert made(clone).template("planner", "code", "later")[0] == "Plan "
    inference = clone / "inference_utils" / "inference_mas.py"
    source = inference.read_text()
    inference.write_text(
        source.replace("questions=questions,", "questions, task_types=task_types,")
    )
    later = made(clone).template("planner", "code", "later")
    assert later[:2] == ("Plan code anew. ", Field("interface"))
    inference.unlink()
    assert made(clone).template("planner", "code", "later")[0] == "Plan "


def test_early_revisions(tmp_path):
    """They know no free answers, and import themselves as `release_code`."""
    source = RELEASE[: RELEASE.index("def build_reasoning_planner_prompt(")]
    source = source.replace("from inference_utils", "from release_code.inference_utils")
    found = made(write(tmp_path, source))
    for role in found.roles.values():
        assert list(role) == ["math", "choice", "gpqa", "medqa", "code"]


def test_what_the_builders_print_and_see_stays_with_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "x")
    noise = """
import os, sys
print("junk"); os.write(1, b"junk"); os.write(2, b"junk")
SYSTEM_PROMPT = f"{'MY_SECRET' in os.environ} {os.listdir('.')} {sys.stdin.read()!r}"
"""
    clone = write(tmp_path, RELEASE + noise)
    assert made(clone).system["default"] == "False [] ''"
    assert not list(clone.rglob("__pycache__"))


def planted(old: str, new: str) -> str:
    assert RELEASE.count(old) == 1
    return RELEASE.replace(old, new)


APPEND = "__import__('os').write(__import__('os').open(__file__, 1025), b'x')"  # O_APPEND
FORGED = """
import os
for fd in range(3, 30):
    try: os.write(fd, {!r})
    except OSError: pass
os._exit(0)
"""


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (planted("def build_distill_expert_prompt(", "def f("), "has no build_distill_expert_prom"),
        (planted("def get_system_prompt(", "def f("), "has no get_system_prompt: another revision"),
        (planted("def build_reasoning_planner_prompt(", "def f("), "has no build_reasoning_plann"),
        (RELEASE.replace("REFINED_SLOT", "REFINED"), "has no REFINED_SLOT"),
        (RELEASE + "REFINED_SLOT = 3", "holds something else than texts"),
        (
            RELEASE + "import missing_here",
            "prompts.py: ModuleNotFoundError: No module named 'missi",
        ),
        (RELEASE + "x = (", "prompts.py: SyntaxError"),
        (RELEASE + "raise SystemExit(3)", "prompts.py: SystemExit: 3"),
        (
            planted('return f"Plan {question} {{}}"', 'raise RuntimeError("first\\nlast")'),
            "build_math_planner_prompt: RuntimeError: last",
        ),
        (
            planted('return f"Plan {question} {{}}"', "return 3"),
            "build_math_planner_prompt: TypeError: gives int, not a text",
        ),
        (
            planted('return f"Plan {question} {{}}"', "return f(question)\ndef f(x): return f(x)"),
            "build_math_planner_prompt: RecursionError",
        ),
        (
            planted(
                "def build_math_planner_prompt(question):", "def build_math_planner_prompt(q):"
            ),
            "build_math_planner_prompt: TypeError: build_math_planner_prompt() got an unexpected",
        ),
        (
            planted('f"Plan {question} {{}}"', APPEND),
            "build_math_planner_prompt: OSError: [Errno 27] File too large",
        ),
        (RELEASE + "x = bytearray(8 << 30)", "prompts.py: MemoryError"),
        (RELEASE + "import os; os._exit(0)", "the builders ended without an answer"),
        (RELEASE + "while True: pass", "the builders took more than 1.5 s; raise --timeout"),
        (
            RELEASE + "import os, time\nif os.fork(): time.sleep(60)",
            "the builders took more than 1.5 s",
        ),
        (
            planted('return f"Plan {question} {{}}"', "return question + 'x' * 200_000"),
            "a builder gives a text of more than 100000 characters",
        ),
        (
            planted('f"{hie_role} {build', "'x' * 2_000_000 + f\"{hie_role} {build"),
            "the builders answered with more than 4 MiB",
        ),
        (RELEASE + FORGED.format(b"junk"), "the builders' answer is not JSON"),
        (RELEASE + FORGED.format(b"[" * 60_000), "the builders' answer is not JSON"),
        (RELEASE + FORGED.format(b"[3]"), "the builders' answer is not what was asked for"),
        (RELEASE + FORGED.format(b'{"texts": [], "constants": {}}'), "not what was asked for"),
        (
            planted('return f"Plan {question} {{}}"', "return question.upper()"),
            "build_math_planner_prompt changes the question",
        ),
        (planted('return f"Plan {question} {{}}"', 'return "x"'), "leaves the question out"),
        (
            planted('return f"Plan {question} {{}}"', 'return question + "\\ud800"'),
            "a text holds half a surrogate pair",
        ),
        (
            planted('f"Refine {question} {PLANNER_SLOT}"', 'f"Refine {question}"'),
            "edge planner->critic has no slot",
        ),
        (
            planted("{DISTILL_FEEDBACK_SLOT} {task}", "{task}"),
            "edge learner->expert has no slot",
        ),
        (
            planted('f"Plan code. {build', 'f"Plan {task_type}. {build'),
            "build_code_planner_prompt: more than the interface's sentence depends on",
        ),
        (
            planted("Plan code. {build", "Plan {fn_name}. {build"),
            "build_code_planner_prompt changes the question or the function's name",
        ),
        (planted('return f"Q: ', 'return f"{mas_task}: '), "does more to choice than add a line"),
    ],
    ids=lambda value: value if len(value) < 100 else "",
)
def test_refused_releases(source, told, tmp_path):
    clone = write(tmp_path, source)
    before = {path: path.read_bytes() for path in clone.rglob("*.*")}
    with pytest.raises(InputError) as e:
        release_prompt_set(clone, sys.executable, 1.5 if "took more than" in told else 60)
    assert told in str(e.value)
    assert str(clone) in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600
    assert {path: path.read_bytes() for path in clone.rglob("*.*")} == before


def test_other_programs(clone):
    with pytest.raises(InputError, match="there is no program 'no-python-here'"):
        release_prompt_set(clone, "no-python-here", 60)
    with pytest.raises(InputError, match="ended without an answer"):
        release_prompt_set(clone, "true", 60)


def run(*argv: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments.import_prompts", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_command(clone, imported, tmp_path):
    out = tmp_path / "release.json"
    done = run(f"--release={clone}", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"wrote {out}",
        f"roles: {', '.join(imported.roles)}",
        "families: math, choice, gpqa, medqa, code, reasoning",
        f"digest: {imported.digest}",
    ]
    assert prompts.load(str(out)).digest == imported.digest


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--out={out}"], "error: --release is missing; name the clone's folder"),
        (["--release={clone}"], "error: --out is missing; name the JSON file to write"),
        (
            ["--release={out}", "--out={out}/x.json"],
            "error: --release={out}: no clone of the release: prompts.py is missing",
        ),
        (
            ["--release={clone}", "--out={out}/no/x.json"],
            "error: cannot write --out={out}/no/x.json: No such file or directory",
        ),
        (["--release={clone}", "--out={out}"], "error: cannot write --out={out}: Is a directory"),
    ],
)
def test_one_line_and_status_2(argv, told, clone, tmp_path):
    done = run(*[word.format(clone=clone, out=tmp_path) for word in argv])
    assert done.returncode == 2
    assert done.stderr == told.format(out=tmp_path) + "\n"
    assert list(tmp_path.iterdir()) == []
