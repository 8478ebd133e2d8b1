import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from rmas.errors import InputError
from rmas.training.metrics import MetricsWriter, check_metrics

ROOT = Path(__file__).parents[2]


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder) -> list[Event]:
    """TensorBoard's records: length, its checksum, data, its checksum."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            size = struct.unpack("<Q", data[:8])[0]
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[12 + size + 4 :]
    return found


def write(folder, last_step, steps) -> None:
    with MetricsWriter(folder, last_step) as writer:
        for step in steps:
            writer.write(step, {"loss": np.float32(1 / (step + 1)), "lr": 0.5})


def test_lines_and_tensorboard_hold_the_same(tmp_path):
    write(tmp_path, None, [0, 1, 5])
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 5]
    assert lines(tmp_path)[2] == {"step": 5, "loss": float(np.float32(1 / 6)), "lr": 0.5}
    scalars = {
        (value.tag, event.step): value.simple_value
        for event in events(tmp_path)
        for value in event.summary.value
    }
    assert scalars[("loss", 5)] == np.float32(1 / 6)
    assert len(scalars) == 6


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 2.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    writer.close()


@pytest.mark.parametrize("tail", ["", '{"step": 7, "lo', '{"step"', "7"])
def test_resumed_file_equals_an_unbroken_one(tmp_path, tail):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write(whole, None, range(10))
    write(broken, None, range(7))
    with open(broken / "metrics.jsonl", "a") as file:
        file.write(tail)
    write(broken, 4, range(5, 10))
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    starts = [e.step for e in events(broken) if e.session_log.status == e.session_log.START]
    assert 5 in starts  # TensorBoard hides what an older file holds from here on


def test_without_a_checkpoint_all_is_dropped(tmp_path):
    write(tmp_path, None, range(3))
    write(tmp_path, None, [0])
    assert [line["step"] for line in lines(tmp_path)] == [0]


def test_numbers_that_json_lacks_are_null(tmp_path, caplog):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": float("nan"), "b": float("inf"), "c": 1})
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 1, "a": null, "b": null, "c": 1.0}\n'
    assert caplog.text == ""


def test_steps_must_rise(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(3, {})
        with pytest.raises(ValueError, match="step 3 come after those of step 3"):
            writer.write(3, {})
    with MetricsWriter(tmp_path, 3) as writer, pytest.raises(ValueError, match="of step 3"):
        writer.write(2, {})


def test_broken_line_before_the_last_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2 is not a JSON object with a"):
        MetricsWriter(tmp_path, 3)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text, ""),
        (lambda text: text[: text.index("\n") + 1], "of 3 lines that were written before the che"),
        (lambda text: "", "of 3 lines that were written before the checkpoint 0 are there"),
        (lambda text: text.replace("0.5", "0.6", 1), "some differ; links are not affected"),
    ],
)
def test_lines_are_held_against_the_checkpoint(tmp_path, caplog, change, told):
    """While a run goes on, and once it has ended; lines behind the checkpoint do not count."""
    with MetricsWriter(tmp_path) as writer:
        for step in range(3):
            writer.write(step, {"lr": 0.5})
        written = writer.written()
        writer.write(3, {"lr": 0.5})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(change(whole))
    write(tmp_path, 2, [])
    assert caplog.text == ""  # a checkpoint of an earlier version says nothing
    path.write_text(change(whole))
    MetricsWriter(tmp_path, 2, written).close()
    check_metrics(tmp_path, written)
    assert len(caplog.records) == (2 if told else 0)
    assert all(told in r.getMessage() and str(path) in r.getMessage() for r in caplog.records)


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        MetricsWriter(tmp_path / "file" / "below")
