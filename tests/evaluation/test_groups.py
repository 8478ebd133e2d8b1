"""Methods take turns, group by group; grading may overlap; earlier orders are read."""

import gzip
import re
import threading
import time

import jax
import pytest

from rmas.errors import InputError
from rmas.evaluation.json_lines import parse_line
from rmas.evaluation.plan import Method, Plan, by_length, group_bounds, questions_of_group
from rmas.evaluation.runner import _share, run
from rmas.experiment.sections import EvaluateSettings
from rmas.system.answers import Answer
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.rows import Row

ROWS = [Row(f"row-{n:02}", f"what is {n}?", str(n % 3)) for n in range(40)]
GRADERS = GraderPool()  # puzzles are graded here: no worker starts


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


def length_of(row):
    """Twelve questions of up to 16 tokens, and 28 of up to 32."""
    return 10 if int(row.id[4:]) < 12 else 20


def answers(calls, dies=None):
    """A function that answers by arithmetic; it keeps what it was asked."""

    def answer(questions, batch, rollout):
        calls.append((len(questions), batch))
        if len(calls) == dies:
            raise KeyboardInterrupt
        texts = [f"value {(int(q.id[4:]) + rollout) % 3}" for q in questions]
        return [Answer({"b": [text]}, {}, text=text) for text in texts]

    return answer


def plan(calls=None, dies=None, rows=ROWS, **more):
    answer = answers([] if calls is None else calls, dies)
    methods = (Method("latent", 1, answer, latent_length=8), Method("text", 2, answer))
    asked = by_length(rows, length_of)
    return Plan("toy", "relay", methods, asked, **{"batch": 2, "seed": 7, **more})


@pytest.mark.parametrize(
    ("questions", "batch", "batches"),
    [(1, 16, 1), (128, 16, 1), (255, 16, 2), (256, 16, 2), (1000, 16, 7), (9000, 16, 8)],
)
def test_a_group_is_an_eighth_of_the_batches(questions, batch, batches):
    assert questions_of_group(questions, batch) == batch * batches
    assert questions_of_group(questions, batch, 3) == 48


def test_groups_end_with_their_bucket():
    assert group_bounds([16] * 5 + [17] * 6, 2, 2) == [(0, 4, 16), (4, 8, 32), (8, 11, 32)]
    assert group_bounds([16] * 5, 2, 1) == [(0, 2, 16), (2, 4, 16), (4, 5, 16)]
    assert group_bounds([16] * 5, 2, 9) == [(0, 5, 16)]


def test_methods_take_turns():
    found = [
        (group.rollout, group.start, group.end, group.method.name, group.bucket)
        for group in plan(rollouts=2).groups()
    ]
    starts = [(0, 4), (4, 8), (8, 12), *((n, n + 4) for n in range(12, 40, 4))]
    assert found == [
        (rollout, *ends, method, 16 if ends[0] < 12 else 32)
        for ends in starts
        for rollout in (0, 1)
        for method in ("latent", "text")
    ]


def test_a_method_gets_all_questions_of_a_group(tmp_path):
    """Beforehand a batch and one question more, where the shape is new."""
    calls = []
    run(plan(calls, rows=ROWS[:18], group_batches=3), GRADERS, tmp_path)
    # Questions 0 .. 5 and 6 .. 11 are of one shape, 12 .. 17 of another.
    assert calls == [(n, 2) for n in (3, 6, 3, 6, 6, 6, 3, 6, 3, 6)]


def test_a_trace_of_some_groups(tmp_path, caplog):
    """The trace has what happens in these groups, and records are those of a run without it."""

    def traced(questions, batch, rollout):
        with jax.profiler.TraceAnnotation(f"answering {questions[0].id}"):
            return answers([])(questions, batch, rollout)

    methods = (Method("latent", 1, traced, warm=False),)
    rows = by_length(ROWS[:8], length_of)
    for name, span in (("whole", ()), ("traced", (1, 3)), ("late", (4, 5))):
        (tmp_path / name).mkdir()
        given = Plan("toy", "relay", methods, rows, 2, seed=7, profile_groups=span)
        run(given, GRADERS, tmp_path / name)
    records = [(tmp_path / name / "records.jsonl").read_bytes() for name in ("whole", "traced")]
    assert records[0] == records[1]
    (trace,) = (tmp_path / "traced" / "profile").rglob("perfetto_trace.json.gz")
    found = set(re.findall(r"answering row-\d\d", gzip.decompress(trace.read_bytes()).decode()))
    assert found == {"answering row-02", "answering row-04"}
    assert not (tmp_path / "whole" / "profile").exists()
    assert caplog.messages == ["profile_groups: nothing is traced, 4 groups are left to answer"]
    for span in ((2, 2), (2,)):
        with pytest.raises(InputError, match=r"profile_groups .* name the first group and the one"):
            EvaluateSettings(profile_groups=span)


