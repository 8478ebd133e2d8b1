import json
import re

import pytest

from rmas.errors import InputError
from rmas.tasks.files import parse_rows
from rmas.tasks.rows import Row

GOOD = {"question": "q", "answer": "7"}


def parse(value, name="f.json", field=None):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_rows(content, name, field)


def test_own_form():
    texts = {"planner": ["r1", " r2 "], "solver": "s"}
    item = {"id": "a", "question": " é? ", "answer": "7", "texts": texts, "meta": {"level": 2}}
    expected = Row("a", "é?", "7", {"planner": ("r1", "r2"), "solver": ("s",)}, {"level": 2})
    assert parse([item]) == [expected]


def test_defaults_and_numbers():
    rows = parse([GOOD, {**GOOD, "answer": 336, "id": 12}], "dir/my set.json")
    assert rows == [Row("my set-000000", "q", "7"), Row("12", "q", "336")]


def test_flat_columns_become_roles_and_the_rest_meta():
    item = {"question": "q", "plan": "p", "refined_plan": "r", "answer": "a \\boxed{3}", "type": 1}
    (row,) = parse([item])
    assert (row.id, row.question, row.answer) == ("f-000000", "q", "a \\boxed{3}")
    assert row.meta == {"type": 1}
    assert [row.text(role, 2) for role in ("planner", "critic", "solver")] == ["p", "r", row.answer]


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"hie_math_expert": "m", "expert_code": "c", "science_expert": "s"},
         {"math": "m", "code": "c", "science": "s", "summarizer": "7"}),
        ({"math_expert": "m", "hie_math_expert": "", "hie_summarizer": "sum", "summary": "no"},
         {"math": "m", "summarizer": "sum"}),
        ({"refined_plan": "r", "distill_expert": "e", "distill_learner": "l", "source": "x"},
         {"expert": "e", "learner": "l", "critic": "r"}),
        ({"refined_plan": "r"}, {"expert": "r", "learner": "7"}),
        ({"deliberation_reflector": "r", "deliberation_toolcaller": None},
         {"reflector": "r", "toolcaller": "7"}),
    ],
    ids=lambda value: next(iter(value)),
)  # fmt: skip
def test_flat_columns_of_every_pattern(columns, texts):
    """The first column that is not empty is a role's text; roles without one have none."""
    (row,) = parse([GOOD | columns])
    assert {role: row.text(role, 0) for role in texts} == texts
    assert row.meta == ({"source": "x"} if "source" in columns else {})
    with pytest.raises(InputError, match="no teacher text for role 'planner'"):
        row.text("planner", 0)


def test_jsonl_skips_blank_lines_and_keeps_odd_line_separators():
    line = json.dumps({"question": "a\u2028b", "answer": "1"}, ensure_ascii=False)
    content = f"\ufeff{line}\r\n\n{json.dumps(GOOD)}\n".encode()
    rows = parse(content, "f.jsonl")
    assert [row.question for row in rows] == ["a\u2028b", "q"]
    assert [row.id for row in rows] == ["f-000000", "f-000001"]


def test_rows_under_a_top_level_field():
    assert parse({"data": [GOOD]}) == parse([GOOD])
    assert parse({"rows": [GOOD], "data": []}, field="rows") == parse([GOOD])


BAD = {
    "suffix": (b"", "f.csv", None, "f.csv: rows are read from .json or .jsonl files, not '.csv'"),
    "empty": (b" \n", "f.json", None, "empty dataset: f.json has no text"),
    "no rows": ([], "f.json", None, "empty dataset: f.json has no rows"),
    "not utf-8": (b"\xff", "f.json", None, "f.json: byte 0 is not UTF-8"),
    "bad json": (b"[\n{,", "f.json", None, "f.json, line 2, column 2: not valid JSON"),
    "bad line": (
        b'{"question": "q", "answer": "1"}\n{',
        "f.jsonl",
        None,
        "f.jsonl, line 2, column 2: not valid JSON",
    ),
    "deep": (b"[" * 10**6, "f.json", None, "f.json: JSON that cannot be read (maximum recursion"),
    "digits": (b"1" * 5000, "f.json", None, "f.json: JSON that cannot be read (Exceeds the limit"),
    "top level": (b"3", "f.json", None, "f.json: the top level is a number"),
    "no field": ({"rows": [1]}, "f.json", None, "field 'data' is not a list of rows; fields with"),
    "field name": ({"rows": [1]}, "f.json", "x", "'x' is not a list of rows; fields with l"),
    "field of list": ([GOOD], "f.json", "x", "f.json: the top level is a list, not an object"),
    "field of jsonl": (GOOD, "f.jsonl", "x", "f.jsonl: a .jsonl file has no top-level field 'x'"),
    "no object": ([GOOD, "x"], "f.json", None, "f.json, index 1: a text; a row is an object"),
}
BAD_ROWS = {
    "no question": ({"answer": "7"}, "field 'question' is missing"),
    "blank question": ({**GOOD, "question": " "}, "field 'question' is empty"),
    "null answer": (
        {**GOOD, "answer": None},
        "field 'answer' is null; it must be a text or a whole",
    ),
    "true answer": ({**GOOD, "answer": True}, "field 'answer' is a truth value"),
    "float answer": ({**GOOD, "answer": 0.5}, "field 'answer' is a number; it must be a text or a"),
    "number": ({**GOOD, "question": 5}, "field 'question' is a number; it must be a text"),
    "typo": (
        {**GOOD, "text": {}},
        "unknown field 'text'; put extra facts into meta: a row has id, question",
    ),
    "columns": (
        {"problem": "1+1", "solution": "2"},
        "unknown fields 'problem', 'solution', missing fields 'question', 'answer'; rename your",
    ),
    "texts list": ({**GOOD, "texts": []}, "field 'texts' is an empty list; it must map a role"),
    "no texts": ({**GOOD, "texts": {"solver": []}}, "field 'texts.solver' is an empty list"),
    "text kind": ({**GOOD, "texts": {"solver": 1}}, "field 'texts.solver' is a number"),
    "a text": ({**GOOD, "texts": {"s": ["a", 1]}}, "field 'texts.s[1]' is a number; it must be"),
    "blank text": ({**GOOD, "texts": {"s": ["a", ""]}}, "field 'texts.s[1]' is empty"),
    "meta": ({**GOOD, "meta": []}, "field 'meta' is an empty list; it must be an object"),
    "surrogate": ({**GOOD, "answer": "\ud800"}, "field 'answer' has half of a surrogate pair"),
    "odd column": ({**GOOD, "plan": 3}, "field 'plan' is a number; it must be a text"),
    "both": ({**GOOD, "plan": "p", "texts": {}}, "fields 'texts' and 'plan' exclude each other"),
    "same id": ({**GOOD, "id": "first"}, "field 'id' 'first' is taken by f.jsonl, line 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case):
    value, name, field, message = BAD[case]
    with pytest.raises(InputError, match=re.escape(message)) as error:
        parse(value, name, field)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_name_their_line(case):
    row, message = BAD_ROWS[case]
    lines = [json.dumps({**GOOD, "id": "first"}), "", json.dumps(row)]
    with pytest.raises(InputError, match=re.escape(f"f.jsonl, line 3: {message}")):
        parse("\n".join(lines).encode(), "f.jsonl")
