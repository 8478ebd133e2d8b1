"""A disk that is full at any byte of any write: one line, and what was there before is intact."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rmas import files
from rmas.errors import InputError
from rmas.evaluation import plots
from rmas.evaluation.reporting import write_report
from rmas.links import LinkSpec, init_links
from rmas.models.config import read_spec
from rmas.tasks.sources import load_rows_source
from rmas.tools.index import Passage, build
from rmas.training.hidden_state_cache import _write as write_states
from rmas.training.metrics import MetricsWriter
from rmas.weights import torch_archive
from rmas.weights.links import save_links
from rmas.weights.load import load_params
from rmas.weights.released_export import write_released
from rmas.weights.released_manifests import Layout
from rmas.weights.save import save_params
from support.disks import files_of_at_most

ROOT = Path(__file__).parents[1]
LAYOUT = Layout("duo", "duo", {"a": "A", "b": "B"}, {("a", "b"): "ab"}, by_task=False)
SPEC = LinkSpec("ln_res", (("a", 24), ("b", 20)), (("a", "b"),))
TINY = ROOT / "tests" / "system" / "released_goldens" / "root" / "planner"


def links():
    import jax

    return init_links(SPEC, jax.random.key(0), "random")


def rows(folder):
    load_rows_source("relay", data_dir=folder, seed=1, train=60, validation=5, test=5)


def records(folder):
    with open(folder / "records.jsonl", "a") as file:
        files.append_lines(file, ["x" * 400] * 100)


def metrics(folder):
    with MetricsWriter(folder) as writer:
        for step in range(30):
            writer.write(step, {f"loss {n}": step / 7 for n in range(9)})


def model(folder):
    spec = read_spec(TINY)
    save_params(spec, load_params(spec, TINY), folder / "model")


def latents(folder):
    with files.replacing_folder(folder / "dump") as made:
        np.savez(made / "style.npz", hidden=np.zeros((30, 40)))


def plot(folder):
    figure = plots.new_figure(3, 2)
    figure.subplots().plot([1, 2], [3, 4])
    plots.save(figure, folder / "plot.png")


WRITERS = {
    "prepared rows": rows,
    "records": records,
    "metrics and TensorBoard": metrics,
    "settings and other JSON": lambda f: files.atomic_write_json(f / "a.json", list(range(5000))),
    "links": lambda f: save_links(f / "links", links(), {"form": "ln_res"}),
    "released links": lambda f: write_released(f / "released", LAYOUT, links(), "ln_res"),
    "a link in torch's format": lambda f: torch_archive.write(
        f / "a.pt", {"x": np.ones(5000, np.float32)}
    ),
    "model": model,
    "search index": lambda f: build(f / "i", (Passage("t", f"w{n} " * 30) for n in range(99))),
    "hidden states": lambda f: write_states(f / "c.array_record", [b"x" * 999] * 99),
    "latents": latents,
    "plot": plot,
    "report": lambda f: write_report({}, [], f / "report", draw=False),
}
"""What writes a file or a folder, and how."""
STREAMS = {"records", "metrics and TensorBoard"}
"""What is written line by line: lines before the disk was full stay."""


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fault(writer, folder, before):
    """What is wrong with how a writer fails; empty where nothing is."""
    try:
        WRITERS[writer](folder)
    except InputError as error:
        told = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    else:
        return "no error"
    if "\n" in told or "cannot be written" not in told:
        return f"not one line: {told}"
    after = content(folder)
    if writer not in STREAMS and after != before:
        return f"not as before: {sorted(set(after) ^ set(before))}"
    return ""


def remove(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(writer, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    WRITERS[writer](whole)
    largest = max(len(data) for data in content(whole).values())
    for size in (0, largest // 2, largest - 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "other").write_text("kept")
        before = content(folder)
        with files_of_at_most(size):
            assert fault(writer, folder, before) == ""
        if writer not in STREAMS:
            WRITERS[writer](folder)  # the same command again, with space
            assert content(folder).keys() == {*content(whole), "other"}


def test_a_failed_write_over_something_leaves_it(tmp_path):
    for writer in ("settings and other JSON", "links", "model", "latents", "plot"):
        WRITERS[writer](tmp_path)
        before = content(tmp_path)
        with files_of_at_most(50):
            assert fault(writer, tmp_path, before) == ""


ON_A_SMALL_DISK = """
import json, os, sys
from pathlib import Path
import test_full_disk as own

folder = Path(sys.argv[1])
disk = os.statvfs(folder)
for pages in map(int, sys.argv[2].split(",")):
    for writer in own.WRITERS:
        at = folder / "run"
        at.mkdir()
        free = os.statvfs(folder).f_bavail * disk.f_frsize
        with open(folder / "fill", "wb") as fill:
            os.posix_fallocate(fill.fileno(), 0, free - pages * 4096)
        found = own.fault(writer, at, {})
        done = found == "no error"
        print(json.dumps([pages, writer, "" if done else found, done]), flush=True)
        os.unlink(folder / "fill")
        own.remove(at)
"""


def on_a_small_disk(folder, pages):
    """What each writer does wrong on a tmpfs with so many free pages, and who has succeeded."""
    mount = f'mount -t tmpfs -o size=2m none {folder} && exec $0 -c "$1" {folder} {pages}'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        probe = [*command, f"mount -t tmpfs none {folder}"]
        can = subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        can = False
    if not can:
        pytest.skip("no mount namespaces here")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [*command, mount, sys.executable, ON_A_SMALL_DISK],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:], done.stdout[-500:])
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.extended
def test_every_page_of_a_full_disk(tmp_path):
    """Of a tmpfs, one page more is free each time: it may end at any write, also of libraries."""
    found = on_a_small_disk(tmp_path, ",".join(map(str, range(32))))
    assert [line for line in found if line[2]] == []
    assert {writer for _, writer, _, done in found if not done} == set(WRITERS)


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    assert [line for line in on_a_small_disk(tmp_path, "2") if line[2]] == []
