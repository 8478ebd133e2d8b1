"""Programs that want out, or to take the machine down. Each is contained and the next one runs."""

import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from rmas.tools import inside
from support.sandboxes import TRY, attack, named, wait_until

ROOT = Path(__file__).parents[2]


# --- files -------------------------------------------------------------------------------------


def test_files_of_the_machine_cannot_be_seen(sandbox, tmp_path):
    (tmp_path / "secret").write_text("treasure")
    wanted = ["/etc/passwd", "/etc/shadow", str(ROOT / "README.md"), str(tmp_path / "secret")]
    wanted += [f"/proc/1/root{path}" for path in wanted] + ["/tmp/../etc/shadow"]
    done = attack(sandbox, f"{TRY}\n{{p: attempt(open, p) for p in {wanted}}}")
    told = eval(done.stdout)
    assert told.keys() == set(wanted)
    assert set(told.values()) <= {"ENOENT", "EACCES"}
    for path in wanted[:4]:
        assert told[path] == "ENOENT"


def test_the_home_folder_shows_nothing_but_the_interpreter(sandbox):
    binds = sandbox.interpreter.binds
    source = f"""{TRY}
for base, folders, files in os.walk({os.path.expanduser("~")!r}):
    shown = [os.path.join(base, name) for name in folders + files]
    print(*(p for p in shown if not any(b.startswith(p) for b in {binds!r})))
    folders[:] = [name for name in folders if os.path.join(base, name) not in {binds!r}]
"""
    done = attack(sandbox, source)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_only_the_working_folder_can_be_written(sandbox):
    python_folder = os.path.dirname(os.__file__)
    source = f"""{TRY}
folders = []
for base, below, _ in os.walk("/"):
    folders.append(base)
    below[:] = [] if base.count("/") > 2 or base.startswith("/proc/") else below
folders += [{python_folder!r}, {str(ROOT)!r}, {os.path.expanduser("~")!r}, "/proc/sys/kernel"]
written = [f for f in folders if not isinstance(attempt(open, f + "/planted", "w"), str)]
changed = [attempt(open, p, "r+") for p in (os.__file__, sys.executable, "/sandbox/inside.py")]
made = [attempt(os.mkdir, "/x"), attempt(os.remove, os.__file__), attempt(os.chmod, "/", 0o777)]
print(sorted(written), {{*changed, *made}})
"""
    done = attack(sandbox, source)
    assert done.stdout.startswith("['/dev/shm', '/tmp'] "), done
    told = eval(done.stdout.partition("] ")[2])
    assert told <= {"EROFS", "EACCES", "EPERM", "ETXTBSY", "ENOENT"}
    assert not Path(python_folder, "planted").exists()


def test_links_lead_nowhere(sandbox):
    source = f"""{TRY}
os.symlink("/etc/shadow", "/tmp/a")
os.symlink("/proc/1/root/etc", "/tmp/b")
os.symlink("../../../../../etc/shadow", "/tmp/c")
got = [attempt(open, p) for p in ("/tmp/a", "/tmp/b/shadow", "/tmp/c")]
got += [attempt(os.link, sys.executable, "/tmp/d"), attempt(os.chroot, "/tmp")]
print(got)
"""
    told = eval(attack(sandbox, source).stdout)
    assert set(told) <= {"ENOENT", "EACCES", "EXDEV", "EPERM"}


def test_no_device_of_the_machine_is_there(sandbox):
    source = f"""{TRY}
print(sorted(os.listdir("/dev")))
print([attempt(os.mknod, f"/tmp/d{{n}}", 0o60666, os.makedev(n, 0)) for n in (1, 8, 254)])
print(attempt(open, "/dev/tty"))
"""
    devices, nodes, tty = attack(sandbox, source).stdout.splitlines()
    known = {"console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr"}
    assert set(eval(devices)) <= known | {"stdin", "stdout", "tty", "urandom", "zero"}
    assert set(eval(nodes)) == {"EPERM"}
    assert tty in ("ENXIO", "ENOENT")


# --- network -----------------------------------------------------------------------------------


