"""Files of public datasets under the names that people give them."""

import re

import pytest

from rmas.errors import InputError
from rmas.tasks.benchmarks import source_of
from rmas.tasks.locate import locate
from rmas.tasks.sources import load_rows_source
from rmas.tasks.tables import SUFFIXES
from support import make_samples
from support.damage import replacements
from support.make_samples import write_jsonl, write_parquet


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]")


def found(name, at):
    splits = locate(name, source_of(name), at).splits
    return {split: [path.name for path in paths] for split, paths in splits.items()}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("medqa", "medqa.json"),
        ("medqa", "dataset/medqa.json"),
        ("math500", "MATH-500.jsonl"),
        ("math500", "test.JSONL"),
        ("math500", "math500_test.parquet"),
        ("aime25", "AIME25.json"),
        ("aime26", "aime_2026.jsonl"),
        ("gpqa", "GPQA.csv"),
        ("bamboogle", "bamboogle.parquet"),
        ("mbppplus", "data/mbppplus.jsonl"),
        ("hotpotqa", "test.json"),
    ],
)
def test_one_file_by_its_dataset_or_split(name, file, tmp_path):
    put(tmp_path, file, "README.json.md", "notes.json")
    assert list(found(name, tmp_path).values()) == [[file.split("/")[-1]]]
    assert found(name, tmp_path / file) == found(name, tmp_path)  # the file itself as the source


def test_numbered_parts_are_one_file_in_order(tmp_path):
    parts = [f"test-0000{n}-of-00003.parquet" for n in range(3)]
    put(tmp_path, *(f"default/{part}" for part in parts))
    assert found("math500", tmp_path) == {"test": parts}


PARTS = [f"test-0000{n}-of-00002" for n in range(2)]
FAULTS = {
    "gone": r"test-\*SUFFIX: by their names there are 2 files, of which number 1 is missing",
    "folder": r"test-00001-of-00002SUFFIX: cannot be read \(Is a directory\)",
    "fifo": r"test-00001-of-00002SUFFIX: cannot be read \(Not a regular file\)",
    "dangling link": r"test-00001-of-00002SUFFIX: cannot be read \(No such file or directory\)",
    "loop of links": r"test-00001-of-00002SUFFIX: cannot be read \(Too many levels",
    "device without end": r"test-00001-of-00002SUFFIX: cannot be read \(Not a regular file\)",
}


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize(
    ("name", "write", "suffix"),
    [
        ("math500", write_jsonl, ".jsonl"),
        ("bamboogle", write_parquet, ".parquet"),
        ("sequential-math", write_parquet, ".parquet"),
    ],
)
def test_no_part_is_lost_in_silence(name, write, suffix, folder, tmp_path):
    rows = make_samples.BAMBOOGLE if name == "bamboogle" else make_samples.MATH500
    if name == "sequential-math":
        rows = [{"question": "q", "answer": "1", "plan": "p", "refined_plan": "r"}]
    source, data = tmp_path / "source", tmp_path / "data"
    (source / folder).mkdir(parents=True)
    first, second = (source / folder / f"{part}{suffix}" for part in PARTS)
    write(first, rows[:1])
    for fault, replace in replacements(second).items():
        replace()
        expected = FAULTS[fault].replace("SUFFIX", re.escape(suffix))
        with pytest.raises(InputError, match=expected):
            load_rows_source(name, data_dir=data, source=source)
    second.unlink()
    if suffix == ".jsonl":
        second.write_text("")
        with pytest.raises(InputError, match=r"empty dataset: .*test-00001-of-00002\.jsonl has no"):
            load_rows_source(name, data_dir=data, source=source)
    with pytest.raises(InputError, match=r"number 1 is missing"):
        second.unlink(missing_ok=True)
        load_rows_source(name, data_dir=data, source=first)
    assert not data.exists() or not [*data.rglob("*.array_record*")]


