"""Links from the released layout to ours and back, as a command."""

import contextlib
import json
import os
import resource
from pathlib import Path

import jax
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.system.convert import from_released, to_released
from rmas.system.load import fingerprint
from rmas.weights.links import load_links, save_links
from support.commands import run
from support.released_tiny import STYLE, TINY, make_root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    return folder, make_root(folder)


@pytest.fixture(scope="module")
def ours(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    from_released(STYLE, root[0], "math", "default", folder)
    return folder


def test_released_links_become_ours_bit_by_bit(root, ours):
    links, _ = load_links(ours)
    assert jax.tree.structure(links) == jax.tree.structure(root[1])
    jax.tree.map(np.testing.assert_array_equal, links, root[1])


def test_the_manifest_says_what_they_belong_to(root, ours):
    manifest = json.loads((ours / "manifest.json").read_text())
    assert manifest["form"] == "ln_res"
    assert manifest["topology"]["name"] == "sequential"
    assert len(manifest["prompts"]["digest"]) == 64
    assert manifest["agents"] == {a: fingerprint(TINY / a) for a in STYLE.agents}
    planner = {"base_model": "Qwen/Qwen3-1.7B", "source": "planner", "revision": None}
    assert manifest["base_models"]["planner"] == planner


def test_ours_become_the_same_released_files(root, ours, tmp_path):
    to_released(STYLE, ours, "math", tmp_path)
    written = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert Path("outer/Planner-Critic-Outerlink(math).pt") in written
    assert len(written) == 3 * 3 + 4
    for path in written:
        assert (tmp_path / path).read_bytes() == (root[0] / path).read_bytes()


def test_links_of_another_topology_are_refused(ours, tmp_path):
    manifest = json.loads((ours / "manifest.json").read_text())
    manifest["topology"]["name"] = "debate"
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps(manifest))
    (other / "links.safetensors").write_bytes((ours / "links.safetensors").read_bytes())
    with pytest.raises(InputError, match="belong to topology 'debate'"):
        to_released(STYLE, other, "math", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_without_a_part_are_refused(root, tmp_path):
    manifest = {"form": "ln_res", "topology": {"name": "sequential"}}
    inner = root[1]["inner"]
    for links in (
        {"inner": inner},
        {"inner": {"planner": inner["planner"]}},
        {"inner": inner | {"critic": inner["planner"]}, "outer": root[1]["outer"]},
    ):
        save_links(tmp_path / "links", links, manifest)
        with pytest.raises(InputError, match=r"links in .*links"):
            to_released(STYLE, tmp_path / "links", "math", tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["file", "pipe", "broken link"])
def test_an_output_that_is_no_folder_is_told_first(kind, tmp_path):
    out = tmp_path / "out"
    make = {"file": out.touch, "pipe": lambda: os.mkfifo(out), "broken link": None}[kind]
    make() if make else out.symlink_to("nowhere")
    for convert in (
        lambda: to_released(STYLE, tmp_path / "none", "math", out),
        lambda: from_released(STYLE, tmp_path / "none", "math", "none.json", out),
    ):
        with pytest.raises(InputError, match=r"out is not a folder; name the folder to write"):
            convert()


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("there", [False, True])
def test_an_export_on_a_full_disk_leaves_nothing_and_can_be_repeated(ours, there, tmp_path):
    out = tmp_path / "out"
    if there:
        to_released(STYLE, ours, "code", out)
    before = files_of(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
    try:
        with pytest.raises(
            InputError, match=r"out/.* cannot be written: the disk is full"
        ) as error:
            to_released(STYLE, ours, "math", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert ".tmp" not in str(error.value)
    assert files_of(tmp_path) == before
    to_released(STYLE, ours, "math", out)
    assert files_of(tmp_path).keys() > before.keys()


def test_an_export_that_was_killed_can_be_repeated(ours, tmp_path, monkeypatch):
    """While files are written, or moved into a folder with links of another task."""
    to_released(STYLE, ours, "code", tmp_path / "whole")
    to_released(STYLE, ours, "math", tmp_path / "whole")
    whole, replace = files_of(tmp_path / "whole"), os.replace
    for last in (2, 8, 11, 15):
        out, moved = tmp_path / str(last), []

        def killed(a, b, moved=moved, last=last):
            if len(moved) == last:
                raise SystemExit
            moved.append(replace(a, b))

        to_released(STYLE, ours, "code", out)
        monkeypatch.setattr(os, "replace", killed)
        with contextlib.suppress(SystemExit):
            to_released(STYLE, ours, "math", out)
        monkeypatch.setattr(os, "replace", replace)
        if files_of(out) != whole:
            to_released(STYLE, ours, "math", out)
        assert files_of(out) == whole
    with pytest.raises(InputError, match="has links for task 'math'; write to another folder"):
        to_released(STYLE, ours, "math", out)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--root=a", "--links=b"], "give --root (a released system) or --links"),
        (["--root=nowhere", "--prompts=default"], "nowhere is not a folder"),
        (["--root=nowhere"], "experiments.import_prompts"),
    ],
)
def test_faults_are_one_line(flags, told, tmp_path):
    done = run("convert_links", "--style=sequential_light", f"--out={tmp_path}/out", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
