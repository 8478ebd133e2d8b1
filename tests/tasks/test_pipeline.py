import json
from itertools import islice

import pytest

from rmas.errors import InputError
from rmas.tasks.pipeline import batches
from rmas.tasks.relay import RELAY
from rmas.tasks.sources import load_rows_source

ROWS = RELAY.make_rows(10, seed=0)


def take(n, source=ROWS, **settings):
    stream = batches(source, **{"seed": 3, "batch_size": 4, **settings})
    return [[row.id for row in batch] for batch in islice(iter(stream), n)]


@pytest.mark.parametrize("count", [2, 4])
def test_global_batches_are_the_same_for_any_process_count(count):
    shares = [take(7, process_index=i, process_count=count) for i in range(count)]
    for index, expected in enumerate(take(7)):
        assert [row for share in shares for row in share[index]] == expected


def test_every_epoch_has_each_row_once_in_its_own_order():
    stream = [row for batch in take(10) for row in batch]
    epochs = [stream[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == [row.id for row in ROWS] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("count", [1, 10, 1023, 1024])
def test_epochs_of_few_rows_and_of_many(count):
    """Few are shuffled by numpy, since Grain takes milliseconds for each."""
    stream = iter(batches(range(count), seed=0, batch_size=count))
    epochs = [next(stream) for _ in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == min(count, 3)


def test_the_seed_decides():
    assert take(5) == take(5)
    assert take(5, seed=4) != take(5)


@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_resume_in_mid_epoch_is_exact(process):
    settings = {"process_index": process[0], "process_count": process[1]}
    whole = take(12, **settings)
    first = iter(batches(ROWS, seed=3, batch_size=4, **settings))
    list(islice(first, 4))
    state = json.loads(json.dumps(first.get_state()))
    assert state["next_index"] == 4
    again = iter(batches(ROWS, seed=3, batch_size=4, **settings))
    next(again)
    again.set_state(state)
    assert [[row.id for row in batch] for batch in islice(again, 8)] == whole[4:]


def test_a_batch_may_exceed_the_dataset():
    batch = take(2, batch_size=24)
    assert [len(rows) for rows in batch] == [24, 24]
    assert sorted(batch[0][:20]) == sorted(2 * [row.id for row in ROWS])


def test_rows_come_from_disk_as_they_were(tmp_path):
    source = load_rows_source(data_dir=tmp_path, seed=0, train=4, validation=1, test=1)["train"]
    rows = next(iter(batches(source, seed=1, batch_size=4)))
    assert sorted(rows, key=lambda row: row.id) == RELAY.make_rows(6, seed=0)[2:]
    assert next(iter(batches(source, seed=1, batch_size=4))) == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": []}, "empty dataset: no rows"),
        ({"batch_size": 0}, "batch_size is 0; it must be a positive multiple of the 1"),
        ({"batch_size": 6, "process_count": 4}, "batch_size is 6; it must be .* of the 4"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2 of 2 processes"),
        ({"seed": -1}, "data seed is -1"),
        ({"seed": 2**32}, "data seed is 4294967296"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        take(1, **settings)
