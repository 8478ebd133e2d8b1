"""Makes a prompt set of a local clone of the public RecursiveMAS release.

  python -m experiments.import_prompts --release=CLONE --out=FILE

Links work only with the prompts that they were trained with, so released links need the
release's own. The clone's prompt builders are called, in a process of their own, with marked
values, and the marks become fields and slots. The file is a prompt set for all released
systems: give it as --prompts=FILE (or --config.system.prompts=FILE).

The families in it; what the release decides by looking at a question is fixed by family here:
  math       questions without lettered options. (Lines such as "A. ..." in one would make the
             release ask for an option.)
  choice     questions with such lines. The line that tells to choose one, which the release
             adds where a question has none, is part of the prompts.
  gpqa       as choice, with the last sentence that the release's runner picks for GPQA in
             sequential systems.
  medqa      as choice, for questions that hold that line, as those of the release's file do.
  code       programming tasks; {interface}, what to write, is one of three texts.
  reasoning  free answers; left out where the release has no prompts for them.
Of choice questions the release drops blanks at the end: give them without.

Prompts are those of the release's inference. It does not tell the planner of a sequential
system in later rounds that a task is code, so that prompt is the one for math, unless the
clone does.
"""

import dataclasses
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app
from experiments.release_prompts import ReleaseError, call_builders
from rmas.console import printable
from rmas.errors import InputError
from rmas.files import atomic_write_json
from rmas.places import expanded
from rmas.system.prompts import from_json
from rmas.system.styles import SEQUENTIAL, TOPOLOGIES

_RELEASE = flags.DEFINE_string("release", None, "Folder of the clone.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_PYTHON = flags.DEFINE_string("python", sys.executable, "Interpreter that runs the builders.")
_TIMEOUT = flags.DEFINE_float("timeout", 60.0, "Seconds that the builders may take.", 0.1)

SLOTS = {
    "PLANNER_SLOT": "planner",
    "REFINED_SLOT": "critic",
    "FEEDBACK_SLOT": "solver",
    "HIE_MATH_EXPERT_SLOT": "math",
    "HIE_CODE_EXPERT_SLOT": "code",
    "HIE_SCIENCE_EXPERT_SLOT": "science",
    "HIE_FEEDBACK_SLOT": "summarizer",
    "DISTILL_EXPERT_SLOT": "expert",
    "DISTILL_FEEDBACK_SLOT": "learner",
    "DELIBERATION_REFLECTOR_SLOT": "reflector",
    "DELIBERATION_FEEDBACK_SLOT": "toolcaller",
}
"""Constants of the release, and whose messages stand in the place of their texts."""

INTERFACES = {
    "function": ("function", True),
    "unnamed_function": ("function", False),
    "program": ("complete", False),
}
"""Of each interface text the release's task type, and whether there is a function's name."""

_OPTIONS = "\nA. 1\nB. 2\nC. 3\nD. 4"


@dataclasses.dataclass(frozen=True)
class Family:
    """What the release calls a task family, and how its questions end.

    Attributes:
      task: its name in mixture, distillation and deliberation.
      sequential: its name in sequential systems. They know no choice: there the loaders of data
        add a line that asks to choose a letter.
      adds_line: whether questions of sequential systems get that line.
      last_sentence: the `choice_old_prompt` of sequential systems.
    """

    task: str
    sequential: str
    ending: str = ""
    adds_line: bool = False
    last_sentence: int = 0


FAMILIES = {
    "math": Family("math", "math"),
    "choice": Family("choice", "math", _OPTIONS, adds_line=True),
    "gpqa": Family("choice", "math", _OPTIONS, adds_line=True, last_sentence=2),
    "medqa": Family("choice", "math", f"{_OPTIONS}\nChoose the correct option."),
    "code": Family("code", "code"),
    "reasoning": Family("reasoning", "reasoning"),
}

Call = tuple[str, dict[str, Any]]
"""A function of the release and its keyword arguments."""


@dataclasses.dataclass(frozen=True)
class Marks:
    """Values that the release's own text does not hold, so that they are found again."""

    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))

    @property
    def function(self) -> str:
        """The name of a function."""
        return f"name_{self.token}"

    def question(self, family: Family) -> str:
        """A question of a family."""
        return f"question {self.token}{family.ending}"

    def task(self, interface: str) -> dict[str, Any]:
        """The arguments that say what is to be written."""
        task_type, named = INTERFACES[interface]
        return {"task_type": task_type, "fn_name": self.function if named else None}

    def template(self, text: str, fields: Mapping[str, str], where: str) -> str:
        """The text with `fields` in the place of their values, and other braces doubled."""
        values = "|".join(re.escape(v) for v in sorted(fields, key=len, reverse=True))
        pieces = re.split(f"({values})", text)
        made = "".join(fields[p] if i % 2 else _literal(p) for i, p in enumerate(pieces))
        if self.token in made.lower():
            raise InputError(f"{where} changes the question or the function's name")
        return made


