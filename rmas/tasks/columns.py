"""Readers of the public columns of each benchmark.

A reader gets the cells of one record and returns `(id, question, answer, meta)`; the id is empty
where the dataset has no ids. It raises InputError, naming the place and the column, for a bad one.
"""

import hashlib
import json
import random
import re
from typing import Any

from rmas.errors import InputError
from rmas.tasks.grader import RELEASE_GOLD
from rmas.tasks.private_tests import decode_tests
from rmas.tasks.release_rule import medqa_gold
from rmas.tasks.tables import Cells

_LETTERED = re.compile(r"\s*([A-D])\s*[.:)-]\s*(.*)", re.DOTALL)

Read = tuple[str, str, str, dict[str, Any]]
"""Id, question, gold answer and meta."""
LETTERS = "ABCD"
"""The letters of options."""
GPQA_SEED = 42
"""The release's seed for the order of GPQA's options."""


def math500(cells: Cells) -> Read:
    """MATH-500; the gold answer is LaTeX."""
    own = cells.own_id("unique_id").removesuffix(".json")
    meta = cells.facts("subject", "level")
    return own, cells.text("problem"), cells.text("answer", number=True), meta


def aime(cells: Cells) -> Read:
    """AIME; the gold answer is a whole number from 0 to 999."""
    answer = cells.integer("answer")
    if not 0 <= answer <= 999:
        raise InputError(f"{cells.place}: column 'answer' is {answer}; it must be from 0 to 999")
    return cells.own_id("id", "problem_idx"), cells.text("problem", "question"), str(answer), {}