@pytest.mark.parametrize("accelerator", [False, True])
def test_killed_anywhere_the_file_ends_the_same(tmp_path, accelerator):
    settings = {"rows": ROWS[:18], "rollouts": 2, "group_batches": 2, "accelerator": accelerator}
    (tmp_path / "whole").mkdir()
    calls = []
    run(plan(calls, **settings), GRADERS, tmp_path / "whole")
    whole = (tmp_path / "whole" / "records.jsonl").read_bytes()
    sizes = [group.end - group.start for group in plan(**settings).groups()]
    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    for dies in range(1, len(calls) + 1):
        folder = tmp_path / str(dies)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            run(plan(dies=dies, **settings), GRADERS, folder)
        left = (folder / "records.jsonl").read_bytes()
        assert whole.startswith(left)
        assert left.count(b"\n") in ends
        run(plan(**settings), GRADERS, folder)
        assert (folder / "records.jsonl").read_bytes() == whole
        timings = (folder / "timings.jsonl").read_text().splitlines()
        assert len(timings) == len(sizes)
        assert len({parse_line(line)["session"] for line in timings}) == 1 + (left > b"")


def by_method(lines):
    """Records in the order in which earlier versions wrote them."""
    return sorted(lines, key=lambda line: [parse_line(line)[k] for k in ("method", "rollout")])


@pytest.mark.parametrize("kept", [72, 71, 36, 7, 1])
def test_a_run_of_the_earlier_order_is_continued(tmp_path, kept, caplog):
    """Records of method after method, batch by batch: what is whole is not asked again."""
    settings = {"rows": ROWS[:18], "rollouts": 2, "group_batches": 2}
    (tmp_path / "whole").mkdir()
    run(plan(**settings), GRADERS, tmp_path / "whole")
    whole = (tmp_path / "whole" / "records.jsonl").read_bytes()
    lines = by_method(whole.splitlines(keepends=True))
    assert lines != whole.splitlines(keepends=True)
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(b"".join(lines[:kept]))
    calls = []
    run(plan(calls, **settings), GRADERS, folder)
    assert (folder / "records.jsonl").read_bytes() == whole
    assert (kept < 72) == bool(calls)
    groups = list(plan(**settings).groups())
    known = {(r["method"], r["rollout"], r["id"]) for r in map(parse_line, lines[:kept])}
    left = [g for g in groups if any((g.method.name, g.rollout, own) not in known for own in g.ids)]
    timings = (folder / "timings.jsonl").read_text().splitlines()
    assert len(timings) == len(left)
    lost = len(groups) - len(left)
    told = [f"{folder / 'timings.jsonl'}: the times of {lost} of the {lost} groups that are"]
    assert [r.getMessage()[: len(told[0])] for r in caplog.records] == told * bool(lost)


