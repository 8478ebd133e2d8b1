"""MBPP+: whether a function passes the dataset's script of tests.

The script runs in one process of the sandbox, the function in another, which receives arguments and
returns values as data. So the function can neither see what is expected, nor change how it is
compared, nor report that it passed.
"""

import secrets
from collections.abc import Mapping

from rmas.tasks.code_answers import code_scores, find_code, run_code
from rmas.tasks.grader import FENCE, Grader, Need, ReleaseRule, is_text
from rmas.tasks.rows import Row
from rmas.tools.sandbox import Sandbox

# Values as JSON, each with the name of its type: plain data only.
_VALUES = """
import sys
here = __file__.rpartition("/")[0]  # where the candidate may write its own modules
sys.path[:] = [path for path in sys.path if path not in ("", ".", here)]
import collections, json
sys.set_int_max_str_digits(0)
def plain(x):
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(x, numpy.generic):
        x = x.item()
    if x is None or isinstance(x, (bool, str)):
        return ["as it is", str.__str__(x) if isinstance(x, str) else x]
    for kind in (int, float, complex):
        if isinstance(x, kind):
            parts = (x.real, x.imag) if kind is complex else (x,)
            return [kind.__name__, [hex(p) if kind is int else float.hex(p) for p in parts]]
    if isinstance(x, (bytes, bytearray)):
        return [("bytes", "bytearray")[isinstance(x, bytearray)], x.hex()]
    if isinstance(x, dict):
        return ["dict", [[plain(k), plain(v)] for k, v in dict.items(x)]]
    for kind in (list, tuple, set, frozenset, collections.deque):
        if isinstance(x, kind):
            return [kind.__name__, [plain(v) for v in kind.__iter__(x)]]
    raise TypeError("a value of type " + type(x).__name__)
def value(x):
    kind, x = x
    if kind == "as it is":
        return x
    if kind == "int":
        return int(x[0], 16)
    if kind in ("float", "complex"):
        parts = [float.fromhex(p) for p in x]
        return complex(*parts) if kind == "complex" else parts[0]
    if kind in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[kind].fromhex(x)
    if kind == "dict":
        return {value(k): value(v) for k, v in x}
    kinds = (list, tuple, set, frozenset, collections.deque)
    return {k.__name__: k for k in kinds}[kind](map(value, x))
"""

_CANDIDATE = (
    _VALUES
    + """
def serve(name):
    import os
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for own in (0, 1):
        os.dup2(null, own)
    names = {"__name__": "candidate"}
    exec(compile(open("candidate.py").read(), "candidate.py", "exec"), names)
    print(json.dumps(["ready", callable(names.get(name))]), file=replies, flush=True)
    for line in requests:
        arguments, named = map(value, json.loads(line))
        try:
            reply = ["value", plain(names[name](*arguments, **named))]
        except Exception as error:
            reply = ["error", type(error).__name__]
        print(json.dumps(reply), file=replies, flush=True)
serve(sys.argv[1])
"""
)

_JUDGE = (
    _VALUES
    + """
def judge(name):
    import ctypes, os, subprocess
    token, tests = sys.stdin.readline(), compile(open("tests.py").read(), "tests.py", "exec")
    names = {"__name__": "__main__"}
    exec(compile(open("imports.py").read(), "imports.py", "exec"), names)
    for own in ("tests.py", "imports.py"):
        os.unlink(own)
    try:
        ctypes.CDLL(None).prctl(4, 0)  # no other process looks into this one
    except (OSError, AttributeError):
        pass
    child = subprocess.Popen(
        [sys.executable, "run.py", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )
    def reply():
        kind, found = json.loads(child.stdout.readline())
        if kind == "error":
            raise RuntimeError(found)
        return found
    def call(*arguments, **named):
        print(json.dumps([plain(arguments), plain(named)]), file=child.stdin, flush=True)
        return value(reply())
    if reply() is True:
        names[name] = call
    exec(tests, names)
    child.kill()
    print("\\n" + token, end="", flush=True)
"""
)


def score_mbpp(
    text: str, row: Row, sandbox: Sandbox, seconds: float
) -> tuple[str | None, dict[str, float], str]:
    """Whether the program's function passes the row's script (`meta["script"]`)."""
    code = find_code(text)
    if code is None:
        return None, code_scores(False), "no code"
    token = secrets.token_hex(16)
    imports = "\n".join(row.meta.get("imports") or ())
    files = {
        "main.py": f"{_JUDGE}judge({row.meta['interface']['name']!r})\n",
        "run.py": _CANDIDATE,
        "imports.py": f"{imports}\n",
        "candidate.py": f"{imports}\n{code}\n",
        "tests.py": row.meta["script"],
    }
    done, note = run_code(sandbox, files, "main.py", seconds, token + "\n")
    passed = done is not None and done.returncode == 0 and done.stdout.endswith(f"\n{token}\n")
    return code, code_scores(passed), note or ("" if passed else "failed")


def _names_function(interface: object) -> bool:
    given = interface if isinstance(interface, Mapping) else {}
    return given.get("kind") == "function" and str(given.get("name", "")).isidentifier()


MBPP = Grader(
    "mbpp",
    find_code,
    score_mbpp,
    "sandbox",
    opening=FENCE,
    retry_tokens=256,
    needs=(
        Need("script", is_text, "a script of tests"),
        Need("interface", _names_function, '{"kind": "function", "name": NAME}'),
    ),
    release=ReleaseRule("it runs the same script behind the program, in one process"),
)
"""Grades functions by a script of tests."""
