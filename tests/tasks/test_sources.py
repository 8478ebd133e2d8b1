import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rmas.errors import InputError
from rmas.tasks import builders
from rmas.tasks.relay import RELAY, Chain
from rmas.tasks.rows import Row
from rmas.tasks.sources import RowSource, load_rows_source

SIZES = {"train": 40, "validation": 7, "test": 9}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def splits(data_dir):
    return load_rows_source("relay", data_dir=data_dir, seed=3, **SIZES)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.array_record*")}


def test_relay_splits_are_disjoint_and_hold_the_generated_rows(splits):
    assert {name: len(source) for name, source in splits.items()} == SIZES
    rows = [row for source in splits.values() for row in source]
    assert (
        len({row.question for row in rows}) == len({row.id for row in rows}) == sum(SIZES.values())
    )
    generated = RELAY.make_rows(sum(SIZES.values()), seed=3)
    assert sorted(rows, key=lambda row: row.id) == generated
    assert list(splits["test"]) == generated[: SIZES["test"]]


def test_source_is_random_access(splits):
    test = splits["test"]
    everything = list(test)
    assert isinstance(test[4], Row)
    assert test[4] == everything[4] == test[-5]
    assert test[2:8:3] == [everything[2], everything[5]]
    assert test[4].text("critic", 1) == everything[4].texts["critic"][1]
    for index in (9, -10):
        with pytest.raises(IndexError, match="which has 9 rows"):
            test[index]


def test_prepared_files_are_used_again(splits, data_dir, monkeypatch):
    before = files(data_dir)
    monkeypatch.setattr(
        builders.Generated, "read_splits", lambda self: pytest.fail("generated again")
    )
    again = load_rows_source("relay", data_dir=data_dir, seed=3, **SIZES)
    assert list(again["train"]) == list(splits["train"])
    assert files(data_dir) == before


def test_every_setting_and_a_changed_generator_get_their_own_files(monkeypatch):
    settings = {"seed": 3, **SIZES}
    names = {builders.generated_config("relay", **settings).name}
    for key in settings:
        names.add(builders.generated_config("relay", **{**settings, key: settings[key] + 1}).name)
    monkeypatch.setattr(Chain, "role_text", lambda *args: "another text")
    names.add(builders.generated_config("relay", **settings).name)
    assert len(names) == 6


def test_test_rows_do_not_depend_on_the_other_sizes(splits, tmp_path):
    more = load_rows_source("relay", data_dir=tmp_path, seed=3, train=5, validation=1, test=9)
    assert list(more["test"]) == list(splits["test"])


def test_an_edited_file_is_never_ignored(tmp_path):
    path = tmp_path / "my rows.jsonl"
    path.write_text('{"question": "é", "answer": "1"}\n{"question": "b", "answer": "2"}\n')
    first = load_rows_source(path, data_dir=tmp_path / "data")["train"]
    assert list(first) == [Row("my rows-000000", "é", "1"), Row("my rows-000001", "b", "2")]
    path.write_text(path.read_text().replace("2", "3"))
    edited = load_rows_source(str(path), data_dir=tmp_path / "data")["train"]
    assert [row.answer for row in edited] == ["1", "3"]
    assert [row.answer for row in first] == ["1", "2"]
    assert len(files(tmp_path)) == 2


def test_same_content_elsewhere_or_under_another_field_is_another_set(tmp_path):
    row = {"question": "q", "answer": "1"}
    names = set()
    for name in ("a b.json", "a_b.json"):
        (tmp_path / name).write_text(json.dumps({"data": [row], "rows": [row, row]}))
        names |= {builders.row_file_config(tmp_path / name, field).name for field in (None, "rows")}
    assert len(names) == 4
    source = load_rows_source(tmp_path / "a b.json", data_dir=tmp_path, field="rows")["train"]
    assert len(source) == 2


def test_a_failed_preparation_leaves_nothing_behind(tmp_path, monkeypatch):
    interrupted = Interrupted(RELAY.make_rows)
    monkeypatch.setattr(Chain, "make_rows", lambda self, *args: interrupted(*args))
    settings = {"data_dir": tmp_path, "seed": 1, "train": 4, "validation": 1, "test": 1}
    with pytest.raises(RuntimeError, match="interrupted"):
        load_rows_source(**settings)
    monkeypatch.undo()
    assert {name: len(rows) for name, rows in load_rows_source(**settings).items()} == {
        "train": 4,
        "validation": 1,
        "test": 1,
    }


class Interrupted:
    """Rows whose third read of the generator fails half-way through the writing."""

    def __init__(self, make_rows):
        self.make_rows, self.calls = make_rows, 0

    def __call__(self, n, seed):
        self.calls += 1
        rows = self.make_rows(n, seed)
        return rows if self.calls < 3 else Failing(rows)


class Failing(list):
    def __getitem__(self, index):
        def half():
            yield list.__getitem__(self, 0)
            raise RuntimeError("interrupted")

        return half()


def test_runs_that_prepare_at_once_all_succeed(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps([{"question": str(i), "answer": "1"} for i in range(50)]))
    config = builders.row_file_config(path)
    made = [builders.open_builder(builders.RowFile, config, tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(builders.prepare, made))
    assert len(load_rows_source(path, data_dir=tmp_path)["train"]) == 50
    assert not list(tmp_path.rglob("incomplete*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gsm9k"}, "dataset 'gsm9k' is unknown; use relay, chain, debate, math500"),
        ({"validation": 0}, "empty dataset: relay split 'validation' has size 0"),
        ({"seed": -1}, "relay seed is -1"),
        ({"field": "data"}, "dataset relay has no field 'data'"),
        ({"name": "f.json", "seed": 1, "test": 2}, "dataset f.json cannot have seed, test"),
        ({"name": "absent.jsonl"}, "absent.jsonl: cannot be read .No such file"),
    ],
)
def test_bad_settings(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_rows_source(**settings, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_faults_of_files_and_folders_are_one_line(tmp_path):
    path = tmp_path / "f.json"
    path.write_text("[]")
    with pytest.raises(InputError, match=r"empty dataset: .*f.json has no rows"):
        load_rows_source(path, data_dir=tmp_path / "data")
    path.write_text('[{"question": "q", "answer": "1"}]')
    with pytest.raises(
        InputError, match=r"data_dir: .* cannot be written .*writable folder"
    ) as error:
        load_rows_source(path, data_dir=path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="empty dataset: x has no rows"):
        RowSource([], "x")


def test_a_file_that_changes_under_way_is_noticed(tmp_path):
    path = tmp_path / "f.json"
    path.write_text('[{"question": "q", "answer": "1"}]')
    builder = builders.open_builder(builders.RowFile, builders.row_file_config(path), tmp_path)
    path.write_text('[{"question": "q", "answer": "2"}]')
    with pytest.raises(InputError, match="changed while it was read"):
        builder.read_splits()


def test_preparation_and_copies_are_silent(tmp_path, capfd, caplog):
    settings = {"data_dir": tmp_path, "seed": 1, "train": 2, "validation": 1, "test": 1}
    source = load_rows_source(**settings)["train"]
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_nothing_needs_tensorflow(splits):
    assert "tensorflow" not in sys.modules
