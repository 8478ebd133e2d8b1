"""Counts the memory of a sandbox, for machines where the kernel does not (`memory_groups.py`).

Counted are private memory, page tables, files in memory, and, as the most that they may hold, the
kernel's memory for mappings, sockets and file locks.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from rmas.tools.memory_groups import MemoryGroup

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TMPFS = ("tmp", "dev/shm")
# Bytes of the kernel: for a mapping, for each process above that has it too, and for a file lock.
_MAPPING, _INHERITED, _LOCK = 256, 96, 256


class Meter:
    """What the processes of a sandbox use together.

    Args:
      pid: the process that was started, whose descendants they are.
      memory: their limit in bytes.
      files: the limit of the number of files on each tmpfs.
      group: where the kernel keeps the limit of memory.
    """

    def __init__(self, pid: int, memory: int, files: int, group: MemoryGroup | None = None):
        self._pid, self._memory, self._most_files, self._group = pid, memory, files, group
        self._folders: list[int] = []  # descriptors of the sandbox's tmpfs
        # Bytes and page faults when last measured, and until when that holds.
        self._exact: tuple[int, int, float] | None = None
        self._near = False  # whether more than half of the limit is used
        self.interval = 0.01 if group is None else 0.05
        """Seconds from one call of `overused` to the next."""

    def begin(self) -> None:
        """Call it when the program begins, since later it may hide its files."""
        own = os.stat("/")
        for pid in reversed(list(tree(self._pid))):
            with contextlib.suppress(OSError):
                if os.path.samestat(own, os.stat(f"/proc/{pid}/root")):
                    continue
                self._folders = [os.open(f"/proc/{pid}/root/{p}", os.O_PATH) for p in _TMPFS]
                return

    def close(self) -> None:
        """Closes its descriptors."""
        while self._folders:
            os.close(self._folders.pop())

    def overused(self) -> Literal["", "memory", "files"]:
        """Which limit is exceeded, or empty.

        Processes whose memory is counted here, and exceeds its limit, are killed at once.
        """
        facts = [os.fstatvfs(folder) for folder in self._folders]
        if any(f.f_files - f.f_ffree - 1 > self._most_files for f in facts):  # 1: the folder
            return "files"
        if self._group is not None:
            return "memory" if self._group.exceeded() else ""
        stored = sum((f.f_blocks - f.f_bfree) * f.f_frsize for f in facts)
        return "memory" if self._exceeded(stored) else ""

    def _exceeded(self, stored: int) -> bool:
        """Whether the memory of all processes and `stored` bytes of files exceed the limit.

        Memory that processes share is first counted for each of them, and mappings as if each had
        one page. Where that exceeds the limit they are measured exactly. From then on the count is
        that measure and one page for each page fault, for as long as the measure took and until
        that exceeds the limit again. Processes that use more than half of the limit are stopped
        while they are counted, so that they cannot use more meanwhile. Those that exceed it are
        killed before they would go on.
        """
        with contextlib.ExitStack() as stack:
            if self._near:
                stack.enter_context(_stopped(self._pid))
            pids = list(tree(self._pid))
            facts = list(map(_status, pids))
            left = self._memory - stored - self._kernel(pids, facts)
            private = sum(f.get("RssAnon", 0) + f.get("VmSwap", 0) for f in facts)
            pages = [(pid, f.get("VmSize", 0) // _PAGE) for pid, f in zip(pids, facts, strict=True)]
            mappings = sum(number * self._mapping(pid) for pid, number in pages)
            stopped = self._near
            self._near = private + self._memory - left > self._memory / 2
            if private + mappings <= left:
                return False
            start = time.monotonic()
            if self._exact is not None:
                held, faults, until = self._exact
                if start < until and held + (sum(map(_faults, pids)) - faults) * _PAGE <= left:
                    return False
            if not stopped:
                pids = stack.enter_context(_stopped(self._pid))
            held = sum(_share(pid) + _mappings(pid) * self._mapping(pid) for pid in pids)
            faults = sum(map(_faults, pids))
            now = time.monotonic()
            self._exact = held, faults, now + (now - start)
            if held > left:
                _send(signal.SIGKILL, pids)
            return held > left

    def _mapping(self, pid: int) -> int:
        """Bytes of the kernel for one mapping of a process."""
        depth = 0
        while pid != self._pid and depth < 100 and (pid := _parent(pid)):
            depth += 1
        return _MAPPING + _INHERITED * depth

    def _kernel(self, pids: list[int], facts: list[dict[str, int]]) -> int:
        """Bytes of the kernel for page tables, file locks, and sockets, as if all were full."""
        total = sum(f.get("VmPTE", 0) for f in facts)
        with contextlib.suppress(OSError), open("/proc/locks") as file:
            owners = [line.split()[-4:-3] for line in file.read(1 << 20).splitlines()]
            total += _LOCK * sum(o != [] and o[0].isdigit() and int(o[0]) in pids for o in owners)
        if self._folders:  # else they have the machine's network
            with contextlib.suppress(OSError, ValueError, IndexError):
                used = Path(f"/proc/{pids[-1]}/net/sockstat").read_text().split()[2]
                each = Path("/proc/sys/net/core/wmem_default").read_text()
                total += int(used) * int(each) * 2  # of their size and what manages it
        return total


def tree(pid: int) -> Iterator[int]:
    """The ids of a process and its descendants; in a PID namespace these include orphans."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children: list[str] = []  # of a thread that has ended meanwhile
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                children = file.read().split()
            for child in children:
                yield from tree(int(child))


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[list[int]]:
    """The processes of a tree, all of which are stopped meanwhile."""
    found: set[int] = set()
    try:
        while new := set(tree(pid)) - found:
            _send(signal.SIGSTOP, new)
            found |= new
            time.sleep(0.001)
        yield sorted(found)
    finally:
        _send(signal.SIGCONT, found)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Sends a signal to those of the processes that have not ended."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _status(pid: int) -> dict[str, int]:
    """The sizes of a process in bytes, from /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {f[0][:-1]: int(f[1]) * 1024 for f in map(str.split, lines) if f[2:] == ["kB"]}


def _stat(pid: int) -> list[str]:
    """The fields of a process from its state on; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    return int("".join(_stat(pid)[1:2]) or 0)


def _faults(pid: int) -> int:
    """The page faults of a process and of its children that have ended."""
    return sum(map(int, _stat(pid)[7:11]))


def _mappings(pid: int) -> int:
    """The number of mappings of a process; as if each had one page, where that is hidden."""
    try:
        return Path(f"/proc/{pid}/maps").read_bytes().count(b"\n")
    except OSError:
        return _status(pid).get("VmSize", 0) // _PAGE


def _share(pid: int) -> int:
    """Bytes of private memory, where shared memory is divided among its processes; slow."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            found = dict(line.split()[:2] for line in file.read().splitlines()[1:])
        return (int(found["Pss_Anon:"]) + int(found.get("SwapPss:", 0))) * 1024
    except (OSError, KeyError):
        facts = _status(pid)
        return facts.get("RssAnon", 0) + facts.get("VmSwap", 0)
