"""Rows from attempts: right ones are kept, and a killed run ends like an uninterrupted one."""

import json

import pytest

from rmas.errors import InputError
from rmas.evaluation.row_maker import RowMaker
from rmas.system.answers import Answer
from rmas.system.styles import SEQUENTIAL
from rmas.system.topology import Edge, Topology
from rmas.tasks.files import parse_rows
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.rows import Row

ROWS = [Row(f"q{n}", f"what is {n}?", str(n), meta={"level": n}) for n in range(7)]


class Fake:
    """Question n is answered right in attempt n // 2; `dies` counts calls until it raises."""

    def __init__(self, dies=None):
        self.calls, self.dies = [], dies

    def answer(self, questions, batch, n):
        self.calls.append(([q.id for q in questions], n))
        if len(self.calls) == self.dies:
            raise KeyboardInterrupt
        found = []
        for q in questions:
            number = int(q.id[1:])
            text = f"value {number if n >= number // 2 else 16}"
            texts = {"planner": [f"plan {number}.{n}"], "critic": ["fine"], "solver": ["", text]}
            if number != 1:
                texts["solver"][0] = "first"
            found.append(Answer(texts, {}, text=text))
        return found

    def maker(self, attempts=3, **more):
        graders = GraderPool()
        return RowMaker(
            topology=SEQUENTIAL,
            answer=self.answer,
            grade=lambda texts, rows: graders.grade("relay", texts, rows),
            attempts=attempts,
            batch=2,
            **more,
        )


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


def test_what_is_right_is_kept_in_the_order_of_the_rows(tmp_path):
    fake = Fake()
    # 0 at once, 1 is right but for an empty text; 2 and 3 in attempt 1, 4 and 5 in attempt 2.
    assert fake.maker().make(ROWS, tmp_path) == 5
    content = (tmp_path / "rows.jsonl").read_bytes()
    rows = parse_rows(content, "rows.jsonl")
    assert [row.id for row in rows] == ["q0", "q2", "q3", "q4", "q5"]
    assert rows[1].texts == {
        "planner": ("plan 2.1",),
        "critic": ("fine",),
        "solver": ("first", "value 2"),
    }
    assert rows[1].meta == {"level": 2, "made": {"attempt": 1}}
    assert (rows[1].question, rows[1].answer) == ("what is 2?", "2")
    asked = [ids for ids, n in fake.calls if n == 1]
    assert asked == [["q1", "q2"], ["q3", "q4"], ["q5", "q6"]]  # what was right is not asked again


def test_cut_anywhere_and_run_again(tmp_path):
    file = tmp_path / "attempts.jsonl"
    Fake().maker().make(ROWS, tmp_path)
    whole, rows = file.read_bytes(), (tmp_path / "rows.jsonl").read_bytes()
    for cut in (*range(0, len(whole), 17), len(whole) - 1, len(whole)):
        file.write_bytes(whole[:cut])
        (tmp_path / "rows.jsonl").unlink()
        fake = Fake()
        fake.maker().make(ROWS, tmp_path)
        assert file.read_bytes() == whole, cut
        assert (tmp_path / "rows.jsonl").read_bytes() == rows
    assert fake.calls[1:] == []


def test_killed_at_every_call(tmp_path):
    Fake().maker().make(ROWS, tmp_path)
    whole = (tmp_path / "attempts.jsonl").read_bytes()
    for dies in range(1, 9):
        folder = tmp_path / str(dies)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            Fake(dies).maker().make(ROWS, folder)
        Fake().maker().make(ROWS, folder)
        assert (folder / "attempts.jsonl").read_bytes() == whole


@pytest.mark.parametrize("group_batches", [2, 3, 9])
def test_groups_of_several_batches(tmp_path, group_batches):
    """The same attempts and rows as batch by batch, and a killed run ends alike."""
    Fake().maker().make(ROWS, tmp_path)
    files = [tmp_path / name for name in ("attempts.jsonl", "rows.jsonl")]
    wanted = [file.read_bytes() for file in files]
    (tmp_path / "whole").mkdir()
    whole = Fake()
    whole.maker(group_batches=group_batches).make(ROWS, tmp_path / "whole")
    assert whole.calls[0] == ([row.id for row in ROWS[: 2 * group_batches]], 0)
    for dies in range(1, len(whole.calls) + 1):
        folder = tmp_path / str(dies)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            Fake(dies).maker(group_batches=group_batches).make(ROWS, folder)
        again = Fake()
        again.maker(group_batches=group_batches).make(ROWS, folder)
        assert [(folder / file.name).read_bytes() for file in files] == wanted
        assert again.calls == whole.calls[dies - 1 :]


def test_attempts_of_a_batch_are_continued_by_groups(tmp_path, caplog):
    """As an earlier version left them, killed after one batch: the group is asked whole."""
    Fake().maker().make(ROWS, tmp_path)
    file = tmp_path / "attempts.jsonl"
    whole = file.read_bytes()
    for kept in range(whole.count(b"\n")):
        file.write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]))
        Fake().maker(group_batches=2).make(ROWS, tmp_path)
        assert file.read_bytes() == whole
    assert caplog.records == []


def test_nothing_right_is_an_error_that_shows_where_to_look(tmp_path):
    with pytest.raises(InputError, match=r"none of 2 questions.*in 1 attempts.*attempts\.jsonl"):
        Fake().maker(attempts=1).make(ROWS[5:], tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()
    assert len((tmp_path / "attempts.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "attempts.jsonl").read_text().splitlines()[0])["right"] is False


def test_a_role_that_two_agents_play_is_refused():
    edges = (Edge("a", "b", "round"), Edge("b", "a", "feedback"))
    topology = Topology("two", ("a", "b"), edges, "b", (("a", "peer"), ("b", "peer")))
    with pytest.raises(InputError, match="several agents have the role 'peer'"):
        RowMaker(topology, Fake().answer, lambda texts, rows: [], attempts=1, batch=2)
