"""Prompt sets: what each agent is asked, as data.

A prompt set is a JSON file of chat texts per role, task family and phase (`first` round or
`later` rounds), with fields (`{question}`, `{interface}`) and slots (`{slot:<agent>}`) where
the message of another agent goes. In all texts of a set `{{` and `}}` are literal braces. Links
only work with the prompts they were trained with, so a set has a digest that is stored with them.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import parse_json, read_bytes
from rmas.places import expanded
from rmas.system.topology import Topology

FIELDS = ("question", "interface")
"""The fields of prompts."""
FAMILY_FALLBACK = {"choice": "math", "gpqa": "choice", "reasoning": "math"}
"""Whose prompts a task family uses where a role has none of its own."""
SINGLE = "single"
"""The role of an agent alone."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A place for data: the question, the interface that code must have, or a function's name."""

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


def parse_template(
    text: str, where: str, fields: Sequence[str] = FIELDS, slots: bool = True
) -> tuple[Part, ...]:
    """Splits a text into literal text, fields and slots; `{{` and `}}` are literal braces.

    `fields` are the names of the fields that it may have, and `slots` says whether it may have
    slots. Raises `InputError` naming `where` for any other field and for a lone brace.
    """
    parts: list[Part] = []
    literal, end = "", 0
    for match in _BRACES.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        token, inner = match.group(), match.group(1)
        if token in ("{{", "}}"):
            literal += token[0]
            continue
        if inner is None:
            raise InputError(f"{where}: lone {token!r} at {match.start()}; write {token * 2!r}")
        if slots and inner.startswith("slot:"):
            place: Part = Slot(inner.removeprefix("slot:"))
        elif inner in fields:
            place = Field(inner)
        else:
            known = ", ".join([*fields, *["slot:<agent>"] * slots]) or "none"
            raise InputError(
                f"{where}: unknown field {token}; known: {known}; "
                f"if the braces are literal, write {{{token}}}"
            )
        parts += [literal, place]
        literal = ""
    return tuple(p for p in [*parts, literal + text[end:]] if p != "")


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """A checked prompt set; make one with `load`.

    Attributes:
      name: as the set calls itself.
      system: system text by topology name, `default` for the others; may be empty.
      interface: texts of code tasks (`function`, `unnamed_function`, `program`).
      roles: role -> task family -> phase -> template.
      digest: sha256 of the canonical JSON.
    """

    name: str
    system: Mapping[str, str]
    interface: Mapping[str, tuple[Part, ...]]
    roles: Mapping[str, Mapping[str, Mapping[str, tuple[Part, ...]]]]
    digest: str

    def template(self, role: str, task_family: str, phase: str) -> tuple[Part, ...]:
        """The template of a role.

        `later` falls back to `first`, family `gpqa` to `choice`, and `choice` and `reasoning` to
        `math`. Raises `InputError` that says what the set has, and what to write.
        """
        phases = self._phases(role, task_family)
        if phases is not None:
            return phases.get(phase, phases["first"])
        if role not in self.roles:
            lacks = f"has no role {role!r}; it has {', '.join(self.roles)}"
        else:
            lacks = (
                f"has no prompts of role {role!r} for task family {task_family!r}; the role has "
                f"{', '.join(self.roles[role])}"
            )
        raise InputError(
            f"prompt set {self.name!r} {lacks}; write roles.{role}.{task_family} with 'first' "
            "(round 1) and 'later' (further rounds; left out, 'first' is used)"
        )

    def _phases(self, role: str, task_family: str) -> Mapping[str, tuple[Part, ...]] | None:
        """A role's templates for a family, by phase; None if there are none."""
        families = self.roles.get(role, {})
        return next((families[name] for name in _fallbacks(task_family) if name in families), None)

    def alone(self, task_family: str) -> "PromptSet":
        """The set with prompts of a family for an agent alone (the role `single`).

        If it has none, those of the packaged default set are used. A family that is not known
        there either gets the question as it is, under the default set's system text for `single`.
        """
        if self._phases(SINGLE, task_family) is not None:
            return self
        default = load("default")
        interface = {**default.interface, **self.interface}
        roles = {**self.roles, SINGLE: default.roles[SINGLE]}
        if default._phases(SINGLE, task_family) is not None:
            return dataclasses.replace(self, interface=interface, roles=roles)
        roles[SINGLE] = {task_family: {"first": (Field("question"),)}}
        system = {SINGLE: default.system[SINGLE], **self.system}
        return dataclasses.replace(self, system=system, roles=roles)

    def system_text(self, topology: Topology) -> str:
        """The system message of a topology; may be empty."""
        return self.system.get(topology.name, self.system["default"])

    def interface_text(self, interface: Interface = PROGRAM) -> str:
        """What a code task asks for, in words; raises `InputError` when the set has no text."""
        if interface.kind not in self.interface:
            raise InputError(
                f"prompt set {self.name!r} has no interface text {interface.kind!r}; write "
                f"interface.{interface.kind}"
            )
        parts = self.interface[interface.kind]
        return "".join(p if isinstance(p, str) else interface.name for p in parts)

    def check(self, topology: Topology, task_family: str) -> None:
        """Checks that slots and edges agree; raises `InputError` naming the role and slot."""
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
                            f"{where}: slot {{slot:{source}}} has no edge {source}->{agent} in "
                            "this phase, or is repeated; slots wanted once each: "
                            f"{', '.join(wanted) or 'none'}"
                        )
                for source in wanted:
                    if source not in found:
                        raise InputError(
                            f"{where}: edge {source}->{agent} has no slot; add {{slot:{source}}}"
                        )


