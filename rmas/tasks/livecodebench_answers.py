"""LiveCodeBench: whether a program or a function passes the public and private tests.

Each test has a sandbox of its own, whose time is measured outside. The expected outputs never enter
it: outputs of programs and results of functions are returned and compared here. A solution is
preceded by the imports of the benchmark's own harness.
"""

import json
import secrets
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from rmas.errors import InputError
from rmas.tasks.code_answers import code_scores, run_code
from rmas.tasks.code_blocks import find_code
from rmas.tasks.grader import FENCE, Grader, Need, is_text
from rmas.tasks.private_tests import decode_tests
from rmas.tasks.rows import Row
from rmas.tools.sandbox import Sandbox

_OUTPUT = 64 << 20
"""Most bytes of an output."""

# Solutions assume that these modules and their names are imported; `builtins` restores names that
# the modules before it hide.
_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins"),
    "typing",
)
_PRELUDE = "".join(
    [f"from {module} import *\n" for module in _MODULES]
    + [f"import {module}\n" for module in _MODULES]
    + ["sys.setrecursionlimit(50000)\n"]
)

# A solution runs in a module that can be imported by its name, without which its classes are not
# pickled and its functions not given to other processes.
_PROGRAM = """
for part in ("prelude.py", "candidate.py"):
    exec(compile(open(part).read(), part, "exec"))
"""

_CALL = """
import json, sys, types
name, mark = sys.argv[1:]
arguments = [json.loads(line) for line in sys.stdin.read().split("\\n") if line.strip()]
module = sys.modules["__main__"] = sys.modules["candidate"] = types.ModuleType("candidate")
for part in ("prelude.py", "candidate.py"):
    exec(compile(open(part).read(), part, "exec"), vars(module))
owner = getattr(module, "Solution", None)
alone = hasattr(module, name) and not hasattr(owner, name)
function = getattr(module if alone else owner(), name)
result = json.dumps(function(*arguments))
print("\\n" + mark + result, flush=True)
"""


def score_livecodebench(
    text: str, row: Row, sandbox: Sandbox, seconds: float
) -> tuple[str | None, dict[str, float], str]:
    """Whether the program passes all public and private tests of the row.

    Raises InputError where the tests of the row cannot be read.
    """
    code = find_code(text, row.meta["interface"])
    if code is None:
        return None, code_scores(False), "no code"
    tests = [
        test
        for name in ("public", "private")
        for test in decode_tests(row.meta[name], f"{row.id}, {name} tests")
    ]
    if not tests:
        raise InputError(f"{row.id}: there are no tests")
    for test in tests:
        note = _run(code, row, test, sandbox, seconds)
        if note:
            return code, code_scores(False), note
    return code, code_scores(True), ""


def _run(code: str, row: Row, test: dict[str, str], sandbox: Sandbox, seconds: float) -> str:
    """Why a test fails; empty where it passes."""
    functional, mark = test["testtype"] == "functional", secrets.token_hex(8)
    name = row.meta["interface"].get("name", "")
    if functional and not name.isidentifier():
        raise InputError(f"{row.id}: functional tests, but their function is not named")
    command = ["call.py", name, mark] if functional else ["program.py"]
    files = {
        command[0]: _CALL if functional else _PROGRAM,
        "candidate.py": code,
        "prelude.py": _PRELUDE,
    }
    done, note = run_code(sandbox, files, command, seconds, test["input"], output=_OUTPUT)
    if done is None or note or done.returncode != 0:
        return note or "failed"
    if functional:
        return "" if _returned(done.stdout, mark, test["output"]) else "failed"
    return "" if _printed(done.stdout, test["output"]) else "failed"


def _returned(out: str, mark: str, expected: str) -> bool:
    """Whether a function returned what was expected, as JSON (a tuple is a list there)."""
    _, found, result = out.rpartition("\n" + mark)
    try:
        return bool(found) and json.loads(result) == json.loads(expected)
    except (ValueError, RecursionError):
        return False


def _printed(out: str, expected: str) -> bool:
    """Whether outputs agree line by line, without blanks at the ends, numbers by value."""
    one, other = (text.strip().split("\n") for text in (out, expected))
    return len(one) == len(other) and all(map(_same_line, one, other))


def _same_line(one: str, other: str) -> bool:
    if one.strip() == other.strip():
        return True
    numbers = _numbers(one), _numbers(other)
    return numbers[0] is not None and numbers[0] == numbers[1]


def _numbers(line: str) -> list[Any] | None:
    try:
        numbers = [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return None
    return numbers if all(number.is_finite() for number in numbers) else None


def _is_interface(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("kind") in ("program", "function")


LIVECODEBENCH = Grader(
    "livecodebench",
    find_code,
    score_livecodebench,
    "sandbox",
    opening=FENCE,
    retry_tokens=256,
    needs=(
        Need("public", is_text, "tests, as the benchmark's column public_test_cases,"),
        Need("private", lambda tests: isinstance(tests, str), "tests, or an empty text,"),
        Need("interface", _is_interface, '{"kind": "program"}, or "function" and its "name",'),
    ),
)
"""Grades programs and functions by inputs and outputs."""
