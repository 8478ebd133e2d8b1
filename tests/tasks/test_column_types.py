"""Values of every type of column, and names that are nearly right."""

import datetime
import decimal
import json
import math
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from rmas.errors import InputError
from rmas.tasks.files import parse_records
from rmas.tasks.rows import from_record, to_record
from rmas.tasks.sources import load_rows_source
from rmas.tasks.tables import Cells, read_records

NOON = datetime.datetime(2026, 1, 2, 12)
NANO = 1767268800123456789
BAD_TEXT = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
)


def rows_of(path):
    return list(parse_records(read_records(path), path.stem))


def parquet_file(folder, **columns):
    table = {"question": ["q"], "plan": ["p"], "answer": ["1"]} | columns
    parquet.write_table(pa.table(table), folder / "rows.parquet")
    return folder / "rows.parquet"


COLUMNS = {
    "time of a day and date": (pa.array([NOON], pa.timestamp("s")), "2026-01-02T12:00:00"),
    "nanoseconds": (pa.array([NANO], pa.timestamp("ns")), "2026-01-01 12:00:00.123456789"),
    "zone": (
        pa.array([NOON], pa.timestamp("us", "Europe/Berlin")), "2026-01-02T13:00:00+01:00"
    ),
    "date": (pa.array([NOON.date()]), "2026-01-02"),
    "date in ms": (pa.array([NOON.date()], pa.date64()), "2026-01-02"),
    "time": (pa.array([datetime.time(1, 2, 3)]), "01:02:03"),
    "time in ns": (pa.array([123456789], pa.time64("ns")), "00:00:00.123456789"),
    "duration": (pa.array([datetime.timedelta(days=2)]), "2 days, 0:00:00"),
    "decimal": (pa.array([decimal.Decimal("70.00")]), "70.00"),
    "large decimal": (pa.array([decimal.Decimal(10**60)], pa.decimal256(70, 0)), str(10**60)),
    "bytes": (pa.array(["é".encode()]), "é"),
    "bytes of one length": (pa.array([b"abcd"], pa.binary(4)), "abcd"),
    "large text": (pa.array(["x"], pa.large_string()), "x"),
    "list": (pa.array([[NOON, None]]), ["2026-01-02T12:00:00", None]),
    "object": (pa.array([{"a": NOON, "b": [b"x"]}]), {"a": "2026-01-02T12:00:00", "b": ["x"]}),
    "map": (pa.array([[("k", 1), ("l", 2)]], pa.map_(pa.string(), pa.int64())), {"k": 1, "l": 2}),
    "map of numbers": (pa.array([[(1, 2)]], pa.map_(pa.int64(), pa.int64())), [[1, 2]]),
    "category": (pa.array(["c"]).dictionary_encode(), "c"),
    "large number": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "nan": (pa.array([math.nan]), None),
    "inf": (pa.array([math.inf]), math.inf),
    "null": (pa.nulls(1), None),
    "truth": (pa.array([True]), True),
}  # fmt: skip


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_parquet_become_values_of_json(kind, tmp_path):
    column, expected = COLUMNS[kind]
    (row,) = rows_of(parquet_file(tmp_path, extra=column))
    assert row.meta == {"extra": expected}
    assert from_record(to_record(row)) == row
    for field in ("question", "answer", "plan"):
        path = parquet_file(tmp_path, **{field: column})
        if isinstance(expected, str):
            (row,) = rows_of(path)
            assert expected in {row.question, row.answer, *row.texts.get("planner", ())}
        elif not (kind in ("null", "nan") and field == "plan"):  # a text that is not there
            if kind == "large number" and field == "answer":
                assert rows_of(path)[0].answer == str(expected)
                continue
            with pytest.raises(InputError, match=f"rows.parquet, row 0: field '{field}' is "):
                rows_of(path)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([2**62], pa.timestamp("us")), "of type timestamp[us], cannot be read (date val"),
        (pa.array([2**30], pa.date32()), "of type date32[day], cannot be read (days=1073741824"),
        (pa.array([NOON], pa.timestamp("us", "Mars/Base")), "tz=Mars/Base], cannot be read ("),
        (pa.array([b"\xff\0"]), "holds bytes that are not text in UTF-8; leave the column out"),
        (BAD_TEXT, "of type string, cannot be read ('utf-8' codec can't decode byte 0xff"),
        (
            pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())),
            ": the key 'k' is there twice in one map",
        ),
        (
            pa.array([NANO], pa.duration("ns")),
            "of type duration[ns], cannot be read (Python's own types lack nanoseconds); write it",
        ),
        (
            pa.array([[NANO]], pa.list_(pa.timestamp("ns"))),
            "timestamp[ns]>, cannot be read (Python's own types lack nanoseconds)",
        ),
    ],
    ids=["year", "day", "zone", "bytes", "text", "map", "duration", "nested"],
)
def test_what_has_no_text_is_named(column, told, tmp_path):
    with pytest.raises(InputError) as error:
        rows_of(parquet_file(tmp_path, extra=column))
    assert "rows.parquet, row 0: column 'extra'" in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_the_row_of_a_value_that_cannot_be_read_is_named(tmp_path):
    times = pa.array([0] * 700 + [2**62], pa.timestamp("us"))
    columns = {name: [name] * 701 for name in ("question", "plan", "answer")}
    with pytest.raises(InputError, match="row 700: column 'at', of type"):
        rows_of(parquet_file(tmp_path, **columns, at=times))


