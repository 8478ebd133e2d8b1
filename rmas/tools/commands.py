"""The commands that start a Python in a sandbox, one for each kind of sandbox."""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Literal

from rmas.tools.interpreter import Interpreter
from rmas.tools.limits import Limits

Kind = Literal["bubblewrap", "namespaces", "none"]
"""What contains a program: bubblewrap, `namespaces.py`, or only resource limits."""

_HERE = Path(__file__).parent
_LAUNCHER, _BUILDER = str(_HERE / "inside.py"), str(_HERE / "namespaces.py")
_INSIDE = "/sandbox/inside.py"
_ZEROS = ("/dev/full", "/dev/zero")  # reads the same, but gives no memory that processes share


def launcher(kind: Kind, python: Interpreter, limits: Limits, user: int | None) -> list[str]:
    """The command that starts `inside.py` in a new sandbox, without its two arguments.

    Args:
      user: the user id that `inside.py` will change to; None for no change.

    Raises:
      FileNotFoundError: bubblewrap is not installed.
    """
    start = [python.path, "-I", "-S", "-X", "utf8", "-u"]
    if kind == "none":
        return [*start, _LAUNCHER]
    if kind == "bubblewrap":
        return [*_bubblewrap(python, limits, user), *start, _INSIDE]
    spec = {
        "parent": os.getpid(),
        "binds": python.binds,
        "links": python.links,
        "programs": [(_LAUNCHER, _INSIDE)],
        "size": limits.disk,
        "inodes": limits.files + 1,  # one for the folder itself
    }
    return [*start, _BUILDER, json.dumps(spec), *start, _INSIDE]


def _bubblewrap(python: Interpreter, limits: Limits, user: int | None) -> list[str]:
    path = shutil.which("bwrap")
    if path is None:
        raise FileNotFoundError("bwrap is not installed")
    if user is None:
        rights = ["--unshare-all", "--cap-drop", "ALL"]
    else:  # no user namespace, which would have no other user id to change to
        rights = [f"--unshare-{name}" for name in ("ipc", "pid", "net", "uts", "cgroup-try")]
        rights += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    tmpfs = ["--size", str(limits.disk), "--perms", "1777", "--tmpfs"]
    # As process 1 bubblewrap would have this process's rights and no limits.
    command = [
        path,
        *rights,
        "--as-pid-1",
        "--die-with-parent",
        "--new-session",
        "--hostname",
        "sandbox",
    ]
    command += [*tmpfs, "/tmp"]  # before the binds: the interpreter may be below it
    # Parent folders, which may be a private home, must be accessible to the other user.
    for folder in sorted({str(p) for place in python.binds for p in Path(place).parents[:-1]}):
        command += ["--perms", "0755", "--dir", folder]
    for place in python.binds:
        command += ["--ro-bind", place, place]
    for target, place in python.links:
        command += ["--symlink", target, place]
    command += ["--ro-bind", _LAUNCHER, _INSIDE]
    command += ["--dev", "/dev", *tmpfs, "/dev/shm"]
    # Neither terminals, of which the machine has a fixed number, nor a device that gives memory.
    command += ["--tmpfs", "/dev/pts", "--remount-ro", "/dev/pts"]
    command += ["--dev-bind", *_ZEROS, "--remount-ro", "/dev"]
    command += ["--proc", "/proc", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, "--"]


def environment(kind: Kind, python: Interpreter, home: str) -> dict[str, str]:
    """The environment of a sandbox.

    The program that builds the sandbox gets it too, so that /proc/1/environ does not show this
    process's environment.
    """
    return {
        "HOME": home,
        "TMPDIR": home,
        "PATH": "/usr/local/bin:/usr/bin:/bin" if kind == "none" else "/nowhere",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": os.pathsep.join(python.packages),
        "MPLBACKEND": "Agg",
        # One thread for each core of this machine could exceed the limits.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }


def spare_user() -> int | None:
    """An unused user id, random so that the processes of sandboxes are counted separately.

    None if this process is not root, or if there is no other user id.
    """
    if os.geteuid() != 0:
        return None
    tops = []
    for name in ("uid_map", "gid_map"):
        lines = Path("/proc/self", name).read_text().splitlines()
        ranges = [tuple(map(int, line.split())) for line in lines]
        tops.append(max(start + count for start, _, count in ranges))
    top = min(*tops, 1 << 31)
    return top - 1 - secrets.randbelow(min(1 << 20, top // 2)) if top > 1000 else None
