"""Records and timings are read strictly, and what a kill or a copy leaves does no harm."""

import hashlib
import json

import pytest

from rmas.errors import InputError
from rmas.evaluation.ceilings import Ceilings
from rmas.evaluation.plan import Method, Plan, by_length
from rmas.evaluation.records import Key, Variant, read_evaluations
from rmas.evaluation.runner import run
from rmas.system.answers import Answer
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.rows import Row
from support.evaluations import old, record, timing, write, write_ceilings

LATENT = Variant("latent", 1, 8)


def key(question, variant=LATENT, rollout=0):
    return Key("gsm8k", variant, f"q{question}", rollout)


def test_grouped_by_benchmark_variant_question_and_rollout(tmp_path):
    records = [
        record(0, length=8), record(0, length=8, rollout=1, exact=0.0), record(1, "text"),
        record(0, length=16), record(0, benchmark="aime25"),
    ]  # fmt: skip
    found = read_evaluations([write(tmp_path, records)])
    assert {b: set(variants) for b, variants in found.questions.items()} == {
        "gsm8k": {LATENT, Variant("latent", 1, 16), Variant("text", 1, None)},
        "aime25": {Variant("latent", 1, None)},
    }
    rollouts = found.questions["gsm8k"][LATENT]["q0"]
    assert {n: r.scores["exact"] for n, r in rollouts.items()} == {0: 1.0, 1: 0.0}
    assert rollouts[0].counts == {
        "prompt_tokens": 60, "latent_steps": 16, "decoded_tokens": 20, "positions": 60,
        "reused_positions": 9,
    }  # fmt: skip
    assert found.groups == {} and set(found.files[0]) == {"records"}


def test_files_are_hashed_and_counted(tmp_path):
    lines = [record(0, length=8), record(1, length=8), record(0, length=8)]
    timings = [timing("latent", 0, [0, 1], s, length=8) for s in (9.0, 1.0)]
    write(tmp_path, lines, timings)
    path = tmp_path / "evaluate" / "records.jsonl"
    path.write_bytes(path.read_bytes() + json.dumps(record(2)).encode()[:-20])
    write_ceilings(tmp_path, 2, {1: 0.5})
    (files,) = read_evaluations([tmp_path]).files
    records, times, ceilings = (files[kind] for kind in ("records", "timings", "ceilings"))
    assert records.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (records.lines, records.duplicates, records.half_lines) == (3, 1, 1)
    assert (times.lines, times.duplicates, times.half_lines) == (2, 1, 0)
    path = tmp_path / "evaluate" / "ceilings.json"
    assert ceilings.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_last_line_cut_anywhere_is_left_out_unless_it_is_whole(tmp_path):
    write(tmp_path, [record(0)])
    path = tmp_path / "evaluate" / "records.jsonl"
    first = path.read_bytes()
    last = json.dumps(record(1, gold="é"), ensure_ascii=False).encode()
    for cut in (*range(0, len(last), 3), len(last) - 1, len(last)):
        path.write_bytes(first + last[:cut])
        (variants,) = read_evaluations([tmp_path]).questions.values()
        (questions,) = variants.values()
        assert list(questions) == (["q0", "q1"] if cut == len(last) else ["q0"]), cut


def test_the_newest_timing_of_a_group_counts(tmp_path):
    lines = [record(q, length=8) for q in range(3)]
    timings = [
        timing("latent", 0, [0, 1], 9.0, length=8),
        timing("latent", 2, [2], 4.0, length=8),
        timing("latent", 0, [0, 1], 1.0, length=8),
        timing("latent", 0, [0, 1], 77.0, length=16),  # of questions without records
    ]
    groups = read_evaluations([write(tmp_path, lines, timings)]).groups
    assert {k: g.seconds for k, g in groups.items()} == {key(0): 1.0, key(1): 1.0, key(2): 4.0}
    assert groups[key(0)] is groups[key(1)]