def test_no_socket_reaches_the_machine(sandbox):
    with tempfile.TemporaryDirectory(prefix="s") as folder, socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        unix, abstract = (socket.socket(socket.AF_UNIX) for _ in range(2))
        unix.bind(f"{folder}/s")
        os.chmod(folder, 0o777)
        os.chmod(f"{folder}/s", 0o777)
        abstract.bind(f"\0rmas-test-{os.getpid()}")
        listeners = [tcp, unix, abstract]
        for server in listeners[1:]:
            server.listen()
        places = [(int(s.family), s.getsockname()) for s in listeners]
        places += [(2, ("192.0.2.1", 80)), (10, ("2001:db8::1", 80))]
        source = f"""{TRY}
def connect(family, kind, place):
    socket.socket(family, kind).connect(place)
print([attempt(connect, family, 1, place) for family, place in {places!r}], end=" ")
print(attempt(connect, 2, 2, {udp.getsockname()!r}))
try:
    socket.getaddrinfo("example.org", 80)
except socket.gaierror:
    print("no names")
"""
        told, names = attack(sandbox, source).stdout.splitlines()
        told, packets = told.rsplit(" ", 1)
        assert packets == "EAFNOSUPPORT"
        assert set(eval(told)) <= {"ECONNREFUSED", "ENOENT", "EAFNOSUPPORT"}
        assert names == "no names"
        for server in [*listeners, udp]:
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recv(1) if server is udp else server.accept()
            server.close()


def test_other_address_families_are_refused(sandbox):
    # A network namespace does not contain AF_VSOCK (40), by which virtual machines reach hosts.
    families = [n for n in range(46) if n != 1]
    source = f"{TRY}\n{{attempt(socket.socket, n, k) for n in {families} for k in (1, 2, 3)}}"
    assert attack(sandbox, source).stdout == "{'EAFNOSUPPORT'}\n"


# --- rights ------------------------------------------------------------------------------------


def test_there_are_no_rights_to_use(sandbox):
    source = f"""{TRY}
facts = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print(facts["CapInh"], facts["CapPrm"], facts["CapEff"], facts["NoNewPrivs"], facts["Seccomp"])
print(0 in os.getresuid() + os.getresgid() + tuple(os.getgroups()))
print([attempt(f, 0) for f in (os.setuid, os.setgid)], attempt(os.setgroups, [0]))
print(attempt(os.setpriority, os.PRIO_PROCESS, 0, -20), attempt(os.nice, -5))
"""
    lines = attack(sandbox, source).stdout.splitlines()
    assert lines[0] == f"{'0' * 16} {'0' * 16} {'0' * 16} 1 2"
    if os.geteuid() == 0:
        assert lines[1:3] == ["False", "['EPERM', 'EPERM'] EPERM"]
    assert lines[3] in ("EACCES EPERM", "EPERM EPERM", "EACCES EACCES")


@pytest.mark.skipif(os.uname().machine not in inside._MACHINES, reason="numbers are not known")
def test_calls_that_lead_out_are_refused(sandbox):
    column, _ = inside._MACHINES[os.uname().machine]
    rows = inside._DENIED | inside._ABSENT
    numbers = {name: row[column] for name, row in rows.items() if row[column] is not None}
    source = f"""{TRY}
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    return libc.syscall(ctypes.c_long(number), *padded), errno.errorcode[ctypes.get_errno()]
got = {{name: call(number) for name, number in {numbers}.items()}}
for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
    got[hex(flag)] = call({inside._CLONE[column]}, flag | 17)
print(got)
"""
    told = eval(attack(sandbox, source).stdout)
    assert {told[name] for name in inside._ABSENT} == {(-1, "ENOSYS")}
    assert len(told) == len(numbers) + 7
    rest = [answer for name, answer in told.items() if name not in inside._ABSENT]
    assert set(rest) == {(-1, "EPERM")}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="a way in that x86_64 has")
def test_other_numbers_of_the_same_calls_kill(sandbox):
    source = f"{TRY}\nctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 101))"
    assert attack(sandbox, source).returncode == -signal.SIGSYS


# --- other processes ---------------------------------------------------------------------------


