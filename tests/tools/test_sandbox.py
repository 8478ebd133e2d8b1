"""What a sandbox gives to programs, and when it refuses to be one."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import rmas
from rmas.errors import InputError
from rmas.tools.limits import Limits
from rmas.tools.sandbox import Sandbox, SandboxError
from support.sandboxes import KINDS, build, named, wait_until

SRC = Path(rmas.__file__).parent


def test_a_command_reads_its_input_and_files_and_writes_both_outputs(sandbox):
    program = (
        "import sys, helper\n"
        "print(sum(map(int, sys.stdin.read().split())), helper.WORD, sys.argv[1:])\n"
        "print('bad', file=sys.stderr)\n"
        "sys.exit(3)\n"
    )
    files = {"main.py": program, "helper.py": "WORD = 'wörd'\n", "sub/data.txt": "1"}
    done = sandbox.run([sandbox.python, "main.py", "-x", ""], "3 4\n5", files=files)
    assert (done.stdout, done.stderr) == ("12 wörd ['-x', '']\n", "bad\n")
    assert (done.returncode, done.stopped, done.timed_out) == (3, "", False)
    assert 0 < done.seconds < 10


def test_source_prints_the_value_of_its_last_expression(sandbox):
    assert sandbox.run("x = 6\nx * 7").stdout == "42\n"
    assert sandbox.run("print('a'); None").stdout == "a\n"
    assert sandbox.run("input() + 'x'", "line\n").stdout == "'linex'\n"


def test_the_standard_streams_can_be_opened_by_name(sandbox):
    source = "open('/dev/stdout', 'w').write(open('/dev/stdin').read()); None"
    assert sandbox.run(source, "a\nb").stdout == "a\nb"


def test_installed_packages_are_there_for_source_and_commands(sandbox):
    assert sandbox.run("import numpy\nint(numpy.arange(4).sum())").stdout == "6\n"
    done = sandbox.run(
        [sandbox.python, "-c", "import numpy; print(numpy.arange(4) @ numpy.arange(4))"]
    )
    assert done.stdout == "14\n"


def test_nothing_is_left_for_the_next_program(sandbox):
    sandbox.run("open('/tmp/x', 'w').write('1')\nopen('/dev/shm/x', 'w').write('1')")
    left = "import os\n[os.path.exists(f'{folder}/x') for folder in ('/tmp', '/dev/shm')]"
    assert sandbox.run(left).stdout == "[False, False]\n"


def test_programs_may_use_threads_and_children_and_local_sockets(sandbox):
    source = """
        import asyncio, fcntl, multiprocessing, socket, sqlite3, subprocess, sys, tempfile
        def square(x):
            return x * x
        with multiprocessing.Pool(2) as pool:
            print(pool.map(square, range(4)))
        print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout)
        with multiprocessing.Manager() as manager:
            print(manager.list([1])[0], multiprocessing.Value("i", 2).value)
        async def later():
            await asyncio.sleep(0.01)
            return await asyncio.to_thread(square, 5)
        print(asyncio.run(later()))
        with sqlite3.connect("file.db") as base, tempfile.TemporaryFile() as file:
            base.execute("create table t(x)")
            fcntl.lockf(file, fcntl.LOCK_EX)
        with open("/dev/zero", "rb") as zero:
            print(zero.read(2))
    """
    done = sandbox.run(textwrap.dedent(source))
    expected = "[0, 1, 4, 9]\nb'1\\n'\n1 2\n25\nb'\\x00\\x00'\n"
    assert done.stdout == expected, done.stderr


def test_a_missing_command_is_the_programs_own_fault(sandbox):
    done = sandbox.run(["/bin/no-such"])
    assert (done.returncode, done.stderr) == (127, "/bin/no-such: No such file or directory\n")


def test_signals_are_told_as_subprocess_does(sandbox):
    done = sandbox.run("import os\nos.kill(os.getpid(), 15)")
    assert (done.returncode, done.stopped) == (-signal.SIGTERM, "")
    for status in (7, 128, 137, 143, 255):
        assert sandbox.run(f"import os\nos._exit({status})").returncode == status


def test_what_was_printed_before_the_time_was_up_is_kept(sandbox):
    done = sandbox.run("import time\nprint('early')\ntime.sleep(60)", limits=Limits(wall=0.3))
    assert (done.stdout, done.stopped, done.returncode) == ("early\n", "time", -signal.SIGKILL)
    assert done.timed_out
    assert done.seconds < 5


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
def test_files_stay_in_their_folder(sandbox, name):
    with pytest.raises(ValueError, match="is not inside the program's folder"):
        sandbox.run("1", files={name: ""})


def test_runs_from_many_threads_do_not_meet(sandbox):
    def one(n: int) -> str:
        return sandbox.run(f"import time\nopen('x', 'x')\ntime.sleep(0.1)\n{n} * 2").stdout

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(12))) == [f"{2 * n}\n" for n in range(12)]


def test_no_descriptor_is_left_open(sandbox):
    sandbox.run("1")
    before = len(os.listdir("/proc/self/fd"))
    sandbox.run("1")
    sandbox.run("while True: pass", limits=Limits(wall=0.1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_killed_caller_takes_its_programs_along(sandbox):
    name = f"{sandbox.kind[:4]}{os.getpid()}"
    source = f"import time\nopen('/proc/self/comm', 'w').write({name!r})\ntime.sleep(60)"
    caller = f"from rmas.tools import *\nSandbox({sandbox.kind!r}).run({source!r})"
    process = subprocess.Popen([sys.executable, "-c", caller], cwd=SRC.parent)
    try:
        wait_until(lambda: named(name))
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not named(name))


# --- where there is no sandbox -----------------------------------------------------------------


def test_without_bubblewrap_the_reason_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"\(bubblewrap: bwrap is not installed\); install"):
        Sandbox.detect(kinds=("bubblewrap",))
    with pytest.raises(SandboxError, match="bwrap is not installed"):
        Sandbox("bubblewrap").run("1")


def fake_bwrap(folder: Path, script: str) -> None:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_bubblewrap_that_fails_is_told(monkeypatch, tmp_path):
    fake_bwrap(tmp_path, "echo 'bwrap: Unknown option --size' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="bubblewrap: bwrap: Unknown option --size"):
        Sandbox.detect(kinds=("bubblewrap",))


def test_a_bubblewrap_that_does_not_contain_is_no_sandbox(monkeypatch, tmp_path):
    build("bubblewrap")
    shown = tempfile.gettempdir()
    fake_bwrap(
        tmp_path,
        f'for a; do shift; [ "$a" = -- ] && set -- "$@" --ro-bind {shown} {shown}; '
        f'set -- "$@" "$a"; done; exec {shutil.which("bwrap")} "$@"',
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"\(bubblewrap: it does not contain programs: "):
        Sandbox.detect(kinds=("bubblewrap",))


def test_unsafe_runs_are_for_those_who_ask():
    with pytest.raises(InputError, match="programs cannot be contained on this machine"):
        Sandbox.detect(kinds=())
    sandbox = Sandbox.detect(kinds=(), unsafe=True)
    assert sandbox.kind == "none"
    assert sandbox.run([sandbox.python, "x.py"], "2", files={"x.py": "print(input())"}).stdout == (
        "2\n"
    )
    folder = sandbox.run("import os\nprint(os.getcwd())").stdout.strip()
    assert not os.path.exists(folder)
    assert "MemoryError" in sandbox.run("x = bytearray(10**10)").stderr


def test_unsafe_runs_end_with_their_children():
    name = f"unsafe{os.getpid()}"
    source = f"""
        import os, time
        open("/proc/self/comm", "w").write({name!r})
        if os.fork() == 0:
            time.sleep(60)
    """
    start = time.monotonic()
    done = Sandbox("none").run(textwrap.dedent(source))
    assert (done.returncode, done.stopped) == (0, "")
    assert time.monotonic() - start < 5
    wait_until(lambda: not named(name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_without_rights_can_contain_programs(kind, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("the tests run as such a user already")
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", check], check=True, capture_output=True, **nobody)
            break
        except (OSError, subprocess.SubprocessError):
            continue
    else:
        pytest.skip("no Python 3.11 or later that other users can run")
    tmp_path = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        (tmp_path / "rmas" / "tools").mkdir(parents=True)
        for path in [SRC / "errors.py", *SRC.glob("tools/*.py")]:
            if path.name != "__init__.py":
                (tmp_path / "rmas" / path.relative_to(SRC)).write_bytes(path.read_bytes())
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755)
        code = f"""
            from rmas.errors import InputError
            from rmas.tools.sandbox import Sandbox
            try:
                sandbox = Sandbox.detect(kinds=({kind!r},))
            except InputError as error:
                print(error)
            else:
                source = "import os; os.getuid(), os.path.exists('/etc/passwd')"
                print(sandbox.run(source).stdout, end="")
        """
        command = [python, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, **nobody)
    finally:
        subprocess.run(["rm", "-r", str(tmp_path)], check=True)
    if "cannot be contained" in done.stdout:
        pytest.skip(f"for users without rights: {done.stdout}")
    assert (done.stdout, done.stderr) == ("(65534, False)\n", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wall": 0}, "limit wall is 0; it must be a positive number"),
        ({"wall": float("inf")}, "limit wall is inf"),
        ({"processes": -1}, "limit processes is -1"),
        ({"memory": 1 << 20}, "limit memory is 1048576 bytes; Python needs 67108864"),
    ],
)
def test_limits_that_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        Limits(**change)
