"""Rows of public benchmarks in the forms that people and libraries write them in."""

import json

import pytest

from rmas.errors import InputError
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.sources import load_rows_source
from rmas.tasks.tables import Cells
from support import make_samples
from support.make_samples import write_jsonl

TEXTS = ["left", "right", "up", "down"]
LETTERED = dict(zip("ABCD", TEXTS, strict=True))
GPQA = {"Question": "q", "Correct Answer": 4} | {f"Incorrect Answer {n}": n for n in (1, 2, 3)}
TESTS = [{"input": "1", "output": "2", "testtype": "stdin"}]
LCB = make_samples.LIVECODEBENCH[0]


def read(name, row):
    return BENCHMARKS[name].read(Cells(row, "FILE, line 1"))


@pytest.mark.parametrize(
    ("name", "row", "answer"),
    [
        ("math500", {"problem": "p", "answer": 1}, "1"),
        ("math500", {"problem": "p", "answer": -3.0}, "-3"),
        ("gsm8k", {"question": "p", "answer": 18}, "18"),
        ("gsm8k", {"question": "p", "answer": "1,018"}, "1018"),
        ("bamboogle", {"Question": "p", "Answer": 1969}, "1969"),
        ("hotpotqa", {"question": "p", "answer": 1969.0}, "1969"),
        ("medqa", {"question": "p", "options": LETTERED, "answer_idx": "b"}, "B"),
        ("medqa", {"question": "p", "options": LETTERED, "answer_idx": 1, "answer": "right"}, "B"),
        ("medqa", {"question": "p", "options": LETTERED, "answer_idx": 2, "answer": "right"}, "B"),
        (
            "medqa",
            {
                "question": "p",
                "options": {key.lower(): text for key, text in LETTERED.items()},
                "answer_idx": "C",
            },
            "C",
        ),
        (
            "medqa",
            {
                "question": "p",
                "options": [{"key": key, "value": text} for key, text in LETTERED.items()],
                "answer_idx": "D",
            },
            "D",
        ),
        ("medqa", {"question": "p", "options": TEXTS, "answer": "up"}, "C"),
        ("medqa", {"question": "p", "options": TEXTS, "answer": "C"}, "C"),
        ("medqa", {"question": "p", "options": json.dumps(LETTERED), "answer_idx": "A"}, "A"),
        ("medqa", {"question": "p", "options": dict.fromkeys("ABCD", 7), "answer_idx": "A"}, "A"),
    ],
)
def test_the_answer_is_read(name, row, answer):
    _, question, found, meta = read(name, row)
    assert found == answer
    assert question.startswith("p")
    if answer in "ABCD" and "left" in str(row["options"]):
        assert meta["options"] == LETTERED


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("math500", {"problem": "p", "answer": True}, "it must be a text or a whole number"),
        ("math500", {"problem": "p", "answer": 0.5}, "it must be a text or a whole number"),
        ("math500", {"problem": "p", "answer": None}, "it must be a text or a whole number"),
        ("gsm8k", {"question": "p", "answer": "so many"}, "has no '####' followed by the answer"),
        # Counted from 0 or from 1?
        ("medqa", {"question": "p", "options": LETTERED, "answer_idx": 1}, "'answer' is missing"),
        (
            "medqa",
            {"question": "p", "options": TEXTS[:3], "answer": "C"},
            "it must be an object of four",
        ),
        (
            "medqa",
            {"question": "p", "options": LETTERED | {"a": "x"}, "answer_idx": "A"},
            "options of different letters",
        ),
    ],
)
def test_what_has_no_one_reading_is_told(name, row, told):
    with pytest.raises(InputError, match=told):
        read(name, row)


def test_options_that_are_numbers():
    _, question, letter, meta = read("gpqa", GPQA)
    assert sorted(meta["options"].values()) == ["1", "2", "3", "4"]
    assert meta["options"][letter] == "4" and f"{letter}. 4" in question


def test_livecodebench_rows_of_other_libraries():
    """Nulls where the files have empty texts; tests and metadata as lists and objects."""
    plain = LCB | {
        "starter_code": "", "private_test_cases": "", "contest_date": "", "metadata": "{}",
        "public_test_cases": json.dumps(TESTS),
    }  # fmt: skip
    nulls = {"starter_code": None, "private_test_cases": None, "contest_date": None}
    wanted = read("livecodebench", plain)
    assert read("livecodebench", plain | nulls) == wanted
    objects = {"public_test_cases": TESTS, "private_test_cases": [], "metadata": {}}
    own, question, answer, meta = read("livecodebench", plain | objects)
    assert (own, question, answer) == wanted[:3]
    assert json.loads(meta.pop("public")) == TESTS and json.loads(meta.pop("private")) == []
    assert meta == {k: v for k, v in wanted[3].items() if k not in ("public", "private")}
    with pytest.raises(InputError, match=r"metadata' is .*; it must be a JSON object"):
        read("livecodebench", plain | {"metadata": [1]})


@pytest.mark.parametrize("other", [";", "\t", "|"])
def test_another_delimiter_is_named(other, tmp_path):
    (tmp_path / "test.csv").write_text(f"problem{other}answer\np{other}1\n")
    with pytest.raises(InputError, match=r"cells are separated by commas, not by .*: save the"):
        load_rows_source("math500", data_dir=tmp_path / "data", source=tmp_path)


def test_rows_under_another_field_and_other_files(tmp_path):
    (tmp_path / "test.json").write_text('{"rows": [{"problem": "p", "answer": "1"}]}')
    with pytest.raises(InputError, match=r"fields with lists: 'rows'; make the list the top level"):
        load_rows_source("math500", data_dir=tmp_path / "data", source=tmp_path)
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InputError, match=r"README.md is not read as rows of math500: its name"):
        load_rows_source("math500", data_dir=tmp_path / "data", source=tmp_path / "README.md")


def test_lists_as_json_text_in_a_cell(tmp_path):
    row = make_samples.MBPPPLUS[0]
    text = row | {"test_list": json.dumps(row["test_list"])}
    write_jsonl(tmp_path / "test.jsonl", [text])
    found = load_rows_source("mbppplus", data_dir=tmp_path / "data", source=tmp_path)["test"][0]
    assert found.question == read("mbppplus", row)[1]
