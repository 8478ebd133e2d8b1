"""Programs that want more memory than their limit, measured from outside by a control group."""

import contextlib
import threading
import time

import pytest

from rmas.tools import sandbox as module
from rmas.tools.limits import Limits
from rmas.tools.memory_groups import MemoryGroup, memory_group
from support.sandboxes import TRY

MIB = 1 << 20
LIMITS = {"the kernel": 128 * MIB, "counting": 384 * MIB}
MOST = 1.3

PREPARE = f"""{TRY}
import mmap
MIB = 1 << 20
def each(count, what):
    for number in range(count):
        if attempt(os.fork) == 0:
            try:
                kept = what(number)
            finally:
                time.sleep(60)
def fresh(size):
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return write(held)
def write(held):
    for at in range(0, len(held), 4096):
        held[at] = 1
    return held
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
def mappings(pages):
    at = libc.mmap(None, 4096 * pages, 3, 0x22, -1, 0)
    for page in range(0, pages, 2):
        libc.mprotect(ctypes.c_void_p(at + 4096 * page), 4096, 1)
    return at
def fill(thing):
    os.set_blocking(thing, False)
    try:
        while True:
            os.write(thing, bytes(1 << 16))
    except OSError:
        pass
"""

HOLDERS = {
    # name: (source, whether all that it tries stays below the limit)
    "processes": ("each(30, lambda n: fresh(50 * MIB))", False),
    "shared pages that are written": (
        "held = fresh(60 * MIB)\neach(12, lambda n: (time.sleep(0.2), write(held)))",
        False,
    ),
    "files": (
        """
def file(number):
    folder = ("/tmp", "/dev/shm")[number % 2]
    with open(f"{folder}/{number}", "wb", buffering=0) as out:
        while isinstance(attempt(out.write, bytes(MIB)), int):
            pass
each(4, file)
each(20, lambda n: fresh(30 * MIB))
""",
        False,
    ),
    "sockets": (
        """
def sockets(number):
    held = []
    while not isinstance(pair := attempt(socket.socketpair), str):
        held += pair
        for one in pair:
            fill(one.fileno())
    time.sleep(60)
each(30, sockets)
""",
        False,
    ),
    "page tables": (
        """
def sparse(number):
    for n in range(60000):
        at = libc.mmap((1 << 40) + (number << 41) + n * 7 * (1 << 21), 4096, 3, 0x100022, -1, 0)
        if at in (None, 2**64 - 1):
            break
        ctypes.string_at(at, 1)
each(30, sparse)
""",
        False,
    ),
    "mappings": ("each(31, lambda n: mappings(SIZE))", False),
    "inherited mappings": (
        """
at = mappings(SIZE)
for page in range(1, SIZE, 2):
    ctypes.memset(at + 4096 * page, 1, 1)
for _ in range(30):
    if attempt(os.fork):
        time.sleep(60)
""",
        False,
    ),
    "pipes": (
        """
def pipes(number):
    held = []
    while not isinstance(ends := attempt(os.pipe), str):
        held.append(ends[0])
        fill(ends[1])
        os.close(ends[1])
    time.sleep(60)
each(30, pipes)
""",
        True,
    ),
    "file locks": (
        """
import fcntl
def locks(number):
    for n in range(40):
        out = os.open(f"/tmp/{number}-{n}", os.O_CREAT | os.O_RDWR)
        for place in range(1000):
            fcntl.lockf(out, fcntl.LOCK_EX, 1, 2 * place)
    time.sleep(60)
each(8, locks)
""",
        True,
    ),
}
FAST = ("processes", "shared pages that are written", "files", "sockets")
MARKS = {name: [] if name in FAST else [pytest.mark.extended] for name in HOLDERS}
MARKS["page tables"] = [pytest.mark.slow]


class Peak:
    """The most memory that a group held, by the kernel's own mark, while the group is there."""

    def __init__(self, group: MemoryGroup):
        name = "memory.peak" if group.unified else "memory.max_usage_in_bytes"
        self._file, self.bytes, self._over = group.folder / name, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                self.bytes = max(self.bytes, int(self._file.read_text()))
            time.sleep(0.005)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def measured(sandbox, source: str, by: str, monkeypatch, seconds: float):
    """How a program ends, and the most memory that its sandbox held, limited in one of two ways."""
    if (probe := memory_group(1 << 33)) is None:
        pytest.skip("no control group to measure with")
    probe.close()
    launcher, groups, peaks = module.launcher, [], []

    def group(limit: int) -> MemoryGroup | None:
        groups.append(memory_group(limit if by == "the kernel" else 1 << 33))
        peaks.append(Peak(groups[-1]))
        return groups[-1] if by == "the kernel" else None

    def start(*arguments):
        command = launcher(*arguments)
        return groups[-1].command(command) if groups and by != "the kernel" else command

    monkeypatch.setattr(module, "memory_group", group)
    if by != "the kernel":
        group(0)
        monkeypatch.setattr(module, "launcher", start)
        monkeypatch.setattr(module, "memory_group", lambda limit: None)
    try:
        limits = Limits(wall=seconds, memory=LIMITS[by], open_files=128)
        # Most of a process's mappings; half of its address space.
        whole = f"SIZE = {min(60000, LIMITS[by] // 5500)}\n{PREPARE}\n{source}\ntime.sleep(60)"
        done = sandbox.run(whole, limits=limits)
    finally:
        for peak, made in zip(peaks, groups, strict=True):
            peak.stop()
            made.close()
    return done, peaks[0].bytes


@pytest.mark.parametrize("by", ["the kernel", "counting"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS[n]) for n in HOLDERS])
def test_no_program_holds_much_more_than_its_limit(any_sandbox, name, by, monkeypatch):
    source, fits = HOLDERS[name]
    # On a busy machine the process that counts may wait for a core while the program goes on.
    for _ in range(3):
        with monkeypatch.context() as patch:
            done, held = measured(any_sandbox, source, by, patch, 4 if fits else 30)
        assert held > LIMITS[by] / 50, done
        if not fits:
            assert done.stopped == "memory", done
        if by == "the kernel" or held <= MOST * LIMITS[by]:
            break
    assert held <= MOST * LIMITS[by], done


@pytest.mark.parametrize("by", ["the kernel", "counting"])
def test_what_processes_share_is_no_reason_to_stop_them(any_sandbox, by, monkeypatch):
    """Twelve processes, which would use six times the limit if each counted for itself."""
    source = "held = fresh(60 * MIB)\neach(12, lambda n: sum(held[::4096]))\ntime.sleep(0.5)"
    done, held = measured(any_sandbox, f"{source}\nprint(1)\nos._exit(0)", by, monkeypatch, 20)
    assert (done.stdout, done.stopped) == ("1\n", ""), done
    assert held > 60 * MIB
