"""The chain of five and the debate: answers from the words of a question alone."""

import pytest

from rmas.tasks.debate import DEBATE
from rmas.tasks.generated import PUZZLES
from rmas.tasks.puzzle import LINES, MIX, P, extract_answer, value_after
from rmas.tasks.relay import CHAIN

ROWS = {puzzle.name: puzzle.make_rows(200, seed=5) for puzzle in (CHAIN, DEBATE)}


def parsed(question: str) -> tuple[int, list[list[int]], int]:
    """Start, the arguments of every line, and stop."""
    first, *lines, last = question.removesuffix(" ?").split(" ; ")
    arguments = [[int(word) for word in line.split()[2::2]] for line in lines]
    return int(first.split()[1]), arguments, LINES.index(last.split()[1]) + 1


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


SOLVE = {"chain": chain_values, "debate": debate_values}


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
    puzzle = PUZZLES[name]
    for row in ROWS[name]:
        for role in puzzle.roles:
            assert len(row.texts[role]) == puzzle.lines
            for k, text in enumerate(row.texts[role]):
                words = text.split()
                assert len(words) == 24
                assert words[7] == extract_answer(text) == words[21]
                assert set(words) <= set(puzzle.vocabulary)
                done = k >= row.meta["stop"]
                assert words[1] == ("done" if done else LINES[k])
        for k in range(puzzle.lines):
            last = extract_answer(row.text(puzzle.roles[-1], k))
            assert last == str(value_after(row, k + 1))
    used = {word for row in ROWS[name] for text in row.texts.values() for word in text[0].split()}
    used |= {word for row in ROWS[name] for word in row.question.split()}
    assert set(puzzle.vocabulary) - used <= {"done", "keep", "value", *puzzle.roles}


def test_chain_texts_go_from_hand_to_hand():
    for row in ROWS["chain"]:
        held = str(row.meta["start"])
        for k in range(2):
            for role, reader in zip(CHAIN.roles, (*CHAIN.roles[1:], CHAIN.roles[0]), strict=True):
                words = row.text(role, k).split()
                assert words[3] == held
                assert words[-1] == reader
                held = words[7]


def test_peers_take_up_each_others_last_word_and_the_judge_both():
    for row in ROWS["debate"]:
        said = {"pro": row.meta["start"], "con": row.meta["start"]}
        for k in range(row.meta["stop"]):
            words = {role: row.text(role, k).split() for role in DEBATE.roles}
            assert int(words["pro"][3]) == said["con"]
            assert int(words["con"][3]) == said["pro"]
            said = {role: int(words[role][7]) for role in said}
            assert [int(words["judge"][i]) for i in (3, 5)] == [said["con"], said["pro"]]
