"""Buckets, lines, stacks: the layout of prompts as arrays."""

import numpy as np
import pytest

from rmas.system.batch import EMPTY, Line, bucket, line, pack, stack, with_states
from rmas.system.prompts import Slot

ENCODED = ((7, 8), Slot("a"), (9,), Slot("b"))


def test_buckets():
    lengths = range(1, 5000)
    buckets = [bucket(n) for n in lengths]
    assert all(b >= n and b % 16 == 0 for n, b in zip(lengths, buckets, strict=True))
    assert buckets == sorted(buckets)
    assert all(bucket(b) == b for b in buckets)
    # Short lengths round up to 16s, longer ones to at most a quarter more.
    assert all(b < n + 16 for n, b in zip(lengths, buckets, strict=True) if n < 64)
    assert all(b <= 1.25 * n for n, b in zip(lengths, buckets, strict=True) if n >= 64)
    # Few shapes, so few compilations: at most four per doubling.
    assert len({b for b in buckets if 1024 < b <= 2048}) == 4


def test_line_lays_slots_out_by_source():
    row = line(ENCODED, ("a", "b"), 3)
    assert row == Line((7, 8, 0, 0, 0, 9, 0, 0, 0), (-1, -1, 0, 1, 2, -1, 3, 4, 5))
    # The order of the messages is that of the sources, not that of the prompt.
    assert line(ENCODED, ("b", "a"), 3).slots == (-1, -1, 3, 4, 5, -1, 0, 1, 2)


def test_line_with_ragged_messages():
    row = line(ENCODED, ("a", "b"), 3, lengths={"a": 1, "b": 2}, text=(5, 6))
    assert row == Line((7, 8, 0, 9, 0, 0, 5, 6), (-1, -1, 0, -1, 3, 4, -1, -1), text_length=2)
    empty = line(ENCODED, ("a", "b"), 3, lengths={"a": 0, "b": 3})
    assert empty == Line((7, 8, 9, 0, 0, 0), (-1, -1, -1, 3, 4, 5))


def test_cut_left():
    row = line(ENCODED, ("a", "b"), 3, text=(5, 6))
    assert row.cut_left(11) is row
    assert row.cut_left(5) == Line((0, 0, 0, 5, 6), (3, 4, 5, -1, -1), text_length=2)
    assert row.cut_left(1) == Line((6,), (-1,), text_length=1)


def test_stack_pads_left():
    rounds = [
        [Line((1, 2, 0), (-1, -1, 0)), Line((), ())],
        [Line((3,), (-1,)), Line((4, 5), (-1, -1))],
    ]
    prompt = stack(rounds)
    assert prompt.ids_BT.shape == prompt.valid_BT.shape == prompt.slot_BT.shape == (2, 2, 16)
    assert prompt.state_index_BM is None
    assert (prompt.ids_BT.dtype, prompt.valid_BT.dtype) == (np.int32, bool)
    assert prompt.slot_BT.dtype == np.int32
    np.testing.assert_array_equal(prompt.valid_BT.sum(-1), [[3, 0], [1, 2]])
    np.testing.assert_array_equal(
        prompt.ids_BT[..., -3:], [[[1, 2, 0], [0] * 3], [[0, 0, 3], [0, 4, 5]]]
    )
    np.testing.assert_array_equal(prompt.slot_BT[0, 0, -3:], [-1, -1, 0])
    # Valid positions are a run at the end; padding is no slot and holds id 0.
    assert (np.diff(prompt.valid_BT.astype(int), axis=-1) >= 0).all()
    assert (prompt.slot_BT[~prompt.valid_BT] == -1).all()
    assert (prompt.ids_BT[~prompt.valid_BT] == 0).all()


def test_stack_is_as_long_as_asked():
    rows = [[Line((1, 2), (-1, -1))]]
    assert stack(rows, length=40).ids_BT.shape == (1, 1, 40)
    assert stack([[Line((1,) * 17, (-1,) * 17)]]).ids_BT.shape == (1, 1, 32)


@pytest.mark.parametrize("shift", [0, 1])
def test_with_states_points_at_the_first_states(shift):
    """State t of a message is read at the text's token t, or where that token is predicted."""
    texts = [(21, 22, 23, 24), (31, 32), ()]
    rounds = [[Line((1, 2, *t), (-1,) * (2 + len(t)), len(t)) for t in texts]]
    prompt = with_states(stack(rounds), rounds, 3, shift)
    assert prompt.state_index_BM.shape == (1, 3, 3)
    assert prompt.state_index_BM.dtype == np.int32
    read = np.take_along_axis(prompt.ids_BT, prompt.state_index_BM, axis=-1)[0]
    expected = {0: [(21, 22, 23), (31, 32)], 1: [(2, 21, 22), (2, 31)]}[shift]
    for row, ids in zip(read, expected, strict=False):
        np.testing.assert_array_equal(row[: len(ids)], ids)
    # Unused places stay inside the arrays.
    assert prompt.state_index_BM.min() >= 0
    assert prompt.state_index_BM.max() < prompt.ids_BT.shape[-1]


def test_with_states_leaves_the_rest_as_stack_does():
    rounds = [[Line((1, 2, 3), (-1, 0, -1), 1)], [Line((4,), (-1,), 1)]]
    plain = stack(rounds)
    with_positions = with_states(plain, rounds, 2, 1)
    for name in ("ids_BT", "valid_BT", "slot_BT"):
        np.testing.assert_array_equal(getattr(with_positions, name), getattr(plain, name))


def test_pack_parts_preambles_from_what_follows():
    """A row's preamble is the shortest of its lines'; agents whose rows have none are left out."""
    a = Line((1, 2, 3, 4), (-1, -1, -1, 0), preamble=3)
    b = Line((1, 2, 3, 9, 9), (-1,) * 5, text_length=1, preamble=3)
    cut = b.cut_left(4)
    assert cut == Line((2, 3, 9, 9), (-1,) * 4, text_length=1)
    assert b.rest == Line((9, 9), (-1, -1), text_length=1)
    found = pack({"one": [[a, a, EMPTY], [b, cut, EMPTY]], "two": [[cut]]}, lambda n: n)
    assert list(found.preambles) == ["one"]
    assert found.preambles["one"].ids_BT.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0]]
    assert found.preambles["one"].valid_BT.tolist() == [[True] * 3, [False] * 3, [False] * 3]
    rest = found.rest["one"]
    assert rest.ids_BT.tolist() == [
        [[0, 0, 0, 4], [1, 2, 3, 4], [0] * 4],
        [[0, 0, 9, 9], [2, 3, 9, 9], [0] * 4],
    ]
    assert rest.valid_BT.sum(-1).tolist() == [[1, 4, 0], [2, 4, 0]]
    assert rest.slot_BT[0].tolist() == [[-1, -1, -1, 0], [-1, -1, -1, 0], [-1] * 4]
    assert found.rest["two"].ids_BT.tolist() == [[[2, 3, 9, 9]]]
