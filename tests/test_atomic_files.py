import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rmas import files
from rmas.errors import InputError
from support.damage import replacements
from support.disks import files_of_at_most


def test_json_round_trip_and_mode(tmp_path):
    path = tmp_path / "a.json"
    files.atomic_write_json(path, {"b": 1, "a": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": "é"}
    assert path.read_text(encoding="utf-8").endswith("}\n")
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.atomic_write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_that_takes_a_path_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.safetensors"
    with files.replacing(path) as temporary:
        assert temporary.parent.parent == tmp_path  # the same file system
        save_file({"x": np.arange(3.0)}, temporary)  # puts a private file of its own there
        assert not path.exists()
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

    whole = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_bytes(whole[:10])
        raise KeyboardInterrupt
    assert path.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "plain"]


def test_append_lines_are_on_disk_at_once(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        files.append_lines(file, ["1", "2"])
        assert path.read_text() == "1\n2\n"
        files.append_lines(file, [])
        files.append_lines(file, iter(["3"]))
        assert path.read_text() == "1\n2\n3\n"


def test_lines_on_a_full_disk_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1\n")
    full = pytest.raises(InputError, match=r"a\.jsonl cannot be written: the disk is full")
    with open(path, "a", encoding="utf-8") as file, files_of_at_most(50), full:
        files.append_lines(file, ["x" * 30, "y" * 30])
    assert path.read_text() == "1\n"  # not a part of a line, nor later from a buffer


def written(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def write_two(folder, value):
    with files.replacing_folder(folder, last=("manifest",)) as made:
        (made / "part").mkdir()
        (made / "part" / "x").write_text(value)
        (made / "manifest").write_text(value)
        assert not folder.exists() or written(folder).get("manifest") != value


@pytest.mark.parametrize("there", ["nothing", "empty", "link"])
def test_a_new_folder_comes_as_a_whole(there, tmp_path, monkeypatch):
    folder = tmp_path / "a" / "out"
    if there == "empty":
        folder.mkdir(parents=True)
    elif there == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.parent.mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    renames = []
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("file by file"))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: renames.append(b) or rename(a, b))
    write_two(folder, "new")
    assert written(folder) == {"part/x": "new", "manifest": "new"}
    assert len(renames) == 1
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


def test_in_a_folder_with_files_the_others_stay_and_the_manifest_is_last(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("kept")
    write_two(tmp_path, "old")
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: moved.append(b.name) or replace(a, b))
    write_two(tmp_path, "new")
    assert moved == ["x", "manifest"]
    assert written(tmp_path) == {"mine": "kept", "part/x": "new", "manifest": "new"}


def test_a_folder_that_fails_leaves_what_was_there(tmp_path):
    write_two(tmp_path / "out", "old")
    for folder in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt), files.replacing_folder(folder) as made:
            (made / "manifest").write_text("half")
            raise KeyboardInterrupt
    assert written(tmp_path) == {"out/part/x": "old", "out/manifest": "old"}
    for folder in (tmp_path / "out", tmp_path / "new"):
        told = re.escape(f"{folder}/x cannot be written: the disk is full")
        with (
            pytest.raises(InputError, match=told),
            files_of_at_most(1),
            files.replacing_folder(folder) as f,
        ):
            files.atomic_write_text(f / "x", "xx")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="Not a directory") as error,
        files.replacing_folder(tmp_path / "file"),
    ):
        pass
    assert error.value.filename == str(tmp_path / "file")
    assert {p.name for p in tmp_path.iterdir()} == {"out", "file"}


KILLED = """
import os, signal, sys, time
from rmas import files
with files.replacing_folder(sys.argv[1]) as made, files.replacing(sys.argv[1] + ".json") as one:
    (made / "half").write_text("x")
    one.write_text("x")
    print(made.parent, one.parent, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start(folder, how):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder / "out"), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])},
    )
    return process, [Path(name) for name in process.stdout.readline().split()]


def test_what_a_killed_process_left_is_removed_and_a_live_one_keeps_its_own(tmp_path):
    killed, left = start(tmp_path, "killed")
    assert killed.wait(60) == -9
    living, own = start(tmp_path, "lives")
    with killed, living:
        assert len(left) == len(own) == 2
        assert not any(folder.exists() for folder in left)  # the living one has removed them
        files.remove_leftovers(tmp_path)
        write_two(tmp_path / "another", "x")
        assert all(folder.exists() for folder in own)
        living.communicate("", timeout=60)
    assert living.returncode == 0
    assert written(tmp_path / "out") == {"half": "x"}
    assert {p.name for p in tmp_path.iterdir()} == {"out", "out.json", "another"}


def test_leftovers_of_another_machine_go_after_a_day_and_other_files_never(tmp_path):
    names = (".a.0123456789abcdef.tmp", "below/.b.0123456789abcdef.tmp", ".mine.tmp", "a.tmp")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".c.0123456789abcdef.tmp").write_text("a file is none of ours")
    files.remove_leftovers(tmp_path, deep=True)
    assert all((tmp_path / name).exists() for name in names)
    for name in names:
        os.utime(tmp_path / name, (1e9, 1e9))
    files.remove_leftovers(tmp_path)
    assert [(tmp_path / name).exists() for name in names] == [False, True, True, True]
    files.remove_leftovers(tmp_path, deep=True)
    assert [(tmp_path / name).exists() for name in names] == [False, False, True, True]
    assert (tmp_path / ".c.0123456789abcdef.tmp").exists()


@pytest.mark.parametrize("kind", ["fifo", "device without end"])
def test_pipes_and_devices_are_not_replaced(kind, tmp_path):
    path = tmp_path / "a"
    replacements(path)[kind]()
    before = path.lstat()
    with pytest.raises(OSError, match="Not a regular file"):
        files.atomic_write_text(path, "x")
    assert os.path.samestat(before, path.lstat())
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_names_as_long_as_names_can_be(tmp_path):
    files.atomic_write_text(tmp_path / ("é" * 120), "x")
    assert (tmp_path / ("é" * 120)).read_text() == "x"
    for name in ("a" * 6000, "a\0b"):
        with pytest.raises(InputError, match="cannot read") as error:
            files.read_json(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link", "loop of links"])
def test_what_is_no_file_is_an_error_at_once(kind, tmp_path):
    replacements(tmp_path / "a")[kind]()
    with pytest.raises(OSError, match=r"directory|Not a regular file|No such file|symbolic links"):
        files.open_file(tmp_path / "a")
