"""What lies where a file should be, JSON from anybody, and checksums."""

import json
import os
import re
from pathlib import Path

import pytest

from rmas import checksums
from rmas.checksums import read_checked, with_checksum, without_checksum, write_checked
from rmas.errors import InputError
from rmas.experiment import Experiment, embedded
from rmas.files import MAX_DEPTH, parse_json, read_json
from rmas.places import expanded, has_entry, has_file
from support.damage import replacements

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder", "is a folder; a file must be there, or nothing"),
        ("fifo", "is a pipe; a file must be there, or nothing"),
        ("dangling link", "is a link to nothing; a file must be there, or nothing"),
        ("loop of links", "cannot be read: Too many levels of symbolic links"),
        ("device without end", "is a device; a file must be there, or nothing"),
    ],
)
def test_what_is_no_file_is_told(tmp_path, name, told):
    path = tmp_path / "file"
    path.write_text("x")
    assert has_file(path) and has_entry(path)
    replacements(path)[name]()
    with pytest.raises(InputError, match=re.escape(f"{path} {told}")):
        has_file(path)
    assert has_entry(path)


def test_nothing_is_no_error(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert has_file(tmp_path / "link")
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        assert not has_file(path) and not has_entry(path)


def test_a_name_that_no_file_system_has():
    name = "a" * 6000
    for look in (has_file, has_entry, lambda path: Experiment(embedded(), path)):
        with pytest.raises(InputError, match=r"aaa cannot be used: File name too long"):
            look(name)


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/of/mine")
    assert expanded("~/x") == Path("/of/mine/x") and expanded("~") == Path("/of/mine")
    for same in ("a/~", "/~x", "", "."):
        assert expanded(same) == expanded(Path(same)) == Path(same)


@pytest.mark.parametrize("user", ["no such user", "x\0y", "\ud800"])
def test_home_folders_of_nobody(user):
    told = f"~{user}/x: the home folder of {user} is not known; write the path in full"
    for look in (expanded, lambda path: Experiment(embedded(), path)):
        with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
            look(f"~{user}/x")


def test_a_user_without_a_home_folder(monkeypatch):
    def no_entry(_):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(InputError, match=r"^~/x: the home folder of this user is not known; write"):
        expanded("~/x")


def test_home_folders_have_one_door():
    """What expands them by itself ends in a stack trace where there is no such user."""
    code = [
        path for top in ("rmas", "experiments", "launch") for path in (ROOT / top).rglob("*.py")
    ]
    found = [path.name for path in code if "expanduser" in path.read_text()]
    assert found == ["places.py"]


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
def test_deep_json_is_refused(tmp_path, depth, pair):
    before, after = pair
    path = tmp_path / "deep.json"
    path.write_text(before * depth + "1" + after * depth)
    with pytest.raises(InputError, match=r"deep.json is not valid JSON: it is nested deeper than"):
        read_json(path)
    fits = before * MAX_DEPTH + "1" + after * MAX_DEPTH
    assert json.dumps(parse_json(fits), separators=(",", ":")) == fits


def test_checksums_go_along(tmp_path):
    value = {"b": [1, 2.5, None, "ü\u2028"], "a": {"x": float("inf")}, "n": 1e-300}
    assert without_checksum(with_checksum(value)) == value
    assert [*with_checksum(value)][:-1] == ["b", "a", "n"]
    assert without_checksum(value) == value  # of an earlier version
    path = tmp_path / "value.json"
    write_checked(path, value)
    assert read_checked(path) == value
    text = path.read_text()
    path.write_text(text.replace("2.5", "2.6"))
    with pytest.raises(
        InputError, match=r"value.json: it is not what was written.*take out its entry"
    ):
        read_checked(path)
    path.write_text(text.replace('"checksum"', '"chegksum"'))
    with pytest.raises(InputError, match=r"its checksum stands under the name 'chegksum'"):
        read_checked(path)
    path.write_text(json.dumps(json.loads(text)))  # laid out otherwise
    assert read_checked(path) == value


def test_a_list_of_files(tmp_path):
    folder, listed = tmp_path / "folder", tmp_path / "list.json"
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_text("abc")
    (folder / "below" / "b").write_text("xyz")
    assert checksums.find_damage(folder, listed) == ""
    checksums.list_files(folder, listed)
    assert checksums.find_damage(folder, listed) == ""
    (folder / "below" / "b").write_text("xyZ")
    assert checksums.find_damage(folder, listed) == "below/b is not what was written"
    assert checksums.find_damage(folder, listed, which=lambda name: name == "a") == ""
    (folder / "below" / "b").write_text("xy")
    assert checksums.find_damage(folder, listed) == "below/b is not what was written"
    (folder / "a").unlink()
    assert checksums.find_damage(folder, listed) == "a is missing"
    os.mkfifo(folder / "a")
    assert "Not a regular file" in checksums.find_damage(folder, listed)
