"""The commands as a user types them, each in a process of its own.

Most are forks of a process that has imported the libraries (`command_server.py`), which saves the
seconds of the imports; with `fresh` a new interpreter starts, as a user's does.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).parent / "command_server.py"
# Variables that libraries read when they are imported; a server has them as its commands do.
EARLY = ("JAX_", "XLA_", "TF_", "HF_", "TRANSFORMERS_", "PYTHON", "HOME", "XDG_")


def run(module: str, *flags: str, fresh: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.MODULE FLAGS`, with its output and exit status."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    return python("-m", f"experiments.{module}", *flags, env=env, fresh=fresh)


def python(
    *args: str,
    cwd: str | os.PathLike = ROOT,
    env: Mapping[str, str] = os.environ,
    strict: bool = False,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`python ARGS` in a folder, of `-m MODULE` or a file; with `strict`, warnings are errors."""
    if fresh or not Path("/proc/self/task").exists():
        return subprocess.run(
            [sys.executable, *(("-W", "error") if strict else ()), *args],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    early = tuple(sorted((k, v) for k, v in env.items() if k.startswith(EARLY)))
    process, server = _server(early, strict)
    request = {"args": args, "cwd": str(cwd), "environ": dict(env), "strict": strict}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        socket.send_fds(server, [json.dumps(request).encode()], [out.fileno(), err.fileno()])
        try:
            status = server.recv(4)
        except TimeoutError:
            # Its answer would come to the next command: end it with what it runs.
            os.killpg(process.pid, signal.SIGKILL)
            _server.cache_clear()
            raise
        assert status, "the server of commands has ended"
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "little"))
    return subprocess.CompletedProcess(["python", *args], code, *texts)


@functools.cache
def _server(
    early: tuple[tuple[str, str], ...], strict: bool
) -> tuple[subprocess.Popen, socket.socket]:
    """A server with these variables, and the connection to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    others = {k: v for k, v in os.environ.items() if not k.startswith(EARLY)}
    process = subprocess.Popen(
        [
            sys.executable,
            *(("-W", "error") if strict else ()),
            str(SERVER),
            str(theirs.fileno()),
            str(ROOT),
        ],
        env=others | dict(early) | {"OMP_NUM_THREADS": "1"},  # more would start threads
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    ours.settimeout(600)
    atexit.register(process.wait, 30)
    atexit.register(ours.close)
    return process, ours