def test_a_run_that_was_killed_and_run_again(tmp_path):
    """The runner's own files: a group cut short is timed twice, and the report counts it once."""
    counts = {"prompt_tokens": 5, "latent_steps": 8, "decoded_tokens": 3, "positions": 15}

    def answer(questions, batch, rollout):
        return [Answer({"b": ["value 1"]}, {"b": counts}, text="value 1") for _ in questions]

    rows = [Row(f"q{n}", "what is one?", "1") for n in range(5)]
    methods = (Method("latent", 1, answer, latent_length=8), Method("text", 1, answer))
    plan = Plan("toy", "relay", methods, by_length(rows, lambda row: 3), batch=2, seed=7)
    folder = tmp_path / "evaluate"
    folder.mkdir()
    with GraderPool() as graders:
        run(plan, graders, folder)
        before = read_evaluations([tmp_path])
        path = folder / "records.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])  # within the last group, after its timing
        cut = read_evaluations([tmp_path]).files[0]["records"]
        assert (cut.lines, cut.half_lines) == (9, 1)
        run(plan, graders, folder)
    assert path.read_bytes() == whole
    after = read_evaluations([tmp_path])
    assert after.files[0]["timings"].duplicates == 1
    assert after.questions.keys() == before.questions.keys() == {"toy"}
    assert after.groups.keys() == before.groups.keys()
    newest = json.loads((folder / "timings.jsonl").read_text().splitlines()[-1])
    last = after.groups[Key("toy", Variant("text", 1, None), "q4", 0)]
    assert (last.seconds, len(last.keys)) == (newest["seconds"], 1)
    assert sum(len(g.keys) for g in set(after.groups.values())) == 10


def test_files_of_schema_1(tmp_path):
    """Without ids, the places of records say whose time it is; also after a rerun group."""
    lines = [record(q, m, r) for m in ("text", "latent") for r in (1, 2) for q in (5, 3, 4)]
    timings = [
        timing(m, s, qs, 1.0 + s, rounds=r)
        for m in ("text", "latent")
        for r in (1, 2)
        for s, qs in ((0, [5, 3]), (2, [4]))
    ]
    timings.append(timing("text", 2, [4], 8.0, rounds=2))
    found = read_evaluations([write(tmp_path, map(old, lines), map(old, timings))])
    text = Variant("text", 2, None)
    own = found.questions["gsm8k"][text]["q4"][0]
    assert (own.counts["positions"], own.estimated, own.note, own.retried) == (80, True, "", False)
    shared = found.groups[key(5, text)]
    assert shared is found.groups[key(3, text)]
    assert (shared.seconds, shared.compile, shared.phases, shared.peak_bytes) == (
        1.0,
        None,
        {},
        None,
    )
    assert found.groups[key(4, text)].seconds == 8.0


def test_several_workdirs(tmp_path):
    one = write(tmp_path / "1", [record(0, length=8)], [timing("latent", 0, [0], 1.0, length=8)])
    two = write(
        tmp_path / "2",
        [record(0, length=8), record(0, "text")],
        [timing("latent", 0, [0], 5.0, length=8), timing("text", 0, [0], 3.0)],
    )
    found = read_evaluations([one, two, one / ".." / "1"])
    assert len(found.files) == 2  # the same folder by another name is read once
    assert found.questions["gsm8k"][LATENT]["q0"][0].workdirs == (0, 1)
    assert [found.groups[key(0, v)].seconds for v in (LATENT, Variant("text", 1, None))] == [1, 3]


def test_records_that_contradict_each_other(tmp_path):
    one = write(tmp_path / "1", [record(0), record(1)])
    two = write(tmp_path / "2", [record(2), record(1, exact=0.0)])
    with pytest.raises(InputError) as error:
        read_evaluations([one, two])
    assert str(error.value) == (
        f"{two}/evaluate/records.jsonl, line 2: this record of q1 differs from "
        f"{one}/evaluate/records.jsonl, line 2, of the same method, rounds, latent length and "
        "rollout; report only one of them"
    )
    three = write(tmp_path / "3", [record(0, "text", gold="2")])
    with pytest.raises(
        InputError, match=r"line 1: q0 has another gold answer than in .*1/evaluate"
    ):
        read_evaluations([one, three])


