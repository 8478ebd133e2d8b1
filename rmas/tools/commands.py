"""The commands that build a sandbox around a Python, one for each way to contain it."""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Literal

from rmas.tools.interpreter import Interpreter
from rmas.tools.limits import Limits

Kind = Literal["bubblewrap", "namespaces", "none"]

_HERE = Path(__file__).parent
_LAUNCHER, _BUILDER = str(_HERE / "inside.py"), str(_HERE / "namespaces.py")
_INSIDE = "/sandbox/inside.py"


def launcher(kind: Kind, python: Interpreter, limits: Limits, user: int | None) -> list[str]:
    """The command that starts `inside.py` in a new sandbox; its two arguments are to follow.

    `user` is whom it will become: None keeps who runs it. Raises FileNotFoundError without bwrap.
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
        "inodes": limits.files + 1,  # and the folder itself
    }
    return [*start, _BUILDER, json.dumps(spec), *start, _INSIDE]


def _bubblewrap(python: Interpreter, limits: Limits, user: int | None) -> list[str]:
    path = shutil.which("bwrap")
    if path is None:
        raise FileNotFoundError("bwrap is not installed")
    if user is None:
        # As process 1 bubblewrap would have our rights but no limits, open to any program.
        rights = ["--unshare-all", "--cap-drop", "ALL", "--as-pid-1"]
    else:  # in a user namespace there would be no other user to become
        rights = [f"--unshare-{name}" for name in ("ipc", "pid", "net", "uts", "cgroup-try")]
        rights += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    tmpfs = ["--size", str(limits.disk), "--perms", "1777", "--tmpfs"]
    command = [path, *rights, "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    command += [*tmpfs, "/tmp"]  # before what is bound: the interpreter may lie below it
    # Folders on the way, which may be a private home, get the rights that all may pass.
    for folder in sorted({str(p) for place in python.binds for p in Path(place).parents[:-1]}):
        command += ["--perms", "0755", "--dir", folder]
    for place in python.binds:
        command += ["--ro-bind", place, place]
    for target, place in python.links:
        command += ["--symlink", target, place]
    command += ["--ro-bind", _LAUNCHER, _INSIDE]
    command += ["--dev", "/dev", *tmpfs, "/dev/shm", "--remount-ro", "/dev"]
    command += ["--proc", "/proc", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, "--"]


def environment(kind: Kind, python: Interpreter, home: str) -> dict[str, str]:
    """All of a sandbox's environment.

    The builder gets it too, so that /proc/1/environ shows nothing of this process's own.
    """
    return {
        "HOME": home,
        "TMPDIR": home,
        "PATH": "/usr/local/bin:/usr/bin:/bin" if kind == "none" else "/nowhere",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": os.pathsep.join(python.packages),
        "MPLBACKEND": "Agg",
        # A thread for each core of this machine would not fit into the limits.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }


def spare_user() -> int | None:
    """For root a user id that nobody has, another one each time, so that limits on processes hold
    and do not add up. None for others, and where there is no other id."""
    if os.geteuid() != 0:
        return None
    tops = []
    for name in ("uid_map", "gid_map"):
        lines = Path("/proc/self", name).read_text().splitlines()
        ranges = [tuple(map(int, line.split())) for line in lines]
        tops.append(max(start + count for start, _, count in ranges))
    top = min(*tops, 1 << 31)
    return top - 1 - secrets.randbelow(min(1 << 20, top // 2)) if top > 1000 else None
