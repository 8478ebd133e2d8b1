"""One recorded question as text for a terminal: every turn, its texts and tools, the outcome."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.json_lines import scan
from rmas.evaluation.layout import QUESTIONS
from rmas.evaluation.records import COUNTS
from rmas.places import has_file

_TOOL_FIELDS = {"agent": str, "round": int, "tool": str, "result": str, "failed": bool}


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, equal ones once; an incomplete last line is left out.

    Raises InputError, naming the line, for one that is not a record, and where there are none.
    """
    records: dict[str, dict[str, Any]] = {}

    def add(record: dict[str, Any], place: str) -> None:
        if fault := _fault(record):
            raise InputError(f"{place}: {fault}; name a records.jsonl of an evaluation")
        records.setdefault(json.dumps(record), record)

    scan(path, add)
    if not records:
        raise InputError(f"{path} has no records; name a records.jsonl of an evaluation")
    return [*records.values()]


def read_question(records: Path, question: str) -> str:
    """The text of a question, from the file of questions next to `records`; empty without one.

    Raises InputError, naming the line, for one that is not a question, and for a half file.
    """
    path = records.with_name(QUESTIONS)
    texts: dict[str, str] = {}

    def add(value: dict[str, Any], place: str) -> None:
        name, text = value.get("id"), value.get("question")
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"{place}: fields 'id' and 'question' must be text")
        if name == question:
            texts[name] = text

    file = scan(path, add) if has_file(path) else None
    if file and (file.half_lines or not file.lines):
        raise InputError(f"{path} is cut short; give the command of the evaluation again")
    return texts.get(question, "")


def _fault(record: Mapping[str, Any]) -> str:
    """What is wrong in a record; empty for nothing."""
    kinds = {"id": str, "method": str, "rounds": int, "rollout": int, "agents": dict,
             "texts": dict, "tools": list, "scores": dict}  # fmt: skip
    for name, kind in {**kinds, "answer": object, "gold": object}.items():
        if name not in record or not isinstance(record[name], kind):
            return f"field {name!r} is missing or of another type"
    for agent, counts in record["agents"].items():
        if not isinstance(counts, dict) or not all(
            isinstance(counts.get(count), int) for count in COUNTS
        ):
            return f"agents.{agent} must have the counts {', '.join(COUNTS)}"
    for agent, texts in record["texts"].items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"texts.{agent} must be a list of texts"
    for use in record["tools"]:
        if not isinstance(use, dict) or not all(
            isinstance(use.get(name), kind) for name, kind in _TOOL_FIELDS.items()
        ):
            return f"the use of a tool must have {', '.join(_TOOL_FIELDS)}"
    if not all(isinstance(score, int | float) for score in record["scores"].values()):
        return "scores must be numbers"
    return ""


def choose(
    records: Sequence[Mapping[str, Any]], question: str = "", method: str = "", rounds: int = 0
) -> list[Mapping[str, Any]]:
    """The records of one question (the first by default), of one method and rounds if given.

    Raises InputError, naming those that exist, where there are none.
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


def render_question(question: str, width: int = 0) -> str:
    """A question, as text that is safe to print."""
    return "\n".join(["question", *_wrapped(question, _columns(width))])


def render(record: Mapping[str, Any], width: int = 0) -> str:
    """One record as text that is safe to print: the outcome, and every turn with texts and tools.

    `width` is that of lines; 0 stands for the terminal's, at most 100.
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
    if list(map(len, texts.values())) == [1]:  # latent recursion writes the answer alone
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