def wrong_agent(**counts):
    agents = record(0)["agents"]
    return {"agents": agents | {"b\x1b": agents["b"] | counts}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 5}, "field 'schema' must be one of 1, 2, 3, 4"),
        ({"id": 5}, "field 'id' must be text"),
        ({"benchmark": ""}, "field 'benchmark' must be a name of 1 to 200 printable"),
        ({"method": "a\x1b[2J"}, "field 'method' must be a name"),
        ({"method": "\ud800"}, "field 'method' must be a name"),
        ({"rounds": 0}, "field 'rounds' must be a whole number of 1 or more"),
        ({"rounds": True}, "field 'rounds' must be a whole number"),
        ({"rounds": 2.0}, "field 'rounds' must be a whole number"),
        ({"latent_length": 0}, "field 'latent_length' must be a whole number of 1 or more"),
        ({"rollout": -1}, "field 'rollout' must be a whole number of 0 or more"),
        ({"agents": []}, "field 'agents' must be an object"),
        ({"agents": {"a": 1}}, "agents.a must be an object"),
        (wrong_agent(decoded_tokens=-1), r"agents.b\x1b: field 'decoded_tokens' must"),
        (wrong_agent(prompt_tokens=10**400), r"agents.b\x1b: field 'prompt_tokens' must"),
        (wrong_agent(positions=None), r"agents.b\x1b: field 'positions' must"),
        (
            {"scores": {"exact": 1.0, "release_compatible": None}},
            "'scores.release_compatible' must be a number from 0 to 1",
        ),
        ({"scores": {"release_compatible": 1.0}}, "field 'scores.exact' must be a number"),
        ({"scores": {"exact": float("nan"), "release_compatible": 0}}, "field 'scores.exact'"),
        ({"scores": {"exact": 1, "release_compatible": 1, "f1": 1.5}}, "field 'scores.f1'"),
        ({"answer": 3}, "field 'answer' must be text or null"),
        ({"gold": None}, "field 'gold' must be text"),
        ({"retried": 0}, "field 'retried' must be true or false"),
        ({"note": None}, "field 'note' must be text"),
    ],
)
def test_the_error_for_a_wrong_record_is_one_line(tmp_path, change, message):
    path = write(tmp_path, [record(0), record(1) | change]) / "evaluate" / "records.jsonl"
    with pytest.raises(InputError) as error:
        read_evaluations([tmp_path])
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": -1.0}, "field 'seconds' must be a number of seconds"),
        ({"seconds": None}, "field 'seconds' must be a number of seconds"),
        ({"compile": float("inf")}, "field 'compile' must be a number of seconds"),
        ({"phases": [1]}, "field 'phases' must be an object"),
        ({"phases": {"write": "1"}}, "field 'phases.write' must be a number of seconds"),
        ({"phases": {"\x07": 1.0}}, "field 'phases' must be a name"),
        ({"cpu_seconds": None}, "field 'cpu_seconds' must be a number of seconds"),
        ({"schema": 3}, "field 'schema' of a timing must be 4, or be missing"),
        ({"bucket": 0}, "field 'bucket' must be a whole number of 1 or more"),
        ({"session": 5}, "field 'session' must be text"),
        ({"accelerator": 1}, "field 'accelerator' must be true or false"),
        ({"n": 0}, "field 'n' must be a whole number of 1 or more"),
        ({"start": None}, "field 'start' must be a whole number of 0 or more"),
        ({"ids": ["q0", "q0"], "n": 2}, "field 'ids' must name n = 2 different questions"),
        ({"ids": ["q0"], "n": 2}, "field 'ids' must name n = 2 different questions"),
        ({"ids": "q0"}, "field 'ids' must be a list of question ids"),
        ({"peak_bytes": -1}, "field 'peak_bytes' must be a whole number of 0 or more"),
    ],
)
def test_the_error_for_a_wrong_timing_is_one_line(tmp_path, change, message):
    good = timing("latent", 0, [0], 1.0)
    path = write(tmp_path, [record(0)], [good, good | change]) / "evaluate" / "timings.jsonl"
    with pytest.raises(InputError) as error:
        read_evaluations([tmp_path])
    assert str(error.value).startswith(f"{path}, line 2: {message}")


@pytest.mark.parametrize("line", [b"[1]", b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_lines_that_are_not_objects(tmp_path, line):
    path = write(tmp_path, [record(0)]) / "evaluate" / "records.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match="line 2 is not a JSON object; name the files of an"):
        read_evaluations([tmp_path])


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("rmas.evaluation.json_lines.MAX_LINE", 2000)
    write(tmp_path, [record(0), record(1, texts={"b": ["x" * 2000]})])
    with pytest.raises(InputError, match="line 2 is longer than 0 MiB"):
        read_evaluations([tmp_path])


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"records\.jsonl is missing; name a workdir of"):
        read_evaluations([tmp_path])
    with pytest.raises(InputError, match=r"records\.jsonl has no records yet"):
        read_evaluations([write(tmp_path, [])])


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{}", '{"questions": 2}', '{"questions": 0, "by_rounds": {}}',
        '{"questions": 2, "by_rounds": {"x": 1}}', '{"questions": 2, "by_rounds": {"1": 1.5}}',
        '{"questions": 2, "by_rounds": {"1": NaN}}', '{"questions": 2, "by_rounds": [1]}',
    ],
)  # fmt: skip
def test_ceilings_that_are_damaged(tmp_path, content):
    path = write(tmp_path, [record(0)]) / "evaluate" / "ceilings.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"ceilings.json does not hold ceilings"):
        read_evaluations([tmp_path])


def test_ceilings_are_read(tmp_path):
    one, two = write(tmp_path / "1", [record(0)]), write(tmp_path / "2", [record(0)])
    write_ceilings(two, 9, {1: 0.5, 2: 1})
    assert read_evaluations([one, two]).ceilings == [None, Ceilings(9, {1: 0.5, 2: 1.0})]
