"""Control groups: made, joined, limited by the kernel, and removed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rmas.tools import memory_groups
from rmas.tools.limits import Limits
from rmas.tools.memory_groups import MemoryGroup, memory_group

MIB = 1 << 20


@pytest.fixture
def group():
    made = memory_group(64 * MIB)
    if made is None:
        pytest.skip("this process cannot make control groups")
    yield made
    made.close()
    assert not made.folder.exists()


def test_the_kernel_ends_what_wants_more(group):
    done = subprocess.run(group.command([sys.executable, "-c", "print(len(bytearray(10**7)))"]))
    assert (done.returncode, group.exceeded()) == (0, False)
    done = subprocess.run(group.command([sys.executable, "-c", "bytearray(10**8)"]))
    assert (done.returncode, group.exceeded()) == (-9, True)


def test_no_group_is_left(group, any_sandbox):
    def groups(pid: int) -> list[str]:
        return sorted(path.name for path in group.folder.parent.glob(f"rmas-{pid}-*"))

    own = os.getpid()
    before = groups(own)
    any_sandbox.run("1")
    any_sandbox.run("while True: pass", limits=Limits(wall=0.2))
    assert groups(own) == before
    made = "from rmas.tools.memory_groups import memory_group\nimport os\n"
    killed = subprocess.Popen([sys.executable, "-c", f"{made}memory_group(1 << 26)\nos.abort()"])
    assert killed.wait() == -signal.SIGABRT
    assert len(groups(killed.pid)) == 1
    memory_groups._remove_leftovers(group.folder.parent)
    assert (groups(killed.pid), groups(own)) == ([], before)


def test_both_versions_of_the_kernels_files_are_read(tmp_path):
    unified, first = MemoryGroup(tmp_path, True), MemoryGroup(tmp_path, False)
    assert not unified.exceeded()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert (unified.exceeded(), first.exceeded()) == (False, True)
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")
    assert unified.exceeded()


def test_without_groups_programs_run_and_are_counted(any_sandbox, monkeypatch):
    monkeypatch.setattr(memory_groups, "_parent", lambda: None)
    start = time.monotonic()
    assert any_sandbox.run("6 * 7").stdout == "42\n"
    source = """
import os, time
for n in range(6):
    if os.fork() == 0:
        held = bytearray(40 << 20)
        time.sleep(30)
time.sleep(30)
"""
    done = any_sandbox.run(source, limits=Limits(memory=128 * MIB, wall=30))
    assert (done.stopped, done.returncode) == ("memory", -9)
    assert time.monotonic() - start < 25
