"""MBPP+: whether a function passes the dataset's script of tests.

The script runs in one sandbox, the function in another; `remote/calls.py` connects them.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rmas.tasks.code_answers import code_limits, code_scores, retry_once
from rmas.tasks.code_blocks import find_code
from rmas.tasks.grader import FENCE, Grader, Need, is_text
from rmas.tasks.remote import calls
from rmas.tasks.rows import Row
from rmas.tools.limits import Completed
from rmas.tools.sandbox import Sandbox

_MEMORY = 4 << 30
"""Bytes of each of both; some scripts compare lists of millions."""
_SCRIPT = 12
"""How many times longer than one call a script may take, which has a hundred of them."""
_PIPE = 1 << 20
_PROGRAM = Path(calls.__file__).parent


def score_mbpp(
    text: str, row: Row, sandbox: Sandbox, seconds: float
) -> tuple[str | None, dict[str, float], str]:
    """Whether the program's function passes the row's script (`meta["script"]`).

    `seconds` is the time limit of one call.
    """
    code = find_code(text, row.meta["interface"])
    if code is None:
        return None, code_scores(False), "no code"
    judge, candidate = retry_once(lambda: _run(code, row, sandbox, seconds))
    if judge.returncode == 0 and not judge.stopped:
        return code, code_scores(True), ""
    if judge.returncode == calls.TIMEOUT or judge.timed_out or candidate.timed_out:
        return code, code_scores(False), "timeout"
    if judge.returncode == calls.UNSENT:
        return code, code_scores(False), "an argument of the tests is no data"
    return code, code_scores(False), candidate.stopped or judge.stopped or "failed"


def _run(code: str, row: Row, sandbox: Sandbox, seconds: float) -> tuple[Completed, Completed]:
    """How the script and the function end."""
    imports = "\n".join(row.meta.get("imports") or ())
    name = row.meta["interface"]["name"]
    program = {f"remote/{p.name}": p.read_text(encoding="utf-8") for p in _PROGRAM.glob("*.py")}
    tests = program | {"imports.py": f"{imports}\n", "tests.py": row.meta["script"]}
    solution = program | {"candidate.py": f"{imports}\n{code}\n"}
    limits = [code_limits(files, _SCRIPT * seconds, _MEMORY) for files in (tests, solution)]
    start, over = [sandbox.python, "-m", "remote.calls"], threading.Event()
    requests, replies = _pipe(), _pipe()
    with ThreadPoolExecutor(1) as pool:
        candidate = pool.submit(
            sandbox.run,
            [*start, "serve", name],
            requests[0],
            limits[1],
            solution,
            stdout=replies[1],
            cancelled=over.is_set,
        )
        try:
            judge = sandbox.run(
                [*start, "judge", name, str(seconds)],
                replies[0],
                limits[0],
                tests,
                stdout=requests[1],
            )
        finally:
            over.set()
    return judge, candidate.result()


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    with contextlib.suppress(OSError):  # the machine limits the sizes of a user's pipes
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE)
    return ends


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
    without_release="The public release runs the same tests as our score does, so there is no "
    "other score by its rule (`release_compatible`).",
)
"""Grades functions by a script of tests."""