def gpqa(cells: Cells) -> Read:
    """GPQA: the right option and three wrong ones, in the release's order."""
    names = ("Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))
    stem, options = cells.text("Question"), [cells.text(name, number=True) for name in names]
    order = shuffled(stem)
    own = cells.own_id("Record ID")
    meta = {"domain": cells.facts("High-level domain").get("High-level domain", "")}
    named = {LETTERS[place]: options[index] for place, index in enumerate(order)}
    return own, with_options(stem, named), LETTERS[order.index(0)], meta | {"options": named}


def shuffled(stem: str, seed: int = GPQA_SEED) -> list[int]:
    """The order of four options: a fixed rule of seed and question, the release's."""
    key = hashlib.md5(f"{seed}::{stem.strip()}".encode(), usedforsecurity=False).hexdigest()
    order = [0, 1, 2, 3]
    random.Random(int(key[:16], 16)).shuffle(order)
    return order


def with_options(stem: str, options: dict[str, str]) -> str:
    """A question with its options, a line each."""
    return "\n".join([stem, "", *(f"{letter}. {text}" for letter, text in options.items())])


def medqa(cells: Cells) -> Read:
    """MedQA: options by letter or in order; the right one as `answer_idx`, or as its text.

    A number as `answer_idx` does not say where the count starts, so the text decides.
    """
    given = cells.structure("options")
    options = _options(cells, given)
    stem = cells.text("query", "question")
    if isinstance(given, list):  # with letters, the question has them as well
        stem = stem.removesuffix("Choose the correct option.")
        for text in given:
            if isinstance(text, str) and _LETTERED.fullmatch(text):
                stem = stem.replace(text.strip(), "")
        stem = stem.strip()
    index = cells.find("answer_idx")
    if index and isinstance(cells.record[index], str):
        letter = cells.text(index).upper()
    else:
        answer = cells.text("answer", number=True)
        letter = next((k for k, text in options.items() if text == answer), answer.upper())
    if letter not in options or list(options) != list(LETTERS):
        raise InputError(
            f"{cells.place}: the right option is {letter[:20]!r} of {', '.join(options)}; it must "
            "be one of A, B, C, D"
        )
    return "", with_options(stem, options), letter, {"options": options}


def medqa_release(cells: Cells) -> Read:
    """The release's own rows of MedQA, with the letter that the release takes for the right one."""
    own, question, letter, meta = medqa(cells)
    gold = medqa_gold(cells.text("answer"), cells.texts("options"))
    return own, question, letter, meta | {RELEASE_GOLD: gold}


def _options(cells: Cells, given: Any) -> dict[str, str]:
    """Options by letter: from an object, pairs of key and value, or texts with letters or not."""
    if isinstance(given, list) and given and all(isinstance(item, str) for item in given):
        named = [match for match in map(_LETTERED.fullmatch, given) if match]
        if not named and len(given) == len(LETTERS):
            return {letter: text.strip() for letter, text in zip(LETTERS, given, strict=True)}
        if named:
            return {match[1]: match[2].strip() for match in named}
    if (
        isinstance(given, list)
        and given
        and all(isinstance(item, dict) and isinstance(item.get("key"), str) for item in given)
    ):
        given = {item["key"]: item.get("value") for item in given}
    if not isinstance(given, dict):
        raise cells.wrong("options", "an object of four texts, or a list of them")
    own = Cells(given, f"{cells.place}: column 'options'")
    options = {key.strip().upper(): own.text(key, number=True) for key in sorted(given)}
    if len(options) < len(given):
        raise cells.wrong("options", "options of different letters")
    return options


def mbppplus(cells: Cells) -> Read:
    """MBPP+: the task in words with three of its tests, the tests as a script."""
    tests, script, code = cells.texts("test_list"), cells.text("test"), cells.text("code")
    name = _function(script, tests, code)
    if name is None:
        raise InputError(f"{cells.place}: column 'test' does not name the function that it tests")
    shown = "\n".join(test.strip() for test in tests[:3])
    question = f"{cells.text('prompt')}\n\nYour code should pass these tests:\n{shown}"
    meta = {
        "script": script,
        "imports": cells.texts("test_imports") if cells.find("test_imports") else [],
        "interface": {"kind": "function", "name": name},
    }
    own = cells.own_id("task_id")
    return own, question, code, ({"task_id": int(own)} if own.isdecimal() else {}) | meta


def _function(script: str, tests: list[str], code: str) -> str | None:
    """The function that is tested, searched in the release's order of places."""
    for text, pattern in (
        (script, r"\bassertion\(\s*([A-Za-z_]\w*)\s*\("),
        (script, r"\bassert\s+([A-Za-z_]\w*)\s*\("),
        ("\n".join(tests), r"\bassert\s+(?:[a-z]\w*\()*([A-Za-z_]\w*)\s*\("),
        (code, r"^def\s+([A-Za-z_]\w*)\s*\("),
    ):
        found = re.findall(pattern, text, re.MULTILINE)
        if found:
            return found[-1]
    return None


def livecodebench(cells: Cells) -> Read:
    """LiveCodeBench: tests as they are in the file; that they can be decoded is checked here."""
    starter = cells.text("starter_code", empty=True)
    try:
        metadata = json.loads(cells.json_text("metadata") or "{}")
        name = metadata.get("func_name", "") if isinstance(metadata, dict) else None
    except (ValueError, RecursionError):
        name = None
    if not isinstance(name, str):
        raise cells.wrong("metadata", "a JSON object, with func_name for functional tasks")
    functional = bool(name or starter)
    kinds = set()
    for column in ("public_test_cases", "private_test_cases"):
        text = cells.json_text(column)
        kinds |= {t["testtype"] for t in decode_tests(text, f"{cells.place}: column {column!r}")}
    if "functional" in kinds and not name.isidentifier():
        raise cells.wrong("metadata", "a JSON object with func_name, since tests are functional")
    if not kinds:
        raise cells.wrong("public_test_cases", "tests, unless there are private ones")
    question = cells.text("question_content")
    if starter:
        question += f"\n\nStart from this code:\n{starter}"
    meta = {
        "public": cells.json_text("public_test_cases"),
        "private": cells.json_text("private_test_cases"),
        "interface": {"kind": "function" if functional else "program", "name": name},
        "starter_code": starter,
        "difficulty": cells.text("difficulty", empty=True),
        "platform": cells.text("platform", empty=True),
        "date": cells.text("contest_date", empty=True),
    }
    return cells.own_id("question_id"), question, "", meta


def hotpotqa(cells: Cells) -> Read:
    """HotpotQA without its paragraphs: agents answer from memory or by search."""
    own, answer = cells.own_id("id", "_id"), cells.text("answer", number=True)
    return own, cells.text("question"), answer, cells.facts("type", "level")


def bamboogle(cells: Cells) -> Read:
    """Bamboogle."""
    return "", cells.text("Question"), cells.text("Answer", number=True), {}


def gsm8k(cells: Cells) -> Read:
    """GSM8K: the gold answer follows `####`, or is a number alone; commas in it are dropped."""
    solution, mark, answer = cells.text("answer", number=True).rpartition("####")
    plain = answer.strip().replace(",", "")
    if not plain or not (mark or re.fullmatch(r"-?\d+", plain, re.ASCII)):
        raise InputError(f"{cells.place}: column 'answer' has no '####' followed by the answer")
    meta = {"solution": solution.strip(), RELEASE_GOLD: answer.strip()}
    return "", cells.text("question"), plain, meta
