"""What the kernel would hold for a program, outside of its limits: each cannot be had, or not many.

One program for each kind of sandbox tries everything, holds what it gets, and waits. The tests read
what it tells, and look at its processes from outside.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from rmas.tools.limits import Limits
from support.sandboxes import TRY, named, wait_until

PREPARE = f"""{TRY}
import array, fcntl, mmap, select, struct
libc = ctypes.CDLL(None, use_errno=True)
held = []
def keep(thing):
    held.append(thing)
    return "had"
def libcall(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
    return "had"
def count(one, most=5000):
    for n in range(most):
        try:
            held.append(one(n))
        except OSError as error:
            return n, errno.errorcode[error.errno]
    return most, "had"
pipe = os.pipe()
pair = socket.socketpair()
file = open("/tmp/file", "w+b")
word = ctypes.c_ulong()
def timer(n):
    libcall("timer_create", 1, None, ctypes.byref(ctypes.c_void_p()))
def pending(n):
    libcall("sigqueue", os.getpid(), signal.SIGRTMIN, None)
def in_flight(n):
    pair[0].sendmsg([b"x"], [(1, 1, array.array("i", [pipe[0]]))])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
pair[0].setblocking(False)
"""

LOCK = "struct.pack('hhqqi4x', 1, 0, 0, 1, 0)"
PROBES = {
    # what is tried: (expression, what comes back)
    "shared memory without a file": ("keep(mmap.mmap(-1, 4096))", "EPERM"),
    "shared memory of a device": (
        "keep(mmap.mmap(os.open('/dev/zero', os.O_RDWR), 4096))",
        "ENODEV",
    ),
    "a file in memory": ("keep(os.memfd_create('x'))", "EPERM"),
    "a System V segment": ("libcall('shmget', 0, 4096, 0o1600)", "EPERM"),
    "a System V queue": ("libcall('msgget', 0, 0o1600)", "EPERM"),
    "a System V semaphore": ("libcall('semget', 0, 9, 0o1600)", "EPERM"),
    "a POSIX queue": ("libcall('mq_open', b'/q', 0o102, 0o600, None)", "EPERM"),
    "AIO contexts": ("libcall('syscall', {io_setup}, 100, ctypes.byref(word))", "EPERM"),
    "io_uring": ("libcall('syscall', 425, 8, ctypes.create_string_buffer(120))", "EPERM"),
    "inotify": ("libcall('inotify_init1', 0)", "EPERM"),
    "fanotify": ("libcall('fanotify_init', 0, 0)", "EPERM"),
    "epoll": ("keep(select.epoll())", "ENOSYS"),
    "a key": ("libcall('syscall', {add_key}, b'user', b'x', b'x', 1, -3)", "EPERM"),
    "Landlock": ("libcall('syscall', 444, None, 0, 1)", "EPERM"),
    "pages in pipes": ("libcall('vmsplice', pipe[1], None, 0, 0)", "EPERM"),
    "a large pipe": ("fcntl.fcntl(pipe[1], 1031, 1 << 20)", "EPERM"),
    "a lock of no process": (f"fcntl.fcntl(file, 37, {LOCK})", "EPERM"),
    "a lock of no process, waiting": (f"fcntl.fcntl(file, 38, {LOCK})", "EPERM"),
    "a lock": (f"len(fcntl.fcntl(file, 6, {LOCK}))", 32),
    "a lease": ("fcntl.fcntl(file, 1024, 0)", "EPERM"),
    "news of a folder": ("fcntl.fcntl(os.open('/tmp', 0), 1026, 1)", "EPERM"),
    "a large send buffer": ("pair[0].setsockopt(1, 7, 1 << 22)", "EPERM"),
    "a large receive buffer": ("pair[0].setsockopt(1, 8, 1 << 22)", "EPERM"),
    "TCP": ("keep(socket.socket(2, 1))", "EAFNOSUPPORT"),
    "UDP over IPv6": ("keep(socket.socket(10, 2))", "EAFNOSUPPORT"),
    "netlink": ("keep(socket.socket(16, 3))", "EAFNOSUPPORT"),
    "locked memory": ("libcall('mlock', ctypes.create_string_buffer(4096), 4096)", "EPERM"),
    "a user namespace": ("libcall('unshare', 0x10000000)", "EPERM"),
    "a mount": ("libcall('mount', b'x', b'/tmp', b'tmpfs', 0, None)", "EPERM"),
    "the kernel's log": ("libcall('klogctl', 3, ctypes.create_string_buffer(99), 99)", "EPERM"),
    "a terminal": ("keep(os.openpty())", "ENOENT"),
    "timers": ("count(timer)", (128, "EAGAIN")),
    "waiting signals": ("count(pending)[1]", "EAGAIN"),
    "descriptors under way": ("count(in_flight)[1]", "ETOOMANYREFS"),
    "open files": ("count(lambda n: os.open('/dev/null', 0))[1]", "EMFILE"),
}
MACHINE = ("fs/aio-nr", "kernel/pty/nr")


def held_by_the_machine() -> list[str]:
    return [Path("/proc/sys", name).read_text() for name in MACHINE]


@pytest.fixture(scope="module")
def told(any_sandbox):
    """What the program tells, and facts about it from outside while it runs."""
    numbers = {"x86_64": (206, 248), "aarch64": (0, 217)}.get(os.uname().machine, (0, 0))
    tries = {
        name: source.replace("{io_setup}", str(numbers[0])).replace("{add_key}", str(numbers[1]))
        for name, (source, _) in PROBES.items()
    }
    mark = f"probe{os.getpid()}"
    lines = [f"told[{name!r}] = attempt(lambda: {source})" for name, source in tries.items()]
    source = "\n".join(
        [
            PREPARE,
            f"open('/proc/self/comm', 'w').write({mark!r})",
            "told = {}",
            *lines,
            "print(told, flush=True)",
            "time.sleep(1)",
        ]
    )
    outside: dict[str, object] = {"before": held_by_the_machine()}

    def look() -> None:
        wait_until(lambda: named(mark))
        time.sleep(0.7)
        (pid,) = named(mark)
        folder = Path("/proc", str(pid))
        links = [os.readlink(path) for path in (folder / "fd").iterdir()]
        outside["kinds"] = {link.partition(":")[0] for link in links if link[0] != "/"}
        outside["anonymous"] = {link for link in links if link.startswith("anon_inode")}
        timers = folder / "timers"
        if timers.exists():
            outside["timers"] = timers.read_text().count("signal:")
        outside["meanwhile"] = held_by_the_machine()

    watcher = threading.Thread(target=look)
    watcher.start()
    done = any_sandbox.run(source, limits=Limits(wall=20))
    watcher.join()
    assert done.returncode == 0, done.stderr
    return eval(done.stdout), outside


@pytest.mark.parametrize("name", PROBES)
def test_a_program_does_not_get(told, name):
    assert told[0][name] == PROBES[name][1]


def test_what_it_holds_as_seen_from_outside(told):
    """No object but files, pipes and local sockets, timers up to their limit, none of all."""
    facts = told[1]
    assert facts["kinds"] <= {"pipe", "socket"}
    assert facts["anonymous"] == set()
    assert facts.get("timers", 0) <= 128
    assert facts["before"] == facts["meanwhile"]
