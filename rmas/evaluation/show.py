"""A question's whole course, from its record, as text for a terminal."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.runner import QUESTIONS

_COUNTS = ("prompt_tokens", "latent_steps", "decoded_tokens")
_USE = {"agent": str, "round": int, "tool": str, "result": str, "failed": bool}


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line that is still being written is left out.

    Raises `InputError` naming the line that is no record, and what is wrong in it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None
    records = []
    *lines, rest = text.split("\n")
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number > len(lines):
                break
            record = None
        if wrong := _fault(record):
            raise InputError(
                f"{path}, line {number}: {wrong}; give a records.jsonl of an evaluation"
            )
        records.append(record)
    if not records:
        raise InputError(f"{path} holds no records; give a records.jsonl of an evaluation")
    return records


def read_question(records: Path, question: str) -> str:
    """The text of a question, from the file of questions beside the records; empty where none is.

    Raises `InputError` naming the line that is no question.
    """
    path = records.with_name(QUESTIONS)
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None
    for number, line in enumerate(filter(None, lines), 1):
        try:
            found = json.loads(line)
            if found["id"] == question:
                return str(found["question"])
        except (ValueError, RecursionError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: no question of an evaluation") from None
    return ""


def _fault(record: Any) -> str:
    """What makes a value no record; empty if nothing does."""
    if not isinstance(record, dict):
        return "no JSON object"
    kinds = {"id": str, "method": str, "rounds": int, "rollout": int, "agents": dict,
             "texts": dict, "tools": list, "scores": dict}  # fmt: skip
    for name, kind in {**kinds, "answer": object, "gold": object}.items():
        if name not in record or not isinstance(record[name], kind):
            return f"field {name!r} is missing or of another type"
    for agent, counts in record["agents"].items():
        if not isinstance(counts, dict) or not all(
            isinstance(counts.get(count), int) for count in _COUNTS
        ):
            return f"agents.{agent} lacks one of {', '.join(_COUNTS)}"
    for agent, texts in record["texts"].items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"texts.{agent} is no list of texts"
    for use in record["tools"]:
        if not isinstance(use, dict) or not all(
            isinstance(use.get(name), kind) for name, kind in _USE.items()
        ):
            return f"a tool's use lacks one of {', '.join(_USE)}"
    if not all(isinstance(score, int | float) for score in record["scores"].values()):
        return "scores are not all numbers"
    return ""


def choose(
    records: Sequence[Mapping[str, Any]], question: str = "", method: str = "", rounds: int = 0
) -> list[Mapping[str, Any]]:
    """The records of one question (the first by default), by method and rounds if those are named.

    Raises `InputError` that says which there are.
    """
    question = question or records[0]["id"]
    for name, wanted in (("id", question), ("method", method), ("rounds", rounds)):
        found = [r for r in records if not wanted or r[name] == wanted]
        if not found:
            known = list(dict.fromkeys(str(r[name]) for r in records))
            more = ", ..." if len(known) > 8 else ""
            raise InputError(
                f"no record has {name} {wanted!r}; there are {', '.join(known[:8])}{more}"
            )
        records = found
    return list(records)


def asked(question: str, width: int = 0) -> str:
    """A question, as text that does nothing to the terminal."""
    return "\n".join(["question", *_wrapped(question, _columns(width))])


def render(record: Mapping[str, Any], width: int = 0) -> str:
    """One record: what every agent did in every round, its texts and tools, and the outcome.

    Nothing in a text acts on the terminal.
    """
    width = _columns(width)
    scores = ", ".join(f"{name} {value:g}" for name, value in record["scores"].items())
    lines = [
        f"{record['id']}  {record['method']}, rounds {record['rounds']}, "
        f"rollout {record['rollout']}",
        f"answer {record['answer']!r}, gold {record['gold']!r}  ({scores})",
    ]
    lines = [printable(line) for line in lines]
    lines.append("-" * min(width, max(map(len, lines))))
    for agent, counts in record["agents"].items():
        parts = [f"{counts['prompt_tokens']} positions read"]
        if counts["latent_steps"]:
            parts.append(f"{counts['latent_steps']} latent steps")
        if counts["decoded_tokens"]:
            parts.append(f"{counts['decoded_tokens']} tokens written")
        lines.append(printable(f"{agent}: {', '.join(parts)}"))
    for k, agent, text in _turns(record):
        lines += ["", printable(f"round {k}, {agent}")]
        lines += list(_wrapped(text, width))
        for use in record["tools"]:
            if (use["agent"], use["round"]) == (agent, k):
                outcome = "failed" if use["failed"] else "ran"
                lines.append(printable(f"  [{use['tool']} {outcome}]"))
                if use["result"] not in text:  # its agent never read it
                    lines += list(_wrapped(use["result"], width))
    return "\n".join(lines)


def _columns(width: int) -> int:
    return max(width or min(shutil.get_terminal_size().columns, 100), 20)


def _turns(record: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """(round, agent, text) in the order in which they were written."""
    texts, rounds = record["texts"], record["rounds"]
    if list(map(len, texts.values())) == [1]:  # only the answer was written
        rounds = 1
    for k in range(min(rounds, max(map(len, texts.values()), default=0))):
        for agent in record["agents"]:
            own = texts.get(agent, ())
            if k < len(own):
                yield (record["rounds"] if rounds == 1 else k + 1), agent, own[k]


def _wrapped(text: str, width: int) -> Iterator[str]:
    for line in printable(text, keep="\n").split("\n"):
        yield from textwrap.wrap(
            line, width - 2, initial_indent="  ", subsequent_indent="  ", drop_whitespace=False
        ) or [""]