def test_parts_of_two_divisions_are_refused(tmp_path):
    put(tmp_path, "test-00000-of-00001.parquet", *(f"{part}.parquet" for part in PARTS))
    with pytest.raises(InputError, match=r"are parts of 1 and 2 files; keep those of one"):
        locate("bamboogle", source_of("bamboogle"), tmp_path)


def test_parts_may_be_counted_from_one(tmp_path):
    parts = [f"test-{n}-of-2.jsonl" for n in (1, 2)]
    put(tmp_path, *parts)
    assert found("math500", tmp_path) == {"test": parts}


def test_each_split_of_a_set_with_several(tmp_path):
    put(tmp_path, "gsm8k_train.jsonl", "GSM8K-test.jsonl", "gsm8k.json")
    assert found("gsm8k", tmp_path) == {
        "test": ["GSM8K-test.jsonl"],
        "train": ["gsm8k_train.jsonl"],
    }
    assert found("gsm8k", tmp_path / "gsm8k_train.jsonl") == {"train": ["gsm8k_train.jsonl"]}
    with pytest.raises(InputError, match=r"gsm8k\.json may hold any of test, train of gsm8k; call"):
        locate("gsm8k", source_of("gsm8k"), tmp_path / "gsm8k.json")


def test_two_candidates_are_refused(tmp_path):
    put(tmp_path, "test.json", "test.jsonl")
    with pytest.raises(InputError, match=r"test\.json and test\.jsonl could both be the test"):
        locate("aime26", source_of("aime26"), tmp_path)


def test_the_error_lists_the_names_that_are_looked_for_and_what_is_there(tmp_path):
    put(tmp_path, "questions.jsonl", "readme.txt")
    with pytest.raises(InputError) as error:
        locate("math500", source_of("math500"), tmp_path)
    for suffix in SUFFIXES:
        assert f"test{suffix}" in str(error.value)
    assert "if questions.jsonl has its rows, rename it" in str(error.value)
    with pytest.raises(InputError, match=re.escape(", ".join(SUFFIXES))):
        (tmp_path / "test.txt").write_text("")
        locate("math500", source_of("math500"), tmp_path / "test.txt")


@pytest.mark.parametrize("name", ["aime25", "hotpotqa", "livecodebench", "mbppplus", "math500"])
@pytest.mark.parametrize("ids", ["absent", "null"])
def test_rows_without_ids_are_counted(name, ids, tmp_path):
    keys = ("id", "_id", "unique_id", "question_id", "task_id", "problem_idx")
    rows = [dict(row) for row in getattr(make_samples, name.upper())]
    for row in rows:
        for key in set(keys) & row.keys():
            row[key] = None
            if ids == "absent":
                del row[key]
    write_jsonl(tmp_path / f"{name}.jsonl", rows)
    splits = load_rows_source(name, data_dir=tmp_path / "data", source=tmp_path)
    assert [row.id for row in next(iter(splits.values()))] == [
        f"{name}-{n:06d}" for n in range(len(rows))
    ]


@pytest.mark.parametrize("name", ["math500", "gpqa", "medqa", "bamboogle", "gsm8k"])
def test_columns_in_other_letters_give_the_same_rows(name, tmp_path):
    rows = getattr(make_samples, name.upper())
    split = next(iter(source_of(name).files))
    made = []
    for change in (str, str.upper, lambda key: key.lower().replace(" ", "_")):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        write_jsonl(
            folder / f"{split}.jsonl", [{change(key): row[key] for key in row} for row in rows]
        )
        found_rows = load_rows_source(name, data_dir=tmp_path / "data", source=folder)[split]
        made.append([(row.id, row.question, row.answer) for row in found_rows])
    plain, upper, snake = made
    assert plain == upper == snake


@pytest.mark.parametrize("name", ["MATH500", "math-500", "Math_500"])
def test_a_dataset_in_other_letters_is_suggested(name, tmp_path):
    with pytest.raises(InputError, match=f"dataset '{name}' is unknown; did you mean math500"):
        load_rows_source(name, data_dir=tmp_path)