def test_nothing_of_the_machines_processes_can_be_seen_or_hit(sandbox, monkeypatch):
    monkeypatch.setenv("RMAS_TEST_SECRET", "treasure")
    source = f"""{TRY}
pids = [p for p in os.listdir("/proc") if p.isdigit()]
print(len(pids), os.getpid() < 10)
for p in pids:
    for name in ("environ", "cmdline", "maps", "mounts"):
        text = attempt(lambda: open(f"/proc/{{p}}/{{name}}", "rb").read())
        print(name, text)
print(attempt(os.kill, {os.getpid()}, 9), dict(os.environ))
print([attempt(open, p, "w") for p in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern")])
inits = [f"/proc/1/{{name}}" for name in ("mem", "environ", "maps", "root/tmp", "fd/0", "cwd/x")]
print([attempt(open, p, "rb") for p in ("/proc/kcore", *inits)])
"""
    lines = attack(sandbox, source).stdout.splitlines()
    assert "treasure" not in "\n".join(lines)
    assert lines[0].split()[1] == "True"
    assert int(lines[0].split()[0]) <= 3
    assert lines[-3].startswith("ESRCH {")
    assert set(eval(lines[-2])) <= {"EACCES", "EROFS", "EPERM", "ENOENT"}
    assert set(eval(lines[-1])) <= {"EACCES", "EROFS", "EPERM", "ENOENT"}


def test_killing_everything_in_reach_ends_only_the_program(sandbox):
    source = f"""{TRY}
for pid in (os.getppid(), 1, -1, 0):
    for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP, signal.SIGKILL):
        if pid or number != signal.SIGSTOP:
            attempt(os.kill, pid, number)
"""
    done = attack(sandbox, source, wall=20.0)
    assert done.returncode in (-signal.SIGTERM, -signal.SIGKILL)
    assert done.stopped == ""


def test_children_do_not_outlive_the_program(sandbox):
    name = f"leftover{os.getpid()}"
    source = f"""{TRY}
for closes in (False, True):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
                signal.signal(number, signal.SIG_IGN)
            open("/proc/self/comm", "w").write({name!r})
            if closes:
                os.closerange(0, 64)
            time.sleep(60)
        os._exit(0)
def names():
    pids = [p for p in os.listdir("/proc") if p.isdigit()]
    return [attempt(lambda: open(f"/proc/{{p}}/comm").read().strip()) for p in pids]
while names().count({name!r}) < 2:
    time.sleep(0.01)
print("left")
"""
    done = attack(sandbox, source, wall=20.0)
    assert (done.stdout, done.returncode, done.stopped) == ("left\n", 0, "")
    wait_until(lambda: not named(name))


def test_no_descriptor_of_the_machinery_is_open(sandbox):
    source = f"{TRY}\n[n for n in range(64) if attempt(os.fstat, n) != 'EBADF']"
    assert attack(sandbox, source).stdout == "[0, 1, 2]\n"
    source = f"{TRY}\n[attempt(os.write, 0, b'x'), attempt(open, '/proc/self/fd/0', 'r+')]"
    told = eval(attack(sandbox, source).stdout)
    assert told[0] == "EBADF"
    assert told[1] in ("EACCES", "EROFS", "ETXTBSY")


def test_the_number_tables_agree_with_this_kernels_headers():
    rows = inside._DENIED | inside._ABSENT | {"clone": inside._CLONE, "mmap": inside._MMAP}
    rows |= {name: row[0] for name, row in inside._REFUSED.items()}
    rows |= dict(zip(("socket", "socketpair"), inside._SOCKETS, strict=True))
    headers = ("x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h")
    paths = [Path("/usr/include", name) for name in headers]
    if not all(path.exists() for path in paths):
        pytest.skip("no kernel headers here")
    for column, path in enumerate(paths):
        lines = [line.split() for line in path.read_text().splitlines() if "__NR" in line]
        known = {line[1]: line[2] for line in lines if line[0] == "#define" and len(line) >= 3}
        # Some names stand for others, whose numbers all 64-bit machines share.
        known = {name: known.get(number, number) for name, number in known.items()}
        found = known.keys() & {f"__NR_{name}" for name in rows}
        assert len(found) >= sum(row[column] is not None for row in rows.values()) - 1
        for name, numbers in rows.items():
            number = str(numbers[column])
            assert known.get(f"__NR_{name}", number) == number, name