def prompt_calls(
    marks: Marks, name: str, interface: str, code_feedback: str
) -> dict[tuple[str, str], Call]:
    """Who is asked with which builder in the release's inference: (role, phase) -> call.

    `code_feedback` is the family whose prompt plans code tasks in later rounds.
    """
    family = FAMILIES[name]
    question = {"question": marks.question(family)}
    task = marks.task(interface)

    kind = family.sequential
    given = question | (task if kind == "code" else {})
    later = code_feedback if kind == "code" else kind
    options = {"choice_old_prompt": family.last_sentence, "solver_pre_question": 0}
    solver = given | {"args": options, "mas_shape": "chain"}
    calls = {
        ("planner", "first"): (f"build_{kind}_planner_prompt", given),
        ("planner", "later"): (
            f"build_{later}_planner_prompt_with_feedback_slot",
            given if later == kind else question,
        ),
        ("critic", "first"): (f"build_{kind}_refiner_prompt_with_slot", given),
        ("solver", "first"): (f"build_{kind}_solver_prompt_with_slots", solver),
    }

    given = question | {"mas_task": family.task} | task
    starts = {
        role: ("build_hie_expert_prompt", given | {"hie_role": f"hie_{role}_expert"})
        for role in ("math", "code", "science")
    }
    starts["expert"] = ("build_distill_expert_prompt", given)
    starts["reflector"] = ("build_deliberation_reflector_prompt", given)
    for role, (builder, values) in starts.items():
        calls[role, "first"] = (builder, values)
        calls[role, "later"] = (f"{builder}_with_feedback_slot", values)
    for role, builder in (
        ("summarizer", "build_hie_summarizer_prompt_with_slots"),
        ("learner", "build_distill_learner_prompt_with_slot"),
        ("toolcaller", "build_deliberation_toolcaller_prompt_with_slot"),
    ):
        calls[role, "first"] = (builder, given)
    return calls


def all_calls(marks: Marks, code_feedback: str) -> dict[tuple[str, ...], Call]:
    """All that is asked of the release; prompts are named (role, phase, family, interface)."""
    choice = {"question": marks.question(FAMILIES["choice"])}
    calls: dict[tuple[str, ...], Call] = {
        ("system",): ("get_system_prompt", {"mas_design": "deliberation"}),
        ("task", "math"): ("build_hie_task_context", choice | {"mas_task": "math"}),
        ("task", "choice"): ("build_hie_task_context", choice | {"mas_task": "choice"}),
    }
    for interface in INTERFACES:
        calls["interface", interface] = ("build_code_interface_prompt", marks.task(interface))
    for family in FAMILIES:
        for interface in INTERFACES if family == "code" else ("program",):
            made = prompt_calls(marks, family, interface, code_feedback)
            calls |= {(*key, family, interface): call for key, call in made.items()}
    return calls