def _fallbacks(task_family: str) -> Iterator[str]:
    """A family, and those whose prompts it can use, in order."""
    name: str | None = task_family
    while name is not None:
        yield name
        name = FAMILY_FALLBACK.get(name)


def packaged() -> dict[str, PromptSet]:
    """The prompt sets that come with the package, by name."""
    folder = resources.files("rmas.system") / "prompt_sets"
    return {name: load(name) for name in sorted(Path(file.name).stem for file in folder.iterdir())}


def load(source: str) -> PromptSet:
    """A packaged prompt set by name (`default`, `relay`, ...), or one from a JSON file.

    Raises `InputError` that names the file and what is wrong in it.
    """
    folder = resources.files("rmas.system") / "prompt_sets"
    packaged = {Path(file.name).stem: file for file in folder.iterdir()}
    if source in packaged:
        return from_json(packaged[source].read_text(), f"prompt set {source!r}")
    try:
        text = read_bytes(expanded(source)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"cannot read prompt set {source!r}: {e}; give a packaged name "
            f"({', '.join(sorted(packaged))}) or a JSON file"
        ) from e
    return from_json(text, source)


def from_json(text: str, where: str) -> PromptSet:
    """A prompt set from its JSON text; raises `InputError` naming `where` and the text at fault."""
    try:
        raw = parse_json(text)
    except ValueError as e:
        raise InputError(f"{where} is not valid JSON: {e}") from e
    _require(isinstance(raw, dict), where, "must be a JSON object")
    unknown = set(raw) - {"name", "system", "interface", "roles"}
    _require(not unknown, where, f"unknown keys {sorted(unknown)}")
    _require(isinstance(raw.get("name"), str), where, "needs a text 'name'")
    system = _texts(raw.get("system"), where, "system")
    _require("default" in system, where, "'system' needs a 'default' text")
    interface = _texts(raw.get("interface", {}), where, "interface")
    _require(isinstance(raw.get("roles"), dict), where, "needs an object 'roles'")
    roles: dict[str, dict[str, dict[str, tuple[Part, ...]]]] = {}
    for role, families in raw["roles"].items():
        has_families = isinstance(families, dict) and bool(families)
        _require(has_families, where, f"role {role!r} needs prompts by task family")
        roles[role] = {}
        for task_family, value in families.items():
            at = f"{where}: {role}.{task_family}"
            phases = _texts(value, where, f"{role}.{task_family}")
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
        system={k: _literal(v, f"{where}: system.{k}") for k, v in system.items()},
        interface={
            k: parse_template(
                v,
                f"{where}: interface.{k}",
                fields=("name",) if k == "function" else (),
                slots=False,
            )
            for k, v in interface.items()
        },
        roles=roles,
        digest=hashlib.sha256(canonical).hexdigest(),
    )


def _literal(text: str, where: str) -> str:
    """A text without fields, its braces no longer doubled."""
    return "".join(str(part) for part in parse_template(text, where, fields=(), slots=False))


def _texts(value: Any, where: str, key: str) -> dict[str, str]:
    ok = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    _require(ok, where, f"{key!r} must be an object of texts")
    return value


def _require(condition: bool, where: str, message: str) -> None:
    if not condition:
        raise InputError(f"{where}: {message}")
