import numpy as np
import pytest

from rmas.errors import InputError
from rmas.tasks import puzzle
from rmas.tasks.relay import RELAY
from rmas.tasks.rows import Row

ROWS = RELAY.make_rows(300, seed=5)


def solve(question):
    """The answer and all values, computed from the question's words alone."""
    parts = [part.split() for part in question.removesuffix(" ?").split(" ; ")]
    value, values = int(parts[0][1]), []
    for words in parts[1:-1]:
        _, _, add, _, mul, _, mix = words
        value = (value + int(add)) * int(mul) % puzzle.P
        value = int(puzzle.MIX[int(mix)][value])
        values.append(value)
    stop = puzzle.LINES.index(parts[-1][1]) + 1
    return values[stop - 1], values, stop


def test_answers_follow_from_the_question_alone():
    for row in ROWS:
        answer, values, stop = solve(row.question)
        assert row.answer == str(answer)
        assert row.meta["values"] == values
        assert row.meta["stop"] == stop


def test_every_text_has_24_words_with_the_result_in_8th_place():
    for row in ROWS:
        assert len(row.question.split()) == 30
        for role in RELAY.roles:
            assert len(row.texts[role]) == 3
            for text in row.texts[role]:
                words = text.split()
                assert len(words) == 24
                assert words[7] == puzzle.extract_answer(text) == words[21]
                assert words[5] == words[14]


def test_texts_hand_the_value_on_until_the_stop_line_and_then_copy_it():
    for row in ROWS:
        held = str(row.meta["start"])
        for index in range(3):
            for role, reader in zip(RELAY.roles, ("critic", "solver", "planner"), strict=True):
                words = row.text(role, index).split()
                assert words[3] == held
                assert words[-1] == reader
                held = words[7]
                done = index >= row.meta["stop"]
                assert words[1] == ("done" if done else puzzle.LINES[index])
                assert (words[4] == "keep") == done
            assert held == str(puzzle.value_after(row, index + 1))
        assert held == row.answer


def test_worked_example():
    row = RELAY.make_question(np.random.default_rng(0), "x")
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


def test_vocabulary_is_exactly_the_words_in_use():
    used = set()
    for row in ROWS:
        used.update(row.question.split())
        for texts in row.texts.values():
            used.update(word for text in texts for word in text.split())
    assert sorted(used) == RELAY.vocabulary


def test_mix_is_a_fixed_table_of_permutations():
    assert puzzle.MIX.shape == (17, 17)
    assert all(sorted(row) == list(range(17)) for row in puzzle.MIX)
    assert len({tuple(row) for row in puzzle.MIX}) == 17
    # Shipped agents have learnt this table: if this fails, they must be trained again.
    assert puzzle.MIX[10].tolist() == [8, 2, 7, 3, 11, 14, 9, 6, 15, 12, 1, 10, 4, 0, 5, 13, 16]
    assert int(np.vdot(puzzle.MIX, np.arange(289).reshape(17, 17))) == 333326


def test_rows_are_reproducible_distinct_and_avoid_the_forbidden():
    assert RELAY.make_rows(40, seed=5) == ROWS[:40]
    assert RELAY.make_rows(40, seed=6)[0].question != ROWS[0].question
    assert len({row.question for row in ROWS}) == len(ROWS)
    assert [row.id for row in ROWS[:2]] == ["relay-000000", "relay-000001"]
    forbid = {row.question for row in ROWS[:10]}
    others = RELAY.make_rows(40, seed=5, forbid=forbid)
    assert not forbid & {row.question for row in others}
    assert others[0].question == ROWS[10].question


def test_ceiling_counts_reachable_stops_and_lucky_guesses():
    rows = RELAY.make_rows(3000, seed=1)
    assert puzzle.ceiling(rows, 3) == puzzle.ceiling(rows, 9) == 1.0
    stop_within = [np.mean([row.meta["stop"] <= r for row in rows]) for r in (1, 2)]
    for rounds, reached in enumerate(stop_within, start=1):
        expected = reached + (1 - reached) * puzzle.CHANCE
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
