"""Records of a run that was cut anywhere equal those of an uninterrupted one, byte by byte."""

import json

import jax
import jax.numpy as jnp
import pytest

from rmas.evaluation.ceilings import Ceilings, read_ceilings
from rmas.evaluation.json_lines import line_of, parse_line
from rmas.evaluation.merging import merge
from rmas.evaluation.plan import Method, Plan, by_length
from rmas.evaluation.runner import run
from rmas.system.answers import Answer
from rmas.system.clock import Clock
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.puzzle import ceiling
from rmas.tasks.relay import RELAY
from rmas.tasks.rows import Row
from support.evaluations import timing as timed

ROWS = [Row(f"row-{n}", f"what is {n}?", str(n % 3)) for n in range(5)]
GRADERS = GraderPool()  # puzzles are graded here: no worker starts


def len_of(row):
    return len(row.question)


class Fake:
    """Answers by arithmetic, and keeps what it was asked; `dies` counts calls until it raises."""

    def __init__(self, dies=None):
        self.calls, self.dies = [], dies

    def method(self, name, rounds):
        def answer(questions, batch, rollout):
            assert all(q.text == f"what is {q.id.removeprefix('row-')}?" for q in questions)
            self.calls.append((name, rounds, [q.id for q in questions], batch))
            if len(self.calls) == self.dies:
                raise KeyboardInterrupt
            texts = [f"value {(int(q.id[4:]) + rounds + rollout) % 3}\n\u2028é" for q in questions]
            return [
                Answer({"b": [t]}, {"b": {"decoded_tokens": n}}, text=t)
                for n, t in enumerate(texts)
            ]

        latent_length = 8 if name == "latent" else None
        return Method(name, rounds, answer, latent_length=latent_length)

    def plan(self, rows=ROWS, methods=(("latent", 1), ("latent", 3), ("text", 1)), rollouts=1):
        made = tuple(self.method(*m) for m in methods)
        asked = by_length(rows, len_of)
        return Plan("toy", "relay", made, asked, batch=2, seed=7, rollouts=rollouts)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records file of a run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    run(Fake().plan(), GRADERS, folder)
    return (folder / "records.jsonl").read_bytes()


def test_records_in_the_order_of_the_plan(tmp_path, whole):
    fake = Fake()
    records = run(fake.plan(), GRADERS, tmp_path)
    questions = map(parse_line, (tmp_path / "questions.jsonl").read_text().splitlines())
    assert list(questions) == [{"id": row.id, "question": row.question} for row in ROWS]
    assert (tmp_path / "records.jsonl").read_bytes() == whole
    assert [parse_line(line) for line in whole.decode().split("\n")[:-1]] == records
    keys = [(r["method"], r["rounds"], r["id"]) for r in records]
    methods = [("latent", 1), ("latent", 3), ("text", 1)]
    groups = [["row-0", "row-1"], ["row-2", "row-3"], ["row-4"]]
    assert keys == [(*m, own) for group in groups for m in methods for own in group]
    assert records[3] == {
        "schema": 4,
        "id": "row-1",
        "benchmark": "toy",
        "method": "latent",
        "rounds": 3,
        "latent_length": 8,
        "rollout": 0,
        "seed": 7,
        "agents": {"b": {"decoded_tokens": 1}},
        "texts": {"b": ["value 1\n\u2028é"]},
        "tools": [],
        "answer": "1",
        "gold": "1",
        "scores": {"exact": 1.0},
        "retried": False,
        "note": "",
    }
    assert records[0]["scores"]["exact"] == 0.0
    timings = map(json.loads, (tmp_path / "timings.jsonl").read_text().splitlines())
    lengths = {(t["method"], t["rounds"], t["latent_length"]) for t in timings}
    assert lengths == {("latent", 1, 8), ("latent", 3, 8), ("text", 1, None)}
    assert not (tmp_path / "ceilings.json").exists()  # these rows were not generated
    # Each method's first group runs twice: the first time compiles.
    first = [(*m, groups[0], 2) for m in methods for _ in range(2)]
    assert fake.calls == [*first, *((*m, ids, 2) for ids in groups[1:] for m in methods)]


def test_a_file_cut_at_any_byte(tmp_path):
    """Cuts everywhere: the same records, and no whole group is asked again."""
    file = tmp_path / "records.jsonl"
    small = {"rows": ROWS[:3], "methods": (("latent", 1),)}
    run(Fake().plan(**small), GRADERS, tmp_path)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[:n])) for n in (2, 3)]  # of groups
    around = {place + d for place in (0, *ends, len(lines[0])) for d in range(-3, 4)}
    for cut in sorted(around & {*range(len(whole) + 1)} | {*range(0, len(whole), 11)}):
        file.write_bytes(whole[:cut])
        fake = Fake()
        records = run(fake.plan(**small), GRADERS, tmp_path)
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
            run(Fake(dies=calls).plan(), GRADERS, folder)
        except KeyboardInterrupt:
            assert whole.startswith((folder / "records.jsonl").read_bytes())
            run(Fake().plan(), GRADERS, folder)
            assert (folder / "records.jsonl").read_bytes() == whole
        else:
            break
    assert calls == 13


