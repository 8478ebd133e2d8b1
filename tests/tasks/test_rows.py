import pytest

from rmas.errors import InputError
from rmas.tasks.rows import Row, from_record, to_record

ROW = Row("é-1", "q ∑", "7", {"planner": ("one", "two"), "solver": ("same",)}, {"stop": 2})


def test_text_repeats_the_last_one():
    assert [ROW.text("planner", k) for k in range(4)] == ["one", "two", "two", "two"]
    assert ROW.text("solver", 5) == "same"


def test_missing_text_names_row_and_role():
    with pytest.raises(InputError, match=r"row é-1: .*'critic'.*planner, solver"):
        ROW.text("critic", 0)
    with pytest.raises(InputError, match="roles with text: none"):
        Row("a", "q", "1").text("planner", 0)


def test_record_round_trip_from_text_and_from_bytes():
    record = to_record(ROW)
    assert all(isinstance(value, str) for value in record.values())
    assert from_record(record) == ROW
    assert from_record({key: value.encode() for key, value in record.items()}) == ROW
