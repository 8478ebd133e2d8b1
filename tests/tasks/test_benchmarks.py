"""Public datasets in their own columns: the rows that come out, and errors for bad ones."""

import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rmas.errors import InputError
from rmas.tasks import locate
from rmas.tasks.benchmarks import BENCHMARKS, TRAINING_SETS
from rmas.tasks.columns import LETTERS, livecodebench, shuffled
from rmas.tasks.grading import GRADERS
from rmas.tasks.questions import question_of
from rmas.tasks.sources import load_rows_source
from rmas.tasks.tables import Cells
from support import make_samples
from support.make_samples import SAMPLES, write_csv, write_jsonl, write_parquet


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`prepared(name, folder)`: the splits of a dataset."""
    data_dir = tmp_path_factory.mktemp("prepared")

    def get(name: str, folder: Path | None = None):
        return load_rows_source(name, data_dir=data_dir, source=folder or SAMPLES / name)

    return get


def test_the_samples_are_what_their_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(make_samples, "SAMPLES", tmp_path)
    make_samples.main()
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.is_file()}
    for name in names:
        if name.suffix != ".parquet":  # whose bytes name the library's version
            assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes(), name


@pytest.mark.parametrize(
    ("name", "ids", "answers"),
    [
        ("math500", ["math500/test/prealgebra/1", "math500/test/geometry/7"],
         [r"\frac{1}{2}", r"90^\circ"]),
        ("aime25", ["aime25/0", "aime25/1"], ["336", "62"]),
        ("aime26", ["aime26/1", "aime26/2"], ["70", "5"]),
        ("medqa", ["medqa-000000", "medqa-000001"], ["C", "A"]),
        ("livecodebench", ["livecodebench/abc1_a", "livecodebench/3001"], ["", ""]),
        ("hotpotqa", ["hotpotqa/5a1", "hotpotqa/5a2"], ["The Tiber", "yes"]),
        ("bamboogle", ["bamboogle-000000", "bamboogle-000001"],
         ["William Shakespeare", "Leonardo da Vinci"]),
        ("gsm8k", ["gsm8k-000000", "gsm8k-000001"], ["12", "1250"]),
    ],
)  # fmt: skip
def test_rows(prepared, name, ids, answers):
    rows = list(prepared(name)[BENCHMARKS[name].split])
    assert [row.id for row in rows] == ids
    assert [row.answer for row in rows] == answers


def test_every_benchmark_has_a_sample_and_a_grader():
    for name, benchmark in BENCHMARKS.items():
        assert (SAMPLES / name).is_dir()
        assert GRADERS[benchmark.grader.name] is benchmark.grader
        assert benchmark.split in benchmark.source.files


def test_questions(prepared):
    assert prepared("aime26")["test"][1].question == "Add 2 and 3."
    assert prepared("gsm8k")["test"][0].meta == {
        "solution": "He has 3*4=<<3*4=12>>12 apples.",
        "release_gold": "12",
    }
    assert prepared("gsm8k")["test"][1].meta["release_gold"] == "1,250"
    row = prepared("medqa")["test"][1]
    assert row.question == (
        "Which organ makes insulin?\n\nA. Pancreas\nB. Liver\nC. Spleen\nD. Kidney"
    )
    assert row.meta["options"]["D"] == "Kidney"
    (row,) = prepared("medqa", SAMPLES / "medqa_list")["test"]
    lines = "A. Aorta\nB. Vena cava\nC. Femur\nD. Ulna"
    assert (row.question, row.answer) == (f"Which is the largest artery?\n\n{lines}", "A")


@pytest.mark.parametrize("folder", ["medqa_release", "medqa_release/dataset"])
def test_the_release_s_own_rows_of_medqa(prepared, folder):
    """The right letter is ours; the release takes the first option that contains the answer."""
    iron, argon = prepared("medqa_release", SAMPLES / folder)["test"]
    lines = "A. Iron oxide\nB. Iron\nC. Zinc\nD. Lead"
    assert iron.question == f"Which metal does blood need?\n\n{lines}"
    assert (iron.answer, iron.meta["release_gold"]) == ("B", "A")
    assert (argon.answer, argon.meta["release_gold"]) == ("C", "C")
    assert argon.question.startswith("Which gas?\n\nA. Helium\nB. Neon")
    for letter, ours, theirs in (("B", 1, 0), ("A", 0, 1)):
        scores = GRADERS["choice"].grade(f"\\boxed{{{letter}}}", iron).scores
        assert scores == {"exact": ours, "release_compatible": theirs}


def test_what_is_not_on_the_hub_says_where_it_is(tmp_path):
    with pytest.raises(InputError, match="it is a file of the public release; clone that"):
        load_rows_source("medqa_release", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"has no files of medqa_release \(dataset/medqa.json"):
        load_rows_source("medqa_release", data_dir=tmp_path, source=tmp_path)


def test_options_of_gpqa_stand_in_the_order_of_the_release(prepared):
    for row, record in zip(prepared("gpqa")["test"], make_samples.GPQA, strict=True):
        stem = record["Question"].strip()
        # The rule, written out: a shuffle of the right option and the wrong ones in their order.
        key = hashlib.md5(f"42::{stem}".encode(), usedforsecurity=False).hexdigest()[:16]
        order = [0, 1, 2, 3]
        random.Random(int(key, 16)).shuffle(order)
        names = ["Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]
        options = {LETTERS[p]: record[names[i]].strip() for p, i in enumerate(order)}
        assert row.meta["options"] == options
        assert options[row.answer] == record["Correct Answer"].strip()
        shown = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        assert row.question == f"{stem}\n\n{shown}"
    orders = {tuple(shuffled(f"question {n}")) for n in range(200)}
    assert len(orders) == 24
    assert shuffled("question 1", seed=1) != shuffled("question 1") or shuffled(
        "question 2", seed=1
    ) != shuffled("question 2")


def test_code_rows_name_their_interface(prepared):
    first, second = prepared("mbppplus")["test"]
    assert question_of(first).interface.name == "add_two"
    assert question_of(second).interface.name == "is_even"  # from asserts, without a helper
    assert first.question.endswith("assert add_two(100, 1) == 101")
    assert first.meta["imports"] == ["import math"]
    assert first.meta["script"] == make_samples.MBPPPLUS[0]["test"].strip()
    program, function = prepared("livecodebench")["test"]
    assert question_of(program).interface.kind == "program"
    assert question_of(function).interface.name == "order"
    assert "class Solution" in function.question
    assert program.meta["private"] == make_samples.LIVECODEBENCH[0]["private_test_cases"]


def test_training_sets(prepared):
    (row,) = prepared("sequential-math")["train"]
    assert row.texts == {
        "planner": ("Add.",),
        "critic": ("Add the numbers.",),
        "solver": (r"\boxed{4}",),
        "expert": ("Add the numbers.",),
        "summarizer": (r"\boxed{4}",),
        "learner": (r"\boxed{4}",),
        "reflector": (r"\boxed{4}",),
        "toolcaller": (r"\boxed{4}",),
    }
    assert row.meta == {"answer_field": "4"}
    assert len(TRAINING_SETS) == 10


def test_a_parquet_file_of_ones_own(tmp_path):
    write_parquet(tmp_path / "mine.parquet", [{"id": "a", "question": "q", "answer": "1"}])
    (row,) = load_rows_source(tmp_path / "mine.parquet", data_dir=tmp_path)["train"]
    assert (row.id, row.question, row.answer) == ("a", "q", "1")


def test_an_edited_source_is_another_dataset(tmp_path):
    folder = tmp_path / "source"
    shutil.copytree(SAMPLES / "gsm8k", folder)
    first = load_rows_source("gsm8k", data_dir=tmp_path, source=folder)["test"]
    rows = [row | {"answer": row["answer"] + "0"} for row in make_samples.GSM8K]
    write_parquet(next(folder.rglob("*.parquet")), rows)
    second = load_rows_source("gsm8k", data_dir=tmp_path, source=folder)["test"]
    assert [row.answer for row in second] == ["120", "12500"]
    assert [row.answer for row in first] == ["12", "1250"]
    assert first.version != second.version


def without(row: dict, name: str) -> dict:
    return {k: v for k, v in row.items() if k != name}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("math500", lambda row: without(row, "problem"),
         "line 2: column 'problem' is missing; there are solution, answer"),
        ("math500", lambda row: row | {"answer": 7.5}, "'answer' is 7.5; it must be a text"),
        ("math500", lambda row: row | {"answer": " "}, "line 2: column 'answer' is empty"),
        ("math500", lambda row: row | {"problem": None}, "line 2: column 'problem' is None"),
        ("aime25", lambda row: row | {"answer": "3.5"},
         "line 2: column 'answer' is '3.5'; it must be a whole number"),
        ("aime25", lambda row: row | {"answer": 1000}, "1000; it must be from 0 to 999"),
        ("medqa", lambda row: row | {"answer_idx": "E"}, "line 2: the right option is 'E' of A, B"),
        ("medqa", lambda row: row | {"options": {"A": "x", "B": [1], "C": "y", "D": "z"}},
         "line 2: column 'options': column 'B' is [1]; it must be a text or a whole number"),
        ("medqa", lambda row: row | {"options": ["x"]}, "it must be an object of four texts"),
        ("livecodebench", lambda row: row | {"metadata": "no"}, "column 'metadata' is 'no'"),
        ("livecodebench", lambda row: without(row, "private_test_cases"),
         "column 'private_test_cases' is missing"),
    ],
)  # fmt: skip
def test_the_error_for_a_bad_row_names_file_row_and_column(tmp_path, name, change, message):
    rows = getattr(make_samples, name.upper())
    file = BENCHMARKS[name].source.files["test"][0]
    write_jsonl(tmp_path / file, [rows[0], change(dict(rows[1]))])
    with pytest.raises(InputError) as error:
        load_rows_source(name, data_dir=tmp_path / "data", source=tmp_path)
    assert str(tmp_path / file) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("*.array_record*"))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": "q", "answer": "no mark"}, "row 0: column 'answer' has no '####'"),
        ("bamboogle", {"text": "q", "answer": "a"}, "row 0: column 'Question' is missing"),
        ("hotpotqa", {"id": "1", "question": "", "answer": "a"}, "column 'question' is empty"),
        ("mbppplus", make_samples.MBPPPLUS[0] | {"test": "pass", "test_list": ["x"], "code": "y"},
         "row 0: column 'test' does not name the function"),
        ("mbppplus", make_samples.MBPPPLUS[0] | {"test_list": ["a", None]},
         "column 'test_list' is"),
    ],
)  # fmt: skip
def test_a_bad_row_of_a_parquet_file(tmp_path, name, row, message):
    write_parquet(tmp_path / "test.parquet", [row])
    with pytest.raises(InputError, match=r"test\.parquet, row 0") as error:
        load_rows_source(name, data_dir=tmp_path / "data", source=tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("math500", "test.jsonl", b'{"problem": "a", \n', "line 1, column 17: not valid JSON"),
        ("math500", "test.jsonl", b"[1]\n", "line 1: not an object"),
        ("math500", "test.jsonl", b"\xff\n", "byte 0 is not UTF-8"),
        ("math500", "test.jsonl", b"", "test.jsonl has no rows; it needs at least one"),
        ("math500", "test.json", b'{"a": 1}', "field 'data' is not a list of rows"),
        ("gsm8k", "test.parquet", b"PAR1 and more", "test.parquet: not valid parquet"),
        ("gpqa", "gpqa_diamond.csv", b"Question,Correct Answer\nq\n", "row 0: the number of cells"),
        ("gpqa", "gpqa_diamond.csv", b'Question,Correct Answer\nq,"a\n', "not valid CSV"),
    ],
)  # fmt: skip
def test_a_broken_file(tmp_path, name, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as error:
        load_rows_source(name, data_dir=tmp_path / "data", source=tmp_path)
    assert message in str(error.value)


def test_ids_must_differ(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [make_samples.MATH500[0]] * 2)
    with pytest.raises(InputError, match=r"line 2: the id .* is also that of .*line 1"):
        load_rows_source("math500", data_dir=tmp_path / "data", source=tmp_path)


def test_a_source_without_the_files_says_which(tmp_path):
    with pytest.raises(InputError, match=r"has no files of gpqa \(gpqa_diamond\.csv"):
        load_rows_source("gpqa", data_dir=tmp_path, source=tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        load_rows_source("gpqa", data_dir=tmp_path, source=tmp_path / "none")
    with pytest.raises(InputError, match="has no source"):
        load_rows_source("relay", data_dir=tmp_path, source=tmp_path)
    with pytest.raises(InputError, match="only generated tasks"):
        load_rows_source("gsm8k", data_dir=tmp_path, train=3)


def test_csv_cells_with_quotes_and_lines_come_back(tmp_path):
    write_csv(tmp_path / "x.csv", make_samples.GPQA)
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == make_samples.GPQA


def test_offline_the_error_says_what_to_download_and_where_it_goes(tmp_path):
    code = (
        "from rmas.tasks.sources import load_rows_source\n"
        f"load_rows_source('gpqa', data_dir={str(tmp_path)!r})"
    )
    env = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    last = done.stderr.strip().splitlines()[-1]
    assert "Idavidrein/gpqa of the Hugging Face Hub cannot be downloaded" in last
    assert "download gpqa_diamond.csv elsewhere and name their folder as source" in last
    assert "accept its terms" in last


def test_downloads_take_the_named_files_of_the_named_revision(tmp_path, monkeypatch):
    asked = []

    def snapshot(repo, **more):
        asked.append((repo, more))
        shutil.copytree(SAMPLES / "gsm8k", tmp_path / "commit1")
        return str(tmp_path / "commit1")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    files = locate.locate("gsm8k", BENCHMARKS["gsm8k"].source)
    assert files.origin == "openai/gsm8k@commit1"
    assert list(files.splits) == ["test"]
    patterns = ["main/test-*.parquet", "main/train-*.parquet"]
    more = {"repo_type": "dataset", "revision": "main", "allow_patterns": patterns}
    assert asked == [("openai/gsm8k", more)]


def test_large_numbers_stay_whole_in_json(tmp_path):
    rows = [row | {"answer": "1" * 30} for row in make_samples.MATH500]
    write_jsonl(tmp_path / "test.jsonl", rows)
    source = load_rows_source("math500", data_dir=tmp_path / "data", source=tmp_path)["test"]
    assert [row.answer for row in source] == ["1" * 30] * 2
    assert json.loads(json.dumps(source[0].meta)) == source[0].meta


@pytest.mark.parametrize(
    ("name", "answer", "texts", "meta"),
    [
        ("sequential-code", "def f(x): return x + 1", {"critic": "Return x + 1."}, {"type"}),
        (
            "distillation-math",
            "4",
            {"expert": "Add the numbers.", "learner": "It is 4."},
            {"source"},
        ),
        ("distillation-code", "4", {"learner": "It is 4."}, {"task_family"}),
        ("mixture-math", "4", {"math": "math: 4."}, {"domain"}),
        ("mixture-code", "4", {"code": "code: 4."}, {"domain"}),
        ("mixture-science", "4", {"science": "science: 4."}, {"domain"}),
        ("mixture-summarizer", "So it is 4.", {"summarizer": "So it is 4.", "math": "m"}, set()),
        ("mixture-outer", "4", {"science": "s", "summarizer": "4"}, set()),
        ("deliberation", "4", {"reflector": "Add."}, {"tool_type", "source_idx"}),
    ],
)
def test_every_training_set_in_its_columns(prepared, name, answer, texts, meta):
    (row,) = prepared(name)["train"]
    assert (row.answer, row.question) == (answer, make_samples.TRAINING[name]["question"])
    assert {role: row.texts[role] for role in texts} == {r: (t,) for r, t in texts.items()}
    assert meta <= set(row.meta)
    assert {"sequential-math", *make_samples.TRAINING} == set(TRAINING_SETS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private_test_cases": "garbage!!"}, "column 'private_test_cases'"),
        ({"public_test_cases": '[{"x": 1}]'}, "column 'public_test_cases'"),
        ({"metadata": "{}"}, "func_name, since tests are functional"),
        ({"public_test_cases": "[]"}, "tests, unless there are private ones"),
    ],
)
def test_tests_that_cannot_be_run_are_an_error_when_rows_are_read(changes, message):
    test = {"input": "1", "output": "2", "testtype": "functional"}
    record = {
        "question_id": "q",
        "question_content": "Add one.",
        "starter_code": "class Solution: ...",
        "metadata": '{"func_name": "add"}',
        "public_test_cases": json.dumps([test]),
        "private_test_cases": "",
        "difficulty": "easy",
        "platform": "leetcode",
        "contest_date": "2026-01-01",
    }
    livecodebench(Cells(record, "file.jsonl, row 1"))
    with pytest.raises(InputError, match=message) as error:
        livecodebench(Cells(record | changes, "file.jsonl, row 1"))
    assert "file.jsonl, row 1" in str(error.value)
