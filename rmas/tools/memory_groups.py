"""Memory limits of a whole sandbox by the kernel: control groups, version 1 and 2.

Where this process may make control groups (as root on most machines, in some containers), the
kernel counts all memory of a sandbox, its own on a program's behalf included, and no program gets
more. Elsewhere `metering.py` counts.
"""

import contextlib
import functools
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "rmas-"


@dataclass(frozen=True)
class MemoryGroup:
    """A control group for the processes of one sandbox.

    Attributes:
      folder: its files.
      unified: whether it is of version 2.
    """

    folder: Path
    unified: bool

    def command(self, command: list[str]) -> list[str]:
        """A command that joins the group and then becomes `command`."""
        join = 'echo 0 > "$0" && exec "$@"'
        return [_shell(), "-c", join, str(self.folder / "cgroup.procs"), *command]

    def exceeded(self) -> bool:
        """Whether a process had to be ended because the group was at its limit."""
        events = self.folder / ("memory.events" if self.unified else "memory.oom_control")
        with contextlib.suppress(OSError):
            facts = dict(line.split() for line in events.read_text().splitlines())
            return int(facts.get("oom_kill", 0)) > 0
        return False

    def close(self) -> None:
        """Removes the group, as soon as the kernel has ended its processes."""
        for _ in range(200):
            try:
                return self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


def memory_group(limit: int) -> MemoryGroup | None:
    """A new group with a limit in bytes; None where this process cannot make one."""
    parent = _parent()
    return None if parent is None else _make(*parent, limit)


def _shell() -> str:
    return shutil.which("sh") or "/bin/sh"


def _make(parent: Path, unified: bool, limit: int) -> MemoryGroup | None:
    group = MemoryGroup(parent / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}", unified)
    names = {"memory.max": limit, "memory.swap.max": 0, "memory.oom.group": 1}
    if not unified:
        names = {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}
    try:
        group.folder.mkdir()
        for n, (name, value) in enumerate(names.items()):
            file = group.folder / name
            if n == 0 or file.exists():  # without swap there is no file for it
                file.write_text(str(value))
    except OSError:
        group.close()
        return None
    return group


@functools.cache
def _parent() -> tuple[Path, bool] | None:
    """A folder where this process can make groups with a limit of memory, and join them."""
    for folder, unified in _candidates():
        group = _make(folder, unified, 64 << 20)
        if group is None:
            continue
        try:
            done = subprocess.run(group.command([_shell(), "-c", ":"]), capture_output=True)
        except OSError:
            continue
        finally:
            group.close()
        if done.returncode == 0:
            _remove_leftovers(folder)
            return folder, unified
    return None


def _candidates() -> list[tuple[Path, bool]]:
    """This process's groups and those above them, nearest first."""
    try:
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except (OSError, ValueError):
        return []
    found = []
    for mount in mounts:
        kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
        unified = kind == "cgroup2"
        if not unified and not (kind == "cgroup" and "memory" in options):
            continue
        for number, names, path in own:
            if number == "0" if unified else "memory" in names.split(","):
                inside = os.path.relpath(path, mount[3])
                top = Path(mount[4])
                below = [] if inside.startswith("..") else Path(inside).parts
                found += [(top.joinpath(*below[:n]), unified) for n in range(len(below), -1, -1)]
    return found


def _remove_leftovers(parent: Path) -> None:
    """Removes the groups of processes that were killed."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