def test_a_finished_run_asks_nothing(tmp_path, whole):
    (tmp_path / "records.jsonl").write_bytes(whole)
    fake = Fake()
    assert len(run(fake.plan(), GRADERS, tmp_path)) == 15
    assert fake.calls == []
    assert (tmp_path / "timings.jsonl").read_text() == ""
    assert (tmp_path / "records.jsonl").read_bytes() == whole


@pytest.mark.parametrize("spoilt", [0, 3, 14])
def test_what_follows_a_strange_line_is_run_again(tmp_path, whole, spoilt):
    """A damaged line, one of another method, and one that is no record."""
    lines = whole.splitlines(keepends=True)
    for other in (lines[spoilt][:9] + b"#" + lines[spoilt][10:], lines[spoilt - 5], b"[1]\n"):
        changed = [*lines[:spoilt], other, *lines[spoilt + 1 :]]
        (tmp_path / "records.jsonl").write_bytes(b"".join(changed))
        run(Fake().plan(), GRADERS, tmp_path)
        assert (tmp_path / "records.jsonl").read_bytes() == whole


def timing(method, rounds, start, n, seconds):
    fact = {"method": method, "rounds": rounds, "start": start, "n": n, "seconds": seconds}
    return json.dumps(fact | {"latent_length": None, "rollout": 0}) + "\n"


def test_a_timing_after_one_that_was_cut_counts(tmp_path, whole):
    lines = whole.splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:10]))
    (tmp_path / "timings.jsonl").write_text(timing("text", 1, 0, 2, 1.0)[:-9])
    run(Fake().plan(), GRADERS, tmp_path)
    kept = [
        line for line in (tmp_path / "timings.jsonl").read_text().splitlines() if line[-1] == "}"
    ]
    assert [json.loads(line)["start"] for line in kept] == [2, 4, 4, 4]


@pytest.mark.parametrize("left", [9, 5, 0])
def test_times_that_are_lost_are_told(left, tmp_path, caplog):
    run(Fake().plan(), GRADERS, tmp_path)
    run(Fake().plan(), GRADERS, tmp_path)
    assert caplog.records == []
    path = tmp_path / "timings.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:left])[:-9])
    run(Fake().plan(), GRADERS, tmp_path)
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: the times of {10 - max(left, 1)} of the 9 groups that are answered already are "
        "lost"
    ]


