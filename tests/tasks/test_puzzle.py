"""The generated tasks: answers from the words of a question alone, texts, ceilings."""

import numpy as np
import pytest

from rmas.errors import InputError
from rmas.tasks import puzzle
from rmas.tasks.debate import DEBATE
from rmas.tasks.generated import PUZZLES
from rmas.tasks.puzzle import LINES, MIX, P, extract_answer, value_after
from rmas.tasks.relay import CHAIN, RELAY
from rmas.tasks.rows import Row

ROWS = {task.name: task.make_rows(300, seed=5) for task in (RELAY, CHAIN, DEBATE)}


def parsed(question: str) -> tuple[int, list[list[int]], int]:
    """Start, the arguments of every line, and stop."""
    first, *lines, last = question.removesuffix(" ?").split(" ; ")
    arguments = [[int(word) for word in line.split()[2::2]] for line in lines]
    return int(first.split()[1]), arguments, LINES.index(last.split()[1]) + 1


def relay_values(question: str) -> list[int]:
    value, lines, _ = parsed(question)
    values = []
    for add, mul, mix in lines:
        value = int(MIX[mix][(value + add) * mul % P])
        values.append(value)
    return values


def chain_values(question: str) -> list[int]:
    value, lines, _ = parsed(question)
    values = []
    for add, mul, mix, sub, rev in lines:
        value = (int(MIX[mix][(value + add) * mul % P]) - sub) % P
        value = (rev - value) % P
        values.append(value)
    return values


def debate_values(question: str) -> list[int]:
    start, lines, _ = parsed(question)
    pro = con = start
    values = []
    for add, mul in lines:
        pro, con = (con + add) % P, pro * mul % P
        values.append(int(MIX[pro][con]))
    return values


SOLVE = {"relay": relay_values, "chain": chain_values, "debate": debate_values}


@pytest.mark.parametrize("name", SOLVE)
def test_answers_follow_from_the_question_alone(name):
    stops = set()
    for row in ROWS[name]:
        values, stop = SOLVE[name](row.question), parsed(row.question)[2]
        assert row.meta["values"] == values
        assert row.meta["stop"] == stop
        assert row.answer == str(values[stop - 1])
        stops.add(stop)
    assert stops == set(range(1, PUZZLES[name].lines + 1))


@pytest.mark.parametrize("name", SOLVE)
def test_texts(name):
    """24 words with the result in 8th place; the last role ends each round with its value."""
    task = PUZZLES[name]
    for row in ROWS[name]:
        for role in task.roles:
            assert len(row.texts[role]) == task.lines
            for k, text in enumerate(row.texts[role]):
                words = text.split()
                assert len(words) == 24
                assert words[7] == extract_answer(text) == words[21]
                assert words[5] == words[14]
                assert set(words) <= set(task.vocabulary)
                done = k >= row.meta["stop"]
                assert words[1] == ("done" if done else LINES[k])
                assert (words[4] == "keep") == done
        for k in range(task.lines):
            last = extract_answer(row.text(task.roles[-1], k))
            assert last == str(value_after(row, k + 1))
        assert last == row.answer
    used = {
        word
        for row in ROWS[name]
        for text in (row.question, *(text for own in row.texts.values() for text in own))
        for word in text.split()
    }
    unread = set(task.roles) - {task.reader(part) for part in task.parts}
    assert sorted(used | unread) == task.vocabulary


@pytest.mark.parametrize("task", [RELAY, CHAIN])
def test_texts_go_from_hand_to_hand(task):
    for row in ROWS[task.name]:
        held = str(row.meta["start"])
        for k in range(task.lines):
            for role, reader in zip(task.roles, (*task.roles[1:], task.roles[0]), strict=True):
                words = row.text(role, k).split()
                assert words[3] == held
                assert words[-1] == reader
                held = words[7]


