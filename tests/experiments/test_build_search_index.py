"""The command that builds search indexes."""

import contextlib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.build_search_index import documents, jsonl_rows, tfds_rows
from rmas.console import Progress
from rmas.errors import InputError
from rmas.tasks.builders import RowFile, open_builder, prepare, row_file_config
from rmas.tools.index import Index, Passage
from support.commands import run
from support.damage import damages, replacements

TOWNS = [
    {"title": "Paris", "text": "The capital of France.", "url": "x"},
    {"text": "No title here."},
    {"title": None, "text": "Nor here, but a ☃."},
]


def command(*args: str) -> subprocess.CompletedProcess:
    return run("build_search_index", *args)


def read(rows) -> list[Passage]:
    with Progress(3, stream=io.StringIO()) as progress:
        return list(documents(rows, "title", "text", progress))


def test_an_index_of_a_jsonl_file(tmp_path):
    source, out = tmp_path / "d.jsonl", tmp_path / "i"
    source.write_text("\ufeff" + "\n\n".join(map(json.dumps, TOWNS)) + "\n")
    done = command(f"--source={source}", f"--index={out}")
    assert (done.returncode, done.stdout) == (0, f"passages: 3\nindex: {out}\n")
    assert "documents  step 3/3" in done.stderr
    assert Index(out).search("France", 5, 5.0) == [Passage("Paris", "The capital of France.")]
    assert Index(out).search("snow here", 5, 5.0)[0].title == ""
    assert sorted(os.listdir(tmp_path)) == ["d.jsonl", "i"]


def test_wrong_input_is_one_line_and_leaves_no_file(tmp_path):
    source = tmp_path / "d.jsonl"
    source.write_text('{"text": "a"}\n{"title": "b"}\n')
    done = command(f"--source={source}", f"--index={tmp_path / 'i'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"error: {source}, line 2: field 'text' is missing; the fields are: 'title'"
    )
    assert os.listdir(tmp_path) == ["d.jsonl"]
    done = command(f"--source={source}", f"--index={tmp_path}")
    assert done.stderr == f"error: --index={tmp_path} is a folder; name the file to write\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text" "b"}', r"d\.jsonl, line 2: not valid JSON \(Expecting ':'"),
        (b'{"text": "a"}\n\xff', r"line 2: not UTF-8 \(byte 0\)"),
        (b"[1]", "line 1: not an object"),
        (b'{"text": 3}', "line 1: field 'text' is not a text"),
        (b'{"text": "a", "title": ["b"]}', "line 1: field 'title' is not a text"),
        (b'{"text": "\\ud800"}', "line 1: field 'text' holds half of a surrogate pair"),
        (b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_faults_of_a_file_are_told_by_line(tmp_path, content, message):
    (tmp_path / "d.jsonl").write_bytes(content)
    _, rows = jsonl_rows(tmp_path / "d.jsonl")
    with pytest.raises(InputError, match=message):
        read(rows)


def test_a_missing_source_is_told(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\); name a"):
        jsonl_rows(tmp_path / "d.jsonl")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A prepared TFDS dataset, as our own tasks store theirs."""
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"question": f"What is {n}?", "answer": str(n)}) + "\n" for n in "abc")
    )
    builder = open_builder(RowFile, row_file_config(folder / "rows.jsonl"), folder / "data")
    prepare(builder)
    return Path(builder.data_path)


def test_an_index_of_a_tfds_dataset(dataset, tmp_path):
    out = tmp_path / "i"
    fields = ("--title_field=id", "--text_field=question")
    done = command(f"--source={dataset}", f"--index={out}", *fields)
    assert (done.returncode, done.stdout) == (0, f"passages: 3\nindex: {out}\n"), done.stderr
    assert Index(out).search("b", 1, 5.0) == [Passage("rows-000001", "What is b?")]


def test_faults_of_a_dataset_are_told(dataset, tmp_path):
    with pytest.raises(InputError, match=r"--split=test: .* has no such split; it has: train"):
        tfds_rows(dataset, "test")
    with pytest.raises(InputError, match=r"is not a TFDS dataset .*features\.json"):
        tfds_rows(tmp_path, "train")
    _, rows = tfds_rows(dataset, "train")
    with pytest.raises(InputError, match="train row 0: field 'text' is missing; the fields are: "):
        read(rows)


def test_a_dataset_imports_nothing_but_tfds(dataset, tmp_path):
    for path in dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    features = tmp_path / "features.json"
    text = features.read_text()
    first = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    assert first in text
    features.write_text(text.replace(first, "antigravity.FeaturesDict"))
    with pytest.raises(InputError, match=r"feature of type 'antigravity\.FeaturesDict'"):
        tfds_rows(tmp_path, "train")


@pytest.mark.parametrize("pattern", ["*.array_record*", "features.json", "dataset_info.json"])
def test_damaged_files_of_a_dataset_are_one_line(pattern, dataset, tmp_path):
    folder = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    (path,) = folder.glob(pattern)
    content = path.read_bytes()
    changes = [lambda own=own: path.write_bytes(own) for own in damages(content).values()]
    for change in [*changes, *replacements(path).values()]:
        change()
        with contextlib.suppress(InputError):  # whatever else is raised is a fault
            assert len(list(tfds_rows(folder, "train")[1])) <= 3