def test_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["q"], ["1"], ["2"]], names=["question", "answer", "answer"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet: the column 'answer' is there twice"):
        rows_of(tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("question,answer,answer\nq,1,2\n")
    with pytest.raises(InputError, match=r"rows\.csv: the column 'answer' is there twice"):
        list(read_records(tmp_path / "rows.csv"))


def test_texts_of_roles_in_parquet_may_lack_some(tmp_path):
    rows = [
        {"question": "q", "answer": "1", "texts": {"planner": ["a", "b"], "solver": None}},
        {"question": "r", "answer": "2", "texts": {"planner": None, "solver": ["c"]}},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, second = rows_of(tmp_path / "rows.parquet")
    assert (first.texts, second.texts) == ({"planner": ("a", "b")}, {"solver": ("c",)})


GOOD = '{"question": "q", "answer": "1"}'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", '[{"question": "q", "question": "r", "answer": "1"}]', "'question' is there tw"),
        ("a.jsonl", f'{GOOD}\n{{"question": "q", "answer": NaN}}', "line 2: field 'answer' is nul"),
        ("a.jsonl", '{"question": "q", "answer": 1e999}', "line 1: field 'answer' is a number"),
        ("a.jsonl", '{"question": "q", "answer": ' + "9" * 5000 + "}", "cannot be read (Exceeds"),
        ("a.jsonl", '{"question": "q", "answer": "\\ud800"}', "half of a surrogate pair"),
        (
            "a.json",
            '[{"question": "q", "answer": "1", "meta": ' + "[" * 110 + "]" * 110 + "}]",
            "column 'meta': lists and objects more than 100 deep",
        ),
        ("a.jsonl", GOOD.encode("utf-16"), "line 1: byte 0 is not UTF-8; save it as UTF-8"),
    ],
)
def test_odd_json_is_one_line(name, content, told, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=re.escape(told)) as error:
        rows_of(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_marks_of_every_system(end, tmp_path):
    (tmp_path / "a.JSONL").write_bytes(("\ufeff" + GOOD + end + end + GOOD + end).encode())
    rows = load_rows_source(tmp_path / "a.JSONL", data_dir=tmp_path)["train"]
    assert [row.id for row in rows] == ["a-000000", "a-000001"]
    with pytest.raises(InputError, match="line 4"):
        (tmp_path / "a.jsonl").write_bytes((GOOD + end + end + GOOD + end + "{").encode())
        rows_of(tmp_path / "a.jsonl")


def test_rows_under_a_field_are_those_of_json_only(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"rows": [json.loads(GOOD)]}))
    assert len(load_rows_source(tmp_path / "a.json", data_dir=tmp_path, field="rows")["train"]) == 1
    parquet_file(tmp_path)
    (tmp_path / "a.jsonl").write_text(GOOD)
    for name in ("rows.parquet", "a.jsonl"):
        suffix = name[name.index(".") :]
        told = f"{name}: a {suffix} file has no top-level field 'rows', its rows stand at the top"
        with pytest.raises(InputError, match=re.escape(told)):
            load_rows_source(tmp_path / name, data_dir=tmp_path, field="rows")


def test_names_that_are_nearly_right_are_understood(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"Question": "q", "ANSWER": 70.0, "ID": null, "Refined Plan": "r"}')
    (row,) = rows_of(path)
    assert (row.id, row.question, row.answer) == ("a-000000", "q", "70")
    assert row.texts["critic"] == ("r",)
    cells = Cells({"correct_answer": " c ", "Level": 3, "Subject ": "s"}, "file, row 0")
    assert cells.text("Correct Answer") == "c"
    assert cells.facts("level", "subject") == {"level": 3, "subject": "s"}


def test_names_that_are_wrong_are_renamed_by_name(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"problem": "q", "solution": "1"}')
    told = "rename your columns ('problem' to 'question', 'solution' to 'answer')"
    with pytest.raises(InputError, match=re.escape(told)):
        rows_of(path)
    with pytest.raises(InputError, match="there are query; rename 'query' to 'question'"):
        Cells({"query": "q"}, "file, row 0").text("question")
    with pytest.raises(InputError, match="column 'answer' is missing"):
        Cells({"Answer": "a", "ANSWER": "b"}, "file, row 0").text("answer")


@pytest.mark.parametrize("value", [70, 70.0, "70", "70.0", "070", " 70 ", "$70$", "70."])
def test_whole_numbers_in_every_writing(value):
    assert Cells({"answer": value}, "file, row 0").integer("answer") == 70


@pytest.mark.parametrize("value", [70.5, "70.5", True, None, math.inf, [70], "7e1", ""])
def test_other_values_are_no_whole_numbers(value):
    with pytest.raises(InputError, match="file, row 0: column 'answer' is "):
        Cells({"answer": value}, "file, row 0").integer("answer")
