"""A record as text: every turn in its place, safe to print, errors by line."""

import json
import re

import pytest

from rmas.errors import InputError
from rmas.evaluation.show import choose, read_question, read_records, render, render_question

USE = {"agent": "solver", "round": 2, "tool": "python", "body": "1+1", "result": "full"}
TEXT = {
    "id": "q1",
    "method": "text",
    "rounds": 2,
    "rollout": 0,
    "agents": {
        "planner": {"prompt_tokens": 9, "latent_steps": 0, "decoded_tokens": 4},
        "solver": {"prompt_tokens": 7, "latent_steps": 0, "decoded_tokens": 6},
    },
    "texts": {"planner": ["plan A", "plan B"], "solver": ["try", "value 3\x1b[2J\nend"]},
    "tools": [
        USE | {"failed": False},
        USE | {"tool": "search", "failed": True, "result": "end"},
    ],
    "answer": "3",
    "gold": "4",
    "scores": {"exact": 0.0},
}
LATENT = TEXT | {
    "method": "latent",
    "rounds": 3,
    "texts": {"solver": ["value 4"]},
    "tools": [],
    "agents": {
        "planner": {"prompt_tokens": 9, "latent_steps": 24, "decoded_tokens": 0},
        "solver": {"prompt_tokens": 7, "latent_steps": 16, "decoded_tokens": 6},
    },
}


def test_text_exchange_turn_by_turn():
    assert render(TEXT, width=60).splitlines() == [
        "q1  text, rounds 2, rollout 0",
        "answer '3', gold '4'  (exact 0)",
        "-" * 31,
        "planner: 9 positions read, 4 tokens written",
        "solver: 7 positions read, 6 tokens written",
        "",
        "round 1, planner",
        "  plan A",
        "",
        "round 1, solver",
        "  try",
        "",
        "round 2, planner",
        "  plan B",
        "",
        "round 2, solver",
        "  value 3\\x1b[2J",
        "  end",
        "  [python ran]",
        "  full",
        "  [search failed]",
    ]


def test_latent_recursion_has_one_text_in_its_last_round():
    lines = render(LATENT, width=60).splitlines()
    assert "planner: 9 positions read, 24 latent steps" in lines
    assert lines[-2:] == ["round 3, solver", "  value 4"]


def test_long_texts_are_wrapped():
    long = TEXT | {"texts": {"planner": ["word " * 40]}}
    lines = render(long, width=40).splitlines()
    assert max(map(len, lines)) <= 44
    assert sum(line.count("word") for line in lines) == 40


def test_choosing():
    other = TEXT | {"id": "q2"}
    records = [TEXT, LATENT, other]
    assert choose(records) == [TEXT, LATENT]
    assert choose(records, "q2") == [other]
    assert choose(records, method="latent") == [LATENT]
    assert choose(records, rounds=2) == [TEXT]
    for wanted, told in (
        ({"question": "q9"}, "no record has id 'q9'; there are q1, q2"),
        ({"method": "single"}, "no record has method 'single'; there are text, latent"),
        ({"method": "latent", "rounds": 1}, "no record has rounds 1; there are 3"),
    ):
        with pytest.raises(InputError, match=re.escape(told)):
            choose(records, **wanted)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no records"),
        ("{}", "line 1: field 'id' is missing or of another type"),
        (json.dumps(TEXT) + "\n[1]", "line 2 is not a JSON object"),
        ("{\n" + json.dumps(TEXT), "line 1 is not a JSON object"),
        (json.dumps(TEXT | {"agents": []}), "line 1: field 'agents' is missing or of another"),
        (json.dumps(TEXT | {"scores": None}), "line 1: field 'scores' is missing or of another"),
        (json.dumps(TEXT | {"scores": {"exact": "1"}}), "line 1: scores must be numbers"),
        (json.dumps(TEXT | {"rounds": "2"}), "line 1: field 'rounds' is missing or of another"),
        (json.dumps(TEXT | {"texts": {"a": [None]}}), r"line 1: texts\.a must be a list of texts"),
        (
            json.dumps(TEXT | {"agents": {"a": {}}}),
            r"line 1: agents\.a must have the counts",
        ),
        (
            json.dumps(TEXT | {"tools": [{"tool": "x"}]}),
            "the use of a tool must have agent",
        ),
    ],
)
def test_files_that_are_not_records(tmp_path, content, message):
    path = tmp_path / "records.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_records(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path / "none.jsonl")


def test_records_come_back_as_they_are(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(TEXT) + "\n" + json.dumps(LATENT) + "\n")
    assert read_records(path) == [TEXT, LATENT]
    with path.open("a") as file:  # as a run that is being written leaves it
        file.write('{"id": "q3", "meth')
    assert read_records(path) == [TEXT, LATENT]


def test_odd_records_are_shown_all_the_same():
    """More rounds than texts, a narrow terminal, and a result that its agent never read."""
    assert render(TEXT | {"rounds": 10**9}, width=1).splitlines()[-1] == "  [search failed]"
    assert render(TEXT | {"texts": {}}, width=60).splitlines()[-1].startswith("solver: 7")


def test_the_text_of_a_question(tmp_path):
    records = tmp_path / "records.jsonl"
    assert read_question(records, "q1") == ""  # of an evaluation that left none
    lines = [{"id": "q0", "question": "one?"}, {"id": "q1", "question": "what\x1b[2J\nis it?"}]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_question(records, "q1") == lines[1]["question"]
    assert render_question(lines[1]["question"]) == "question\n  what\\x1b[2J\n  is it?"
    assert read_question(records, "q2") == ""
    path.write_text('{"id": "q0", "question": "?"}\nno\n')
    with pytest.raises(InputError, match=r"questions.jsonl, line 2 is not a JSON object"):
        read_question(records, "q1")
    path.write_text('{"id": "q0"}\n')
    with pytest.raises(InputError, match=r"line 1: fields 'id' and 'question' must be text"):
        read_question(records, "q1")
