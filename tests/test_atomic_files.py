import json
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from rmas import files


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