def test_peers_use_each_others_last_value_and_the_judge_both():
    for row in ROWS["debate"]:
        said = {"pro": row.meta["start"], "con": row.meta["start"]}
        for k in range(row.meta["stop"]):
            words = {role: row.text(role, k).split() for role in DEBATE.roles}
            assert int(words["pro"][3]) == said["con"]
            assert int(words["con"][3]) == said["pro"]
            said = {role: int(words[role][7]) for role in said}
            assert [int(words["judge"][i]) for i in (3, 5)] == [said["con"], said["pro"]]


def test_worked_example():
    row = RELAY.make_question(np.random.default_rng(0), "x")
    assert len(row.question.split()) == 30
    text = RELAY.role_text("planner", "one", 4, "add", 14)
    assert text == (
        "line one : 4 add 14 = 1 . the sum of 4 and 14 is 1 so now pass value 1 to critic"
    )
    assert RELAY.role_text("critic", "done", 3, "keep", 3) == (
        "line done : 3 keep 3 = 3 . the value of 3 and 3 is 3 so now pass value 3 to solver"
    )
    assert RELAY.role_text("critic", "two", 5, "mul", 7).startswith("line two : 5 mul 7 = 1 . the")
    assert row.id == "x"
    with pytest.raises(InputError, match="'div' is unknown"):
        puzzle.apply("div", 1, 1)


def test_mix_is_a_fixed_table_of_permutations():
    assert puzzle.MIX.shape == (17, 17)
    assert all(sorted(row) == list(range(17)) for row in puzzle.MIX)
    assert len({tuple(row) for row in puzzle.MIX}) == 17
    # Shipped agents have learnt this table: if this fails, they must be trained again.
    assert puzzle.MIX[10].tolist() == [8, 2, 7, 3, 11, 14, 9, 6, 15, 12, 1, 10, 4, 0, 5, 13, 16]
    assert int(np.vdot(puzzle.MIX, np.arange(289).reshape(17, 17))) == 333326


def test_rows_are_reproducible_distinct_and_avoid_the_forbidden():
    assert RELAY.make_rows(40, seed=5) == ROWS["relay"][:40]
    assert RELAY.make_rows(40, seed=6)[0].question != ROWS["relay"][0].question
    assert len({row.question for row in ROWS["relay"]}) == len(ROWS["relay"])
    assert [row.id for row in ROWS["relay"][:2]] == ["relay-000000", "relay-000001"]
    forbid = {row.question for row in ROWS["relay"][:10]}
    others = RELAY.make_rows(40, seed=5, forbid=forbid)
    assert not forbid & {row.question for row in others}
    assert others[0].question == ROWS["relay"][10].question


def test_ceiling_counts_reachable_stops_and_lucky_guesses():
    rows = RELAY.make_rows(3000, seed=1)
    assert puzzle.ceiling(rows, 3) == puzzle.ceiling(rows, 9) == 1.0
    stop_within = [np.mean([row.meta["stop"] <= r for row in rows]) for r in (1, 2)]
    for rounds, reached in enumerate(stop_within, start=1):
        expected = reached + (1 - reached) / P
        assert puzzle.ceiling(rows, rounds) == pytest.approx(expected, abs=0.02)
        assert puzzle.ceiling(rows, rounds) > reached
    with pytest.raises(InputError, match="empty dataset"):
        puzzle.ceiling([], 1)
    assert puzzle.ceiling([*rows, Row("own", "one?", "1")], 2) is None
    with pytest.raises(InputError, match="at least one round"):
        puzzle.ceiling(rows, 0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so now pass value 3 to critic", "3"),
        ("value 3 then value 16", "16"),
        ("value 3 then value 17", "3"),
        ("value\n12", "12"),
        ("the value of 3 and 3", None),
        ("value 012", None),
        ("value 3.", None),
        ("revalue 3", None),
        ("value", None),
        ("value \u0663", None),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert puzzle.extract_answer(text) == answer