def test_timings_are_measured_without_the_first_call(tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("rmas.evaluation.runner.time.perf_counter", lambda: next(clock))
    run(Fake().plan(), GRADERS, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [1.0] * 9  # three groups of three methods
    ids = [line["ids"] for line in lines[::3]]
    assert ids == [["row-0", "row-1"], ["row-2", "row-3"], ["row-4"]]
    assert all(line["compile"] == 0 and line["peak_bytes"] > 1 << 20 for line in lines)


def test_compilation_is_timed_apart(tmp_path):
    """Also where nothing was run beforehand: what compiles is taken off the time of the group."""
    function = jax.jit(lambda x: jnp.sort(x * 3) @ x)

    def answer(questions, batch, rollout):
        function(jnp.arange(float(len(questions)))).block_until_ready()
        clock.seconds["think"] = 0.5
        clock.charge("preamble", 100.0)
        return [Answer({}, {}, text="value 1") for _ in questions]

    clock = Clock()
    method = Method("latent", 1, answer, warm=False, clock=clock)
    plan = Plan("toy", "relay", (method,), by_length(ROWS[:4], len_of), batch=2, seed=7)
    run(plan, GRADERS, tmp_path)
    first, second = map(json.loads, (tmp_path / "timings.jsonl").read_text().splitlines())
    assert first["compile"] > second["compile"] == 0
    assert first["phases"] == second["phases"] == {"think": 0.5, "preamble": 100.0}
    # What another method has read for this one counts, too.
    assert 100 < second["seconds"] < 110
    assert second["cpu_seconds"] > 0


def test_rollouts_are_answered_and_resumed_one_by_one(tmp_path):
    fake = Fake()
    records = run(fake.plan(methods=(("latent", 1),), rollouts=3), GRADERS, tmp_path)
    order = [
        (g.rollout, q)
        for g in fake.plan(methods=(("latent", 1),), rollouts=3).groups()
        for q in g.ids
    ]
    assert [(r["rollout"], r["id"]) for r in records] == order
    assert [r["answer"] for r in records if r["id"] == "row-0"] == ["1", "2", "0"]
    whole = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(whole[: len(whole) // 2])
    again = Fake()
    assert run(again.plan(methods=(("latent", 1),), rollouts=3), GRADERS, tmp_path) == records
    assert (tmp_path / "records.jsonl").read_bytes() == whole
    assert len(again.calls) < len(fake.calls)


def test_rows_are_ordered_by_the_shape_of_their_prompt():
    rows = [Row(str(n), "x" * n, "1") for n in (40, 3, 17, 16, 33)]
    asked = by_length(rows, len_of)
    assert asked.ids == ["3", "16", "17", "40", "33"]  # 16, 32, 48
    assert [row.id for row in asked.rows(1, 4)] == asked.ids[1:4]
    assert asked.lengths == [3, 16, 17, 40, 33]
    plan = Plan("toy", "relay", (Method("m", 1, None),), asked, batch=2, seed=0)
    assert [group.bucket for group in plan.groups()] == [16, 48, 48]


def test_each_shape_is_warmed_once(tmp_path):
    fake, rows = Fake(), [Row(f"row-{n}", f"what is {n}?", "1") for n in range(6)]
    asked = by_length(rows, lambda row: 5 if row.id in ("row-0", "row-1") else 20)
    method = fake.method("latent", 1)
    plan = Plan("toy", "relay", (method,), asked, batch=2, seed=0)
    run(plan, GRADERS, tmp_path)
    assert [ids[0] for _, _, ids, _ in fake.calls] == ["row-0", "row-0", "row-2", "row-2", "row-4"]


def test_too_few_answers_are_an_error_before_anything_is_written(tmp_path):
    method = Method("m", 1, lambda questions, batch, rollout: [])
    plan = Plan("toy", "relay", (method,), by_length(ROWS, len_of), 2, 0)
    with pytest.raises(ValueError, match="longer than"):
        run(plan, GRADERS, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == b""


def test_progress_goes_on_from_what_is_done(tmp_path, whole, capsys):
    lines = whole.splitlines(keepends=True)
    wrong = [parse_line(line) for line in lines[2:4]]
    for record in wrong:
        record["scores"]["exact"] = 0.0
    lines[2:4] = [f"{line_of(record)}\n".encode() for record in wrong]
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:8]))
    run(Fake().plan(), GRADERS, tmp_path)
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "evaluate  answer 8/15 already done"
    assert shown[1] == "evaluate  compiling latent r=3, questions of up to 16 tokens"
    assert shown[2].startswith("evaluate  answer 10/15  latent r=3 accuracy 0.5")
    assert shown[-1].startswith("evaluate  answer 15/15  text r=1 accuracy 0")


def test_files_of_processes_are_merged(tmp_path, whole):
    """Each has whole groups of its own, and the half of one; what is missing is run."""
    lines = whole.decode().splitlines(keepends=True)
    planned = list(Fake().plan().groups())
    groups, at = [], 0
    for group in planned:
        groups.append("".join(lines[at : at + len(group.ids)]))
        at += len(group.ids)
    (tmp_path / "records.jsonl").write_text(groups[4])
    (tmp_path / "records.0.jsonl").write_text(groups[6] + groups[0] + groups[3][:40])
    (tmp_path / "records.1.jsonl").write_text(groups[1] + groups[4] + groups[5] + groups[7][:-1])
    timing = json.dumps(timed("latent", 2, [2, 3], 1.0)) + "\n"
    (tmp_path / "timings.1.jsonl").write_text(timing + '{"sta')
    merge(tmp_path, planned)
    assert {p.name for p in tmp_path.iterdir()} == {"records.jsonl", "timings.jsonl"}
    assert (tmp_path / "timings.jsonl").read_text() == timing
    wanted = "".join(groups[n] for n in (0, 1, 4, 5, 6))
    assert (tmp_path / "records.jsonl").read_text() == wanted
    fake = Fake()
    run(fake.plan(), GRADERS, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == whole
    asked = {(name, rounds, *ids) for name, rounds, ids, _ in fake.calls}
    assert asked == {
        (g.method.name, g.method.rounds, *g.ids) for n, g in enumerate(planned) if n in (2, 3, 7, 8)
    }


@pytest.mark.parametrize("grader", ["relay", "math"])
def test_ceilings_of_generated_questions(tmp_path, grader):
    """They are written before the first answer, and once."""
    rows = RELAY.make_rows(8, seed=1)

    def answer(questions, batch, rollout):
        assert (tmp_path / "ceilings.json").exists() == (grader == "relay")
        return [Answer({}, {}, text="value 1") for _ in questions]

    methods = tuple(Method("latent", r, answer) for r in (1, 3))
    plan = Plan("toy", grader, methods, by_length(rows, len_of), batch=4, seed=7)
    with GraderPool() as graders:
        run(plan, graders, tmp_path)
    found = read_ceilings(tmp_path / "ceilings.json")
    if grader == "math":
        assert found is None
        return
    assert found == Ceilings(8, {1: ceiling(rows, 1), 3: 1.0})
    before = (tmp_path / "ceilings.json").stat().st_mtime_ns
    run(plan, GRADERS, tmp_path)
    assert (tmp_path / "ceilings.json").stat().st_mtime_ns == before
