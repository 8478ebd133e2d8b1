"""LiveCodeBench: whether a program or a function passes the public and private tests.

The expected outputs never enter the sandbox: outputs of programs and results of functions are
returned and compared here. A solution is preceded by the imports of the benchmark's own harness.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from rmas.errors import InputError
from rmas.tasks.code_answers import code_scores, find_code, run_code
from rmas.tasks.grader import FENCE, Grader, Need, is_text
from rmas.tasks.private_tests import decode_tests
from rmas.tasks.rows import Row
from rmas.tools.sandbox import Sandbox

_GROUP = 8
"""Most tests that share a sandbox; after a group with a failure the rest is not run."""

_GROUP_BYTES = 16 << 20
"""Most bytes of their inputs, which are in the sandbox's memory."""

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

_PROGRAM = """
names = {"__name__": "__main__"}
for part in ("prelude.py", "candidate.py"):
    exec(compile(open(part).read(), part, "exec"), names)
"""

_CALL = """
import json, sys
name, mark = sys.argv[1:]
arguments = [json.loads(line) for line in sys.stdin.read().split("\\n") if line.strip()]
names = {"__name__": "candidate"}
for part in ("prelude.py", "candidate.py"):
    exec(compile(open(part).read(), part, "exec"), names)
function = getattr(names["Solution"](), name) if "Solution" in names else names[name]
result = json.dumps(function(*arguments))
print("\\n" + mark + result, flush=True)
"""

_DRIVER = """
import json, subprocess, sys
job = json.load(open("job.json"))
for text in job["inputs"]:
    try:
        done = subprocess.run([sys.executable, *job["command"]], input=text.encode(),
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=job["seconds"])
        result = [done.returncode, done.stdout[:job["most"]].decode("utf-8", "replace")]
    except subprocess.TimeoutExpired:
        result = ["timeout", ""]
    print(json.dumps(result), flush=True)
    if result[0] != 0:
        break
"""


def score_livecodebench(
    text: str, row: Row, sandbox: Sandbox, seconds: float
) -> tuple[str | None, dict[str, float], str]:
    """Whether the program passes all public and private tests of the row.

    Raises InputError where the tests of the row cannot be read.
    """
    code = find_code(text)
    if code is None:
        return None, code_scores(False), "no code"
    tests = [
        test
        for name in ("public", "private")
        for test in decode_tests(row.meta[name], f"{row.id}, {name} tests")
    ]
    if not tests:
        raise InputError(f"{row.id}: there are no tests")
    for group in _groups(tests):
        note = _group(code, row, group, sandbox, seconds)
        if note:
            return code, code_scores(False), note
    return code, code_scores(True), ""


def _groups(tests: Sequence[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Groups of tests that share a sandbox, limited in number and bytes."""
    group: list[dict[str, str]] = []
    size = 0
    for test in tests:
        size += len(test["input"])
        if group and (len(group) == _GROUP or size > _GROUP_BYTES):
            yield group
            group, size = [], len(test["input"])
        group.append(test)
    yield group


def _group(
    code: str, row: Row, tests: Sequence[dict[str, str]], sandbox: Sandbox, seconds: float
) -> str:
    """Why a group of tests fails; empty where all pass."""
    kinds = {test["testtype"] for test in tests}
    if len(kinds) > 1:
        split = ([t for t in tests if t["testtype"] == kind] for kind in sorted(kinds))
        return next(filter(None, (_group(code, row, g, sandbox, seconds) for g in split)), "")
    functional, mark = kinds == {"functional"}, secrets.token_hex(8)
    name = row.meta["interface"].get("name", "")
    if functional and not name.isidentifier():
        raise InputError(f"{row.id}: functional tests, but their function is not named")
    job = {
        "inputs": [test["input"] for test in tests],
        "command": ["call.py", name, mark] if functional else ["program.py"],
        "seconds": seconds,
        "most": 4 << 20,
    }
    files = {
        "driver.py": _DRIVER,
        "job.json": json.dumps(job),
        "candidate.py": code,
        "prelude.py": _PRELUDE,
        "program.py": _PROGRAM,
        "call.py": _CALL,
    }
    total = seconds * len(tests) + 5
    done, note = run_code(sandbox, files, "driver.py", total, output=64 << 20)
    if done is None or (note and not done.stdout):
        return note
    lines = done.stdout.splitlines()
    for n, test in enumerate(tests):
        try:
            status, out = json.loads(lines[n])
        except (IndexError, ValueError, TypeError, RecursionError):
            return note or "failed"
        if not isinstance(out, str):
            return "failed"  # the program wrote into its driver's output
        if status == "timeout":
            return "timeout"
        if status != 0:
            return "failed"
        right = (
            _returned(out, mark, test["output"]) if functional else _printed(out, test["output"])
        )
        if not right:
            return "failed"
    return ""


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
