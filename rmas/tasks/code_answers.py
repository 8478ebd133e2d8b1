"""Code: the program in a text, and whether it passes a benchmark's tests, in the sandbox.

What tests expect never enters the sandbox where that can be: outputs of programs and results of
functions come out and are compared here. MBPP+'s tests are a script that runs behind the program;
that it came to its end is told by a token that the program is not given. (A program that searches
the frames of the process for it could still cheat; one that just exits cannot.)
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from rmas.errors import InputError
from rmas.tasks.private_tests import decode_tests
from rmas.tasks.rows import Row
from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox, SandboxError

MAX_CODE = 200_000
"""Characters of a program."""
_GROUP = 8
"""Tests that share a sandbox; after a group with a failure no other is run."""

_GROUP_BYTES = 16 << 20
"""Of their inputs: the sandbox's disk holds 64 MiB."""

_SCRIPT = """
import sys
def run(names, parts):
    token = sys.stdin.readline()
    for part in parts:
        exec(compile(open(part).read(), part, "exec"), names)
    sys.stdout.flush()
    print("\\n" + token, end="", flush=True)
run({"__name__": "__main__"}, ["candidate.py", "tests.py"])
"""

# What solutions of LeetCode's kind take for granted.
_PRELUDE = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from typing import *
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
        told = [done.returncode, done.stdout[:job["most"]].decode("utf-8", "replace")]
    except subprocess.TimeoutExpired:
        told = ["timeout", ""]
    print(json.dumps(told), flush=True)
    if told[0] != 0:
        break
"""


def find_code(text: str) -> str | None:
    """The last fenced block marked `python`, else the last fenced block; None without any.

    A block that the text leaves open counts up to its end.
    """
    blocks: list[tuple[str, str]] = []
    mark, lines = None, []
    for line in [*text.split("\n"), "```"]:
        bare = line.strip()
        if mark is None and bare.startswith("```"):
            mark, lines = bare.strip("`").strip().lower(), []
        elif mark is not None and bare == "```":
            blocks.append((mark, "\n".join(lines) + "\n"))
            mark = None
        elif mark is not None:
            lines.append(line)
    python = [code for mark, code in blocks if mark in ("python", "py", "python3")]
    found = (python or [code for _, code in blocks])[-1:]
    return found[0] if found and found[0].strip() and len(found[0]) <= MAX_CODE else None


def score_mbpp(
    text: str, row: Row, sandbox: Sandbox, seconds: float
) -> tuple[str | None, dict[str, float], str]:
    """Whether the program passes the row's script (`meta["script"]`)."""
    code = find_code(text)
    if code is None:
        return None, _scores(False), "no code"
    token = secrets.token_hex(16)
    imports = "\n".join(row.meta.get("imports") or ())
    files = {
        "main.py": _SCRIPT,
        "candidate.py": f"{imports}\n{code}\n",
        "tests.py": row.meta["script"],
    }
    done, note = _run(sandbox, files, "main.py", token + "\n", seconds, 1 << 20)
    passed = done is not None and done.returncode == 0 and done.stdout.endswith(f"\n{token}\n")
    return code, _scores(passed), note or ("" if passed else "failed")


def score_livecodebench(
    text: str, row: Row, sandbox: Sandbox, seconds: float
) -> tuple[str | None, dict[str, float], str]:
    """Whether the program passes all public and private tests of the row.

    Raises InputError where the tests of the row cannot be read.
    """
    code = find_code(text)
    if code is None:
        return None, _scores(False), "no code"
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
            return code, _scores(False), note
    return code, _scores(True), ""


def _groups(tests: Sequence[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Tests that share a sandbox: few of them, and of few bytes together."""
    group, size = [], 0
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
    """Why some of the tests fail; empty where all pass."""
    kinds = {test["testtype"] for test in tests}
    if len(kinds) > 1:
        split = ([t for t in tests if t["testtype"] == kind] for kind in sorted(kinds))
        return next(filter(None, (_group(code, row, g, sandbox, seconds) for g in split)), "")
    functional, mark = kinds == {"functional"}, secrets.token_hex(8)
    name = row.meta["interface"].get("name", "")
    if functional and not name.isidentifier():
        raise InputError(f"{row.id}: functional tests, but no function is named")
    job = {
        "inputs": [test["input"] for test in tests],
        "command": ["call.py", name, mark] if functional else ["candidate.py"],
        "seconds": seconds,
        "most": 4 << 20,
    }
    files = {
        "driver.py": _DRIVER,
        "job.json": json.dumps(job),
        "candidate.py": code,
        "prelude.py": _PRELUDE,
        "call.py": _CALL,
    }
    whole = seconds * len(tests) + 5
    done, note = _run(sandbox, files, "driver.py", "", whole, 64 << 20)
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


def _run(
    sandbox: Sandbox, files: dict[str, str], main: str, stdin: str, seconds: float, output: int
) -> tuple[Completed | None, str]:
    limits = Limits(
        wall=seconds, cpu=max(1, round(seconds)), memory=1 << 30, output=output, file_size=64 << 20
    )
    try:
        done = sandbox.run([sandbox.python, main], stdin, limits, files)
    except (SandboxError, ValueError) as error:
        return None, f"not run: {str(error)[:200]}"
    return done, "timeout" if done.timed_out else done.stopped


def _scores(passed: bool) -> dict[str, float]:
    return {"exact": float(passed), "release_compatible": float(passed)}


def _returned(out: str, mark: str, expected: str) -> bool:
    """Whether a function returned what was expected, as JSON (a tuple is a list there)."""
    _, found, result = out.rpartition("\n" + mark)
    try:
        return bool(found) and json.loads(result) == json.loads(expected)
    except (ValueError, RecursionError):
        return False


def _printed(out: str, expected: str) -> bool:
    """Whether outputs agree line by line, blanks at their ends aside, numbers by their value."""
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
