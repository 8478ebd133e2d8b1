import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rmas.errors import BusyError, InputError
from rmas.training.workdir import open_workdir, read_identity, unlocking

ROOT = Path(__file__).parents[2]
IDENTITY = {"optim": {"lr": 1e-4, "warmup": 10}, "agents": ("planner", "critic"), "clip": 1}


def test_first_start_writes_and_second_start_opens(tmp_path):
    path = open_workdir(tmp_path / "runs" / "a", IDENTITY)
    assert path == tmp_path / "runs" / "a"
    assert json.loads((path / "config.json").read_text())["agents"] == ["planner", "critic"]
    before = (path / "config.json").stat().st_mtime_ns
    assert open_workdir(path, {**IDENTITY, "clip": 1.0}) == path
    assert (path / "config.json").stat().st_mtime_ns == before
    assert [p.name for p in path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": {"lr": 5e-4, "warmup": 10}}, "optim.lr is 0.0001 there and 0.0005 here"),
        ({"optim": {"warmup": 10}}, "optim.lr is 0.0001 there and absent here"),
        ({"seed": None}, "seed is absent there and null here"),
        ({"clip": True}, "clip is 1 there and true here"),
        ({"agents": ("critic",)}, r'agents is \["planner", "critic"\] there and \["critic"\] here'),
    ],
)
def test_another_config_is_refused_by_key(tmp_path, change, message):
    open_workdir(tmp_path, IDENTITY)
    (tmp_path / "work").write_text("done")
    with pytest.raises(InputError, match=message) as error:
        open_workdir(tmp_path, {**IDENTITY, **change})
    assert "use another --workdir, or the same config" in str(error.value)
    assert "warmup" not in str(error.value)


def test_many_differences_are_counted(tmp_path):
    open_workdir(tmp_path, {f"k{i}": 0 for i in range(20)})
    (tmp_path / "work").write_text("done")
    with pytest.raises(InputError, match="and 14 more"):
        open_workdir(tmp_path, {f"k{i}": 1 for i in range(20)})


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_workdir_that_is_a_file(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file or lies in one; name a folder"):
        open_workdir(tmp_path / name, IDENTITY)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_broken_identity_file(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json is not (valid JSON|a JSON object).*unknown"):
        open_workdir(tmp_path, IDENTITY)
    assert (tmp_path / "config.json").read_text() == text


def test_a_changed_byte_is_not_another_config(tmp_path):
    open_workdir(tmp_path, IDENTITY)
    file = tmp_path / "config.json"
    text = file.read_text()
    (tmp_path / "work").write_text("done")
    file.write_text(text.replace("0.0001", "0.0003"))
    with pytest.raises(InputError, match=r"config.json: it is not what was written.*restore") as e:
        open_workdir(tmp_path, IDENTITY)
    assert "another config" not in str(e.value)
    assert read_identity(tmp_path.parent) == {}
    without = {key: value for key, value in json.loads(text).items() if key != "checksum"}
    file.write_text(json.dumps(without))  # of an earlier version
    open_workdir(tmp_path, IDENTITY)
    assert json.loads(file.read_text()) == without == read_identity(tmp_path)


def test_work_whose_config_is_gone(tmp_path):
    open_workdir(tmp_path, IDENTITY)
    (tmp_path / "config.json").unlink()
    open_workdir(tmp_path, IDENTITY)  # nothing was made yet
    (tmp_path / "config.json").unlink()
    (tmp_path / "records.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"has files, but its config.json is missing.*restore"):
        open_workdir(tmp_path, IDENTITY)
    assert not (tmp_path / "config.json").exists()


def test_folder_that_cannot_be_written():
    """In a process without root's rights, since root may write anywhere."""
    code = (
        "import os, sys\n"
        "from rmas.training.workdir import open_workdir\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_workdir(path, {'a': 1})\n"
        "    except ValueError as e: print(e)\n"
    )
    # Not pytest's tmp_path, which lies in a folder that only its owner may enter.
    with tempfile.TemporaryDirectory() as top:
        locked, made = Path(top) / "locked", Path(top) / "made"
        for folder in (locked, made):
            folder.mkdir()
        (made / "config.json").write_text('{"a": 1}')
        for folder in (locked, made):
            folder.chmod(0o555)
        Path(top).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, str(locked), str(locked / "below"), str(made)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
        for folder in (locked, made):
            folder.chmod(0o755)
    assert done.stdout.splitlines() == [
        f"workdir {locked} cannot be written: Permission denied",
        f"workdir {locked / 'below'} cannot be made: Permission denied",
        f"workdir {made} cannot be written: Permission denied",
    ], done.stderr


def test_a_folder_in_use_is_refused(tmp_path):
    """By another process, until it ends: even by kill -9."""
    program = (
        "import sys, time; from rmas.training.workdir import open_workdir\n"
        "open_workdir(sys.argv[1], {'seed': 1}); print('open', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(BusyError, match="is in use by another run; wait for its end"):
            open_workdir(tmp_path, {"seed": 1})
        process.kill()
    open_workdir(tmp_path, {"seed": 1})
    open_workdir(tmp_path, {"seed": 1})  # one's own, again


def test_folders_of_many_runs_are_unlocked_when_they_end(tmp_path):
    """Those opened within `unlocking`, also where it ends with an error; others stay locked."""

    def is_locked(folder):
        opened = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(opened)
        return False

    open_workdir(tmp_path / "whole", {})
    for n in range(2):
        with pytest.raises(ZeroDivisionError), unlocking():
            open_workdir(tmp_path / "whole", {})
            open_workdir(tmp_path / f"run{n}", {})
            assert is_locked(tmp_path / f"run{n}")
            raise ZeroDivisionError
        assert not is_locked(tmp_path / f"run{n}")
    assert is_locked(tmp_path / "whole")


def test_a_folder_where_nothing_began_is_taken_over(tmp_path):
    """As behind a command that was refused, and is given again as its error says."""
    open_workdir(tmp_path / "run", {"length": 48})
    (tmp_path / "run" / "records.jsonl").touch()
    open_workdir(tmp_path / "run", {"length": 4})
    assert read_identity(tmp_path / "run") == {"length": 4}
    (tmp_path / "run" / "records.jsonl").write_text("{}")
    with pytest.raises(InputError, match="length is 4 there and 5 here"):
        open_workdir(tmp_path / "run", {"length": 5})
