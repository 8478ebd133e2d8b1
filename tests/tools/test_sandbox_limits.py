"""Programs that use up what they can get. Each is stopped at its limit, and the next one runs."""

import os
import signal
import threading
import time

import pytest

from support.sandboxes import TRY, attack, named, wait_until

MIB = 1 << 20


def test_an_endless_loop_ends_by_the_clock(sandbox):
    done = attack(sandbox, "while True: pass", wall=0.5)
    assert (done.stopped, done.returncode) == ("time", -signal.SIGKILL)
    assert done.timed_out
    assert done.seconds < 8


def test_nothing_that_a_program_ignores_keeps_it_alive(sandbox):
    source = f"""{TRY}
for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
while True:
    try:
        time.sleep(9)
    except BaseException:
        pass
"""
    done = attack(sandbox, source, wall=0.5)
    assert done.stopped == "time"
    assert done.seconds < 8


def test_computing_is_limited_apart_from_the_clock(sandbox):
    done = attack(sandbox, "while True: pass", cpu=1, wall=60.0)
    assert (done.stopped, done.returncode) == ("", -signal.SIGXCPU)
    assert done.timed_out


def test_a_fork_bomb_stays_small(sandbox):
    name = f"bomb{os.getpid()}"
    source = f"""{TRY}
open("/proc/self/comm", "w").write({name!r})
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    most = 0
    watching = threading.Event()

    def watch():
        nonlocal most
        while not watching.is_set():
            most = max(most, len(named(name)))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = attack(sandbox, source, wall=1.0, processes=12)
    watching.set()
    watcher.join()
    assert done.stopped == "time"
    assert 2 <= most <= 12
    wait_until(lambda: not named(name))


def test_a_fork_bomb_does_not_starve_other_sandboxes(sandbox):
    bomb = threading.Thread(
        target=lambda: attack(
            sandbox,
            "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
            wall=1.0,
            processes=8,
        )
    )
    bomb.start()
    time.sleep(0.3)
    source = "import os\nif os.fork() == 0: os._exit(5)\nos.waitstatus_to_exitcode(os.wait()[1])"
    assert attack(sandbox, source, processes=8).stdout == "5\n"
    bomb.join()


def test_a_thread_bomb_stays_small(sandbox):
    source = f"""{TRY}
import threading
n = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
        n += 1
except RuntimeError:
    print(n < 12, flush=True)
    os._exit(0)
"""
    assert attack(sandbox, source, processes=12).stdout == "True\n"


def test_a_memory_bomb_is_an_error_of_the_program(sandbox):
    done = attack(sandbox, "x = []\nwhile True: x.append(bytearray(2**20))")
    assert (done.returncode, done.stopped) == (1, "")
    assert done.stderr.endswith("MemoryError\n")


def test_memory_of_all_processes_together_is_limited(sandbox):
    source = f"""{TRY}
for n in range(6):
    if os.fork() == 0:
        held = bytearray({60 * MIB})
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(9)
        os._exit(0)
time.sleep(9)
"""
    done = attack(sandbox, source, memory=200 * MIB, wall=9.0)
    assert (done.stopped, done.returncode) == ("memory", -signal.SIGKILL)
    assert done.seconds < 8


def test_memory_that_processes_share_counts_once(sandbox):
    source = f"""{TRY}
held = bytes({100 * MIB})
held = bytearray(held)
children = [os.fork() for _ in range(1)]
if 0 in children:
    time.sleep(0.5)
    os._exit(0)
os.wait()
print(len(held))
"""
    done = attack(sandbox, source, memory=260 * MIB)
    assert done.stdout == f"{100 * MIB}\n", done


def test_shared_memory_of_the_kernel_cannot_be_had(sandbox):
    source = f"""{TRY}
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(0, ctypes.c_size_t({64 * MIB}), 0o1600), ctypes.get_errno() == errno.EPERM)
print(attempt(os.memfd_create, "x"))
"""
    assert attack(sandbox, source).stdout == "-1 True\nEPERM\n"


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_the_disk_cannot_be_filled(sandbox, folder):
    source = f"""{TRY}
def fill(number):
    with open(f"{folder}/{{number}}", "wb", buffering=0) as file:
        while True:
            file.write(bytes({MIB}))
print([attempt(fill, n) for n in range(12)])
print(sum(os.path.getsize(f"{folder}/{{n}}") for n in range(12)))
"""
    done = attack(sandbox, source, disk=8 * MIB, file_size=2 * MIB)
    told, size = done.stdout.splitlines()
    assert eval(told) == ["EFBIG"] * 4 + ["ENOSPC"] * 8 or eval(told)[:3] == ["EFBIG"] * 3
    assert set(eval(told)) == {"EFBIG", "ENOSPC"}
    assert 6 * MIB <= int(size) <= 8 * MIB


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_the_number_of_files_is_limited(sandbox, folder):
    source = f"""{TRY}
n = 0
while not isinstance(attempt(open, f"{folder}/{{n}}", "w"), str):
    n += 1
print("no more", n)
"""
    done = attack(sandbox, source, files=300)
    if done.stopped != "files":
        assert done.stdout.startswith("no more")
        assert int(done.stdout.split()[2]) <= 300


def test_a_flood_of_output_stops_the_program(sandbox):
    for stream in ("stdout", "stderr"):
        source = f"import sys\nwhile True: sys.{stream}.write('x' * 4096)"
        done = attack(sandbox, source, output=100_000)
        assert (done.stopped, done.returncode) == ("output", -signal.SIGKILL)
        assert getattr(done, stream) == "x" * 100_000
        assert done.seconds < 8


def test_open_files_are_limited(sandbox):
    source = f"{TRY}\nheld = [attempt(os.open, '/dev/null', 0) for _ in range(100)]\nheld[-1]"
    assert attack(sandbox, source, open_files=20).stdout == "'EMFILE'\n"


def test_limits_cannot_be_raised(sandbox):
    source = """
        import resource
        for name in ("CPU", "AS", "NPROC", "FSIZE", "NOFILE", "CORE"):
            kind = getattr(resource, f"RLIMIT_{name}")
            try:
                resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                print(name)
            except (ValueError, OSError):
                pass
    """
    assert attack(sandbox, source).stdout == ""


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**5): x = [x]\nrepr(x)",
        "import ctypes\nctypes.string_at(1)",
        "import os\nos.abort()",
    ],
)
def test_crashes_are_ends_like_others(sandbox, source):
    done = attack(sandbox, source, wall=1.0, memory=128 * MIB)
    assert done.returncode != 0
    assert done.stopped in ("", "time", "memory")


def test_bytes_that_are_no_text_are_replaced(sandbox):
    source = "import sys\nsys.stdout.buffer.write(b'a\\xff\\x00\\x1b[31m\\xc3')\nprint('\\ud800')"
    assert attack(sandbox, source).stdout == "a\ufffd\x00\x1b[31m\ufffd\\ud800\n"


def test_hostile_sources_are_errors_of_the_program(sandbox):
    for source in ("\0", "\ud800", "(" * 100_000, "x = " + "-" * 100_000 + "1", "\ufeff1 +"):
        done = attack(sandbox, source)
        assert done.returncode != 0
        assert done.stderr or done.returncode < 0
