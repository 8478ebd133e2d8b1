"""Records of a run that was cut anywhere equal those of an uninterrupted one, byte by byte."""

import json

import pytest

from rmas.evaluation.runner import Method, Plan, run
from rmas.system.answers import Answer
from rmas.tasks.grading import Task, exact_match
from rmas.tasks.rows import Row

TASK = Task("toy", extract=lambda text: text.strip() or None, score=exact_match)
ROWS = [Row(f"row-{n}", f"what is {n}?", str(n % 3)) for n in range(5)]


class Fake:
    """Answers by arithmetic, and keeps what it was asked; `dies` counts calls until it raises."""

    def __init__(self, dies=None):
        self.calls, self.dies = [], dies

    def method(self, name, rounds):
        def answer(questions, batch):
            assert all(q.text == f"what is {q.id.removeprefix('row-')}?" for q in questions)
            self.calls.append((name, rounds, [q.id for q in questions], batch))
            if len(self.calls) == self.dies:
                raise KeyboardInterrupt
            texts = [str((int(q.id[4:]) + rounds) % 3) + "\n\u2028é" for q in questions]
            return [
                Answer({"b": [t]}, {"b": {"decoded_tokens": n}}, text=t.split("\n")[0])
                for n, t in enumerate(texts)
            ]

        return Method(name, rounds, answer)

    def plan(self, rows=ROWS, methods=(("latent", 1), ("latent", 3), ("text", 1))):
        made = tuple(self.method(*m) for m in methods)
        return Plan("toy", made, rows, batch=2, seed=7)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records file of a run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    run(Fake().plan(), TASK, folder)
    return (folder / "records.jsonl").read_bytes()


def test_records_in_the_order_of_the_plan(tmp_path, whole):
    fake = Fake()
    records, seconds = run(fake.plan(), TASK, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == whole
    assert [json.loads(line) for line in whole.decode().splitlines()] == records
    keys = [(r["method"], r["rounds"], r["id"]) for r in records]
    methods = [("latent", 1), ("latent", 3), ("text", 1)]
    assert keys == [(*m, row.id) for m in methods for row in ROWS]
    assert records[6] == {
        "schema": 1,
        "id": "row-1",
        "benchmark": "toy",
        "method": "latent",
        "rounds": 3,
        "rollout": 0,
        "seed": 7,
        "agents": {"b": {"decoded_tokens": 1}},
        "texts": {"b": ["1\n\u2028é"]},
        "tools": [],
        "answer": "1",
        "gold": "1",
        "scores": {"exact": 1.0, "release_compatible": 1.0},
    }
    assert records[0]["scores"]["exact"] == 0.0
    assert set(seconds) == set(methods)
    # Each method's first batch runs twice: the first time compiles.
    batches = [["row-0", "row-1"], ["row-2", "row-3"], ["row-4"]]
    assert fake.calls == [(*m, ids, 2) for m in methods for ids in [batches[0], *batches]]


def test_a_file_cut_at_any_byte(tmp_path):
    """Every cut: the same records, and no whole batch is asked again."""
    file = tmp_path / "records.jsonl"
    small = {"rows": ROWS[:3], "methods": (("latent", 1),)}
    run(Fake().plan(**small), TASK, tmp_path)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[:n])) for n in (2, 3)]  # of batches
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        fake = Fake()
        records, _ = run(fake.plan(**small), TASK, tmp_path)
        assert file.read_bytes() == whole, cut
        assert len(records) == 3
        kept = sum(end <= cut for end in ends)
        # What is left, the first of it once more.
        assert len(fake.calls) == (3, 2, 0)[kept], cut


def test_killed_at_every_call_and_run_again(tmp_path, whole):
    calls = 0
    while True:
        calls += 1
        folder = tmp_path / str(calls)
        folder.mkdir()
        try:
            run(Fake(dies=calls).plan(), TASK, folder)
        except KeyboardInterrupt:
            assert whole.startswith((folder / "records.jsonl").read_bytes())
            run(Fake().plan(), TASK, folder)
            assert (folder / "records.jsonl").read_bytes() == whole
        else:
            break
    assert calls == 13


def test_a_finished_run_asks_nothing(tmp_path, whole):
    (tmp_path / "records.jsonl").write_bytes(whole)
    fake = Fake()
    records, seconds = run(fake.plan(), TASK, tmp_path)
    assert fake.calls == []
    assert len(records) == 15
    assert seconds == {}
    assert (tmp_path / "records.jsonl").read_bytes() == whole


@pytest.mark.parametrize("spoilt", [0, 3, 14])
def test_what_follows_a_strange_line_is_run_again(tmp_path, whole, spoilt):
    """A damaged line, one of another method, and one that is no record."""
    lines = whole.splitlines(keepends=True)
    for other in (lines[spoilt][:9] + b"#" + lines[spoilt][10:], lines[spoilt - 5], b"[1]\n"):
        changed = [*lines[:spoilt], other, *lines[spoilt + 1 :]]
        (tmp_path / "records.jsonl").write_bytes(b"".join(changed))
        run(Fake().plan(), TASK, tmp_path)
        assert (tmp_path / "records.jsonl").read_bytes() == whole


def timing(method, rounds, start, n, seconds):
    fact = {"method": method, "rounds": rounds, "start": start, "n": n, "seconds": seconds}
    return json.dumps(fact) + "\n"


def test_seconds_take_the_newest_timing_of_each_batch(tmp_path, whole):
    (tmp_path / "records.jsonl").write_bytes(whole)
    (tmp_path / "timings.jsonl").write_text(
        timing("latent", 1, 0, 2, 50.0)
        + timing("latent", 1, 2, 2, 3.0)
        + timing("latent", 1, 0, 2, 2.0)
        + timing("latent", 1, 4, 1, 1.0)
        + timing("latent", 3, 0, 2, 4.0)
        + timing("text", 1, 0, 2, 1.0)[:20]
    )
    _, seconds = run(Fake().plan(), TASK, tmp_path)
    # The second method lacks batches: what is known is scaled to all rows. The third's is cut.
    assert seconds == {("latent", 1): 6.0, ("latent", 3): 10.0}


def test_a_timing_after_one_that_was_cut_counts(tmp_path, whole):
    lines = whole.splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:10]))
    (tmp_path / "timings.jsonl").write_text(timing("text", 1, 0, 2, 1.0)[:-9])
    _, seconds = run(Fake().plan(), TASK, tmp_path)
    assert set(seconds) == {("text", 1)}
    kept = [
        line for line in (tmp_path / "timings.jsonl").read_text().splitlines() if line[-1] == "}"
    ]
    assert [json.loads(line)["start"] for line in kept] == [0, 2, 4]


def test_timings_are_measured_without_the_first_call(tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("rmas.evaluation.runner.time.perf_counter", lambda: next(clock))
    _, seconds = run(Fake().plan(), TASK, tmp_path)
    assert seconds == {("latent", 1): 3.0, ("latent", 3): 3.0, ("text", 1): 3.0}


def test_too_few_answers_are_an_error_before_anything_is_written(tmp_path):
    plan = Plan("toy", (Method("m", 1, lambda questions, batch: []),), ROWS, 2, 0)
    with pytest.raises(ValueError, match="shorter"):
        run(plan, TASK, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == b""


def test_progress_goes_on_from_what_is_done(tmp_path, whole, capsys):
    lines = whole.splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:7]))
    run(Fake().plan(), TASK, tmp_path)
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("evaluate  step 9/15  latent r=3 1")
    assert shown[-1].startswith("evaluate  step 15/15  text r=1 0")