def test_other_groups_change_only_the_order(tmp_path):
    """A run that goes on with larger groups keeps what is answered."""
    run(plan(group_batches=1), GRADERS, tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes().splitlines()
    calls = []
    run(plan(calls, group_batches=4), GRADERS, tmp_path)
    assert calls == []
    after = (tmp_path / "records.jsonl").read_bytes().splitlines()
    assert after != before and sorted(after) == sorted(before)


class Graders:
    """Grades as the real ones, and notes when; the texts of call number `fails` have a fault."""

    def __init__(self, events, fails=None):
        self.events, self.fails, self.calls = events, fails, 0

    def grade(self, grader, texts, rows):
        self.calls += 1
        self.events.append(("grade", rows[0].id, threading.current_thread().name))
        if self.calls == self.fails:
            raise InputError("row cannot be graded")
        return GRADERS.grade(grader, texts, rows)


class Calls(list):
    """Tells in the same list when a method is asked."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def append(self, call):
        self.events.append(("answer", *call))
        super().append(call)


def test_on_cpus_grading_does_not_overlap(tmp_path):
    events = []
    run(plan(Calls(events), rows=ROWS[:4], batch=4), Graders(events), tmp_path)
    main = threading.main_thread().name
    assert events == [*[("answer", 4, 4)] * 2, ("grade", "row-00", main)] * 2


def test_on_accelerators_a_group_is_graded_while_the_next_is_answered(tmp_path):
    """The grading of each group lasts until the next one is asked, and the reverse."""
    graded, asked = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(4)]

    class Waiting:
        def grade(self, grader, texts, rows):
            n = sum(event.is_set() for event in graded)
            graded[n].set()
            assert asked[n + 1].wait(30)
            return GRADERS.grade(grader, texts, rows)

    def answer(questions, batch, rollout):
        n = sum(event.is_set() for event in asked)
        if n:
            assert graded[n - 1].wait(30)
        written = (tmp_path / "records.jsonl").read_bytes().count(b"\n")
        assert written == 2 * max(n - 1, 0)
        asked[n].set()
        if n == 2:
            asked[3].set()  # nothing follows the last group
        return [Answer({"b": ["value 1"]}, {}, text="value 1") for _ in questions]

    methods = tuple(Method(name, 1, answer, warm=False) for name in ("a", "b", "c"))
    rows = by_length(ROWS[:2], length_of)
    records = run(
        Plan("toy", "relay", methods, rows, batch=2, seed=7, accelerator=True), Waiting(), tmp_path
    )
    assert [r["method"] for r in records] == ["a", "a", "b", "b", "c", "c"]
    lines = [parse_line(x) for x in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["a", "b", "c"]
    assert all(line["accelerator"] for line in lines)


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("fails", range(1, 7))
def test_a_failing_grader_loses_no_group_before_it(tmp_path, accelerator, fails):
    settings = {"rows": ROWS[:6], "accelerator": accelerator}
    (tmp_path / "whole").mkdir()
    run(plan(**settings), GRADERS, tmp_path / "whole")
    whole = (tmp_path / "whole" / "records.jsonl").read_bytes()
    folder = tmp_path / "failed"
    folder.mkdir()
    with pytest.raises(InputError, match="row cannot be graded"):
        run(plan(**settings), Graders([], fails), folder)
    left = (folder / "records.jsonl").read_bytes()
    assert left == b"".join(whole.splitlines(keepends=True)[: 2 * (fails - 1)])
    assert (folder / "timings.jsonl").read_bytes().count(b"\n") == fails - 1
    run(plan(**settings), GRADERS, folder)
    assert (folder / "records.jsonl").read_bytes() == whole


@pytest.mark.parametrize(("count", "together"), [(2, True), (10, True), (11, False), (40, False)])
def test_processes_share_questions_then_groups(monkeypatch, count, together):
    """Ten parts of questions: all methods of a part in one process, if there are enough."""
    groups = list(plan().groups())
    monkeypatch.setattr("jax.process_count", lambda: count)
    shares = []
    for index in range(count):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        shares.append(_share(groups))
    assert sorted((g.start, g.method.name) for own in shares for g in own) == sorted(
        (g.start, g.method.name) for g in groups
    )
    whole = all(sum(g.start == other.start for other in own) == 2 for own in shares for g in own)
    assert whole == together
    assert max(map(len, shares)) <= -(-20 // count) + together


def test_cpu_seconds_are_those_of_all_threads(tmp_path):
    """Two threads work while the caller waits; sleeping costs wall time alone."""

    def work(seconds):
        began = time.thread_time()
        while time.thread_time() - began < seconds:
            pass

    def answer(questions, batch, rollout):
        threads = [threading.Thread(target=work, args=(0.1,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.3)
        return [Answer({}, {}, text="value 1") for _ in questions]

    method = Method("text", 1, answer, warm=False)
    asked = by_length(ROWS[:2], length_of)
    run(Plan("toy", "relay", (method,), asked, batch=2, seed=7), GRADERS, tmp_path)
    line = parse_line((tmp_path / "timings.jsonl").read_text().splitlines()[0])
    assert line["seconds"] > 0.4
    assert 0.2 <= line["cpu_seconds"] < 0.4
