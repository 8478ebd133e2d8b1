"""Prompt sets: what each agent is told, as data.

A prompt set is a JSON file of chat texts per role, task family and phase (`first` round or
`later` rounds), with fields (`{question}`, `{interface}`) and slots (`{slot:<agent>}`) where
the message of another agent goes. Links only work with the prompts they were trained with, so
a set has a hash that is stored beside them.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.system.topology import Topology

FIELDS = ("question", "interface")
FAMILY_FALLBACK = {"choice": "math", "gpqa": "choice", "reasoning": "math"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A place for data: the question, or the interface that code must have."""

    name: str


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for the message of an agent."""

    source: str


Part = str | Field | Slot


@dataclasses.dataclass(frozen=True)
class Interface:
    """What a code task asks for: a `program`, an `unnamed_function`, or a `function` by name."""

    kind: str = "program"
    name: str = ""


PROGRAM = Interface()
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def parse_template(text: str, where: str) -> tuple[Part, ...]:
    """Splits a template into text, fields and slots; `{{` and `}}` are literal braces.

    Raises `InputError` naming `where` for an unknown field or a lone brace.
    """
    parts: list[Part] = [""]
    end = 0
    for match in _BRACES.finditer(text):
        literal, end = text[end : match.start()], match.end()
        parts[-1] += literal
        token, inner = match.group(), match.group(1)
        if token in ("{{", "}}"):
            parts[-1] += token[0]
        elif inner is None:
            raise InputError(f"{where}: lone {token!r} at {match.start()}; write {token * 2!r}")
        elif inner.startswith("slot:"):
            parts += [Slot(inner.removeprefix("slot:")), ""]
        elif inner in FIELDS:
            parts += [Field(inner), ""]
        else:
            known = ", ".join([*FIELDS, "slot:<agent>"])
            raise InputError(f"{where}: unknown field {{{inner}}}; known: {known}")
    parts[-1] += text[end:]
    return tuple(p for p in parts if p != "")


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """A checked prompt set; make one with `load`.

    Attributes:
      system: system text by style name, `default` for the others; may be empty.
      interface: texts of code tasks (`function`, `unnamed_function`, `program`).
      roles: role -> task family -> phase -> template.
      digest: sha256 of the canonical JSON.
    """

    name: str
    system: Mapping[str, str]
    interface: Mapping[str, str]
    roles: Mapping[str, Mapping[str, Mapping[str, tuple[Part, ...]]]]
    digest: str

    def template(self, role: str, task_family: str, phase: str) -> tuple[Part, ...]:
        """The template of a role; `later` falls back to `first`, `gpqa` to `choice`, that
        and `reasoning` to `math`.

        Raises `InputError` naming what the set lacks.
        """
        if role not in self.roles:
            known = ", ".join(self.roles)
            raise InputError(f"prompt set {self.name!r} has no role {role!r}; it has {known}")
        families = self.roles[role]
        name: str | None = task_family
        while name is not None:
            if name in families:
                phases = families[name]
                return phases.get(phase, phases["first"])
            name = FAMILY_FALLBACK.get(name)
        raise InputError(
            f"prompt set {self.name!r}: role {role!r} has no prompts for {task_family!r}; "
            f"it has {', '.join(families)}"
        )

    def alone(self) -> "PromptSet":
        """The set with prompts for an agent alone: the packaged ones, where it has none."""
        if "single" in self.roles:
            return self
        return dataclasses.replace(
            self, roles={**self.roles, "single": load("default").roles["single"]}
        )

    def system_text(self, topology: Topology) -> str:
        """The system message of a style."""
        return self.system.get(topology.name, self.system["default"])

    def interface_text(self, interface: Interface = PROGRAM) -> str:
        """What a code task asks for, in words; raises `InputError` when the set has none."""
        if interface.kind not in self.interface:
            raise InputError(f"prompt set {self.name!r} has no interface text {interface.kind!r}")
        known = {"{{": "{", "}}": "}", "{name}": interface.name}
        text = self.interface[interface.kind]
        return re.sub(r"\{\{|\}\}|\{name\}", lambda m: known[m[0]], text)

    def check(self, topology: Topology, task_family: str) -> None:
        """Holds slots against edges; raises `InputError` naming the role and slot at fault."""
        for agent in topology.agents:
            role = topology.role(agent)
            for phase in ("first", "later"):
                found = [
                    p.source for p in self.template(role, task_family, phase) if isinstance(p, Slot)
                ]
                wanted = [
                    e.src for e in topology.incoming(agent) if e.when == "round" or phase == "later"
                ]
                where = f"prompt set {self.name!r}, role {role!r}, {phase!r} prompt"
                for source in found:
                    if source not in wanted or found.count(source) > 1:
                        raise InputError(
                            f"{where}: slot {{slot:{source}}} has no edge {source}->{agent} "
                            f"then; slots wanted once each: {', '.join(wanted) or 'none'}"
                        )
                for source in wanted:
                    if source not in found:
                        raise InputError(
                            f"{where}: edge {source}->{agent} has no slot; add {{slot:{source}}}"
                        )


def load(source: str) -> PromptSet:
    """A packaged prompt set by name (`default`, `relay`, ...), or one from a JSON file.

    Raises `InputError` that names the file and what is wrong in it.
    """
    folder = resources.files("rmas.system") / "prompt_sets"
    packaged = {Path(file.name).stem: file for file in folder.iterdir()}
    if source in packaged:
        return from_json(packaged[source].read_text(), f"prompt set {source!r}")
    try:
        text = Path(source).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"cannot read prompt set {source!r}: {e}; give a packaged name "
            f"({', '.join(sorted(packaged))}) or a JSON file"
        ) from e
    return from_json(text, source)


def from_json(text: str, where: str) -> PromptSet:
    """Parses and checks the JSON form."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where} is not valid JSON: {e}") from e
    _require(isinstance(raw, dict), where, "must be a JSON object")
    unknown = set(raw) - {"name", "system", "interface", "roles"}
    _require(not unknown, where, f"unknown keys {sorted(unknown)}")
    _require(isinstance(raw.get("name"), str), where, "needs a text 'name'")
    system = _texts(raw.get("system"), where, "system")
    _require("default" in system, where, "'system' needs a 'default' text")
    _require(isinstance(raw.get("roles"), dict), where, "needs an object 'roles'")
    roles = {}
    for role, families in raw["roles"].items():
        _require(isinstance(families, dict) and families, where, f"role {role!r} needs families")
        roles[role] = {}
        for task_family, phases in families.items():
            at = f"{where}: {role}.{task_family}"
            phases = _texts(phases, where, f"{role}.{task_family}")
            _require("first" in phases, at, "needs a 'first' prompt")
            _require(set(phases) <= {"first", "later"}, at, "only 'first' and 'later' are known")
            roles[role][task_family] = {
                k: parse_template(v, f"{at}.{k}") for k, v in phases.items()
            }
    try:
        canonical = json.dumps(raw, sort_keys=True, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise InputError(f"{where}: a text holds half a surrogate pair; write characters") from e
    return PromptSet(
        name=raw["name"],
        system=system,
        interface=_texts(raw.get("interface", {}), where, "interface"),
        roles=roles,
        digest=hashlib.sha256(canonical).hexdigest(),
    )


def _texts(value: Any, where: str, key: str) -> dict[str, str]:
    ok = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    _require(ok, where, f"{key!r} must be an object of texts")
    return value


def _require(condition: bool, where: str, message: str) -> None:
    if not condition:
        raise InputError(f"{where}: {message}")