def release_prompt_set(clone: Path, python: str, timeout: float) -> dict[str, Any]:
    """The release's prompts in the JSON form of a prompt set.

    Raises `InputError`: the clone is none; a builder is missing, fails, changes its values, or
    gives no place to a message; all of them take longer than `timeout` seconds.
    """
    marks = Marks()
    calls = all_calls(marks, "code" if _tells_planner(clone) else "math")
    try:
        texts, constants = call_builders(
            clone, list(calls.values()), ["SYSTEM_PROMPT", *SLOTS], python, timeout
        )
    except ReleaseError as e:
        raise InputError(f"--release={clone}: {e}") from e
    where = f"{clone}/prompts.py"
    text = dict(zip(calls, texts, strict=True))
    _drop_reasoning(calls, text)
    missing = {calls[key][0] for key, value in text.items() if not value}
    missing |= {name for name, value in constants.items() if not value}
    if missing:
        raise InputError(
            f"{where} has no {', '.join(sorted(missing))}: another revision of the release than "
            "this command knows"
        )
    question = marks.question(FAMILIES["choice"])
    line = _choice_line(text["task", "math"], text["task", "choice"], question, where)
    slots = {constants[name]: f"{{slot:{agent}}}" for name, agent in SLOTS.items()}
    roles: dict[str, dict[str, dict[str, str]]] = {
        agent: {} for topology in TOPOLOGIES.values() for agent in topology.agents
    }
    for key in [key for key in text if len(key) == 4]:
        role, phase, family, interface = key
        at = f"{where}: {calls[key][0]}"
        adds = FAMILIES[family].adds_line and role in SEQUENTIAL.agents
        question = "{question}" + (_literal(line) if adds else "")
        fields = slots | {marks.question(FAMILIES[family]): question}
        if family == "code":
            fields[text["interface", interface]] = "{interface}"
        made = marks.template(text[key], fields, at)
        if "{question}" not in made:
            raise InputError(f"{at} leaves the question out")
        if roles[role].setdefault(family, {}).setdefault(phase, made) != made:
            raise InputError(f"{at}: more than the interface's sentence depends on the interface")
    name = {marks.function: "{name}"}
    raw = {
        "name": "recursivemas-release",
        "system": {
            "default": _literal(constants["SYSTEM_PROMPT"]),
            "deliberation": _literal(text["system",]),
        },
        "interface": {k: marks.template(text["interface", k], name, where) for k in INTERFACES},
        "roles": roles,
    }
    made = from_json(json.dumps(raw), where)
    try:
        for topology in TOPOLOGIES.values():
            for family in roles[topology.output]:
                made.check(topology, family)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e
    return raw


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _drop_reasoning(calls: Mapping[tuple[str, ...], Call], text: dict) -> None:
    """Leaves the family out where the release has none of its builders (early revisions)."""
    found = [text[key] for key in text if calls[key][0].startswith("build_reasoning_")]
    if all(value is None for value in found):
        for key in [key for key in text if key[2:3] == ("reasoning",)]:
            del text[key]


def _choice_line(plain: str, choice: str, question: str, where: str) -> str:
    """The line that the release adds to a multiple-choice question of a sequential system."""
    before, _, after = plain.partition(question)
    start = before + question
    if not (choice.startswith(start) and choice.endswith(after)):
        raise InputError(f"{where}: build_hie_task_context does more to choice than add a line")
    return choice[len(start) : len(choice) - len(after)]


def _tells_planner(clone: Path) -> bool:
    """Whether the inference passes task types to the planner in later rounds."""
    file = clone / "inference_utils" / "inference_mas.py"
    source = file.read_text(errors="replace") if file.is_file() else ""
    call = re.search(r"= run_planner_feedback_latent_stage\(([^()]*)\)", source)
    return bool(call) and "task_types" in call[1]


def main(_: list[str]) -> None:
    """Imports the prompts and writes them as a prompt set."""
    for flag, right in ((_RELEASE, "the clone's folder"), (_OUT, "the JSON file to write")):
        if not flag.value:
            raise InputError(f"--{flag.name} is missing; name {right}")
    clone, out = (
        Path(os.path.realpath(expanded(_RELEASE.value))),
        expanded(_OUT.value),
    )
    raw = release_prompt_set(clone, _PYTHON.value, _TIMEOUT.value)
    try:
        atomic_write_json(out, raw)
    except OSError as e:
        raise InputError(f"cannot write --out={out}: {e.strerror or e}") from e
    print(f"wrote {printable(str(out))}")
    print(f"roles: {', '.join(raw['roles'])}")
    print(f"families: {', '.join(raw['roles']['planner'])}")
    print(f"digest: {from_json(json.dumps(raw), str(out)).digest}")


if __name__ == "__main__":
    app.run(main)
