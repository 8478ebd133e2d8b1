"""Tokens of two tokenizers for the same piece of a text."""

import numpy as np
import pytest

from rmas.training.alignment import align, share_alike
from rmas.training.outer import unlike_tokens
from support.tiny_training import (
    PAIR,
    SELF,
    letter_tokenizer,
    make_examples,
    make_rows,
    word_tokenizer,
)

WORD, OTHER, LETTER = word_tokenizer(1), word_tokenizer(2), letter_tokenizer()
TEXT = "ab c def"


def tokens(chat, ids):
    return chat.tokenizer.convert_ids_to_tokens(list(ids))


def test_the_same_segmentation_gives_the_identity():
    ids, weights = align(WORD, OTHER, TEXT, 4)
    assert tokens(OTHER, ids) == ["ab", "c", "def", "<e>"]
    assert tuple(ids) == OTHER.text_ids(TEXT)
    assert ids != WORD.text_ids(TEXT)  # the ids are the receiver's
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.eye(4))


def test_letters_to_words():
    ids, weights = align(LETTER, WORD, TEXT, 20)
    assert tokens(WORD, ids) == ["ab", "c", "def", "<e>"]
    # a b _ c _ d e f and the first closing token; blanks and the second have no counterpart.
    wanted = np.zeros((20, 4))
    for letter, word in ((0, 0), (1, 0), (3, 1), (5, 2), (6, 2), (7, 2), (8, 3)):
        wanted[letter, word] = 1
    np.testing.assert_array_equal(weights, wanted)


def test_words_to_letters():
    ids, weights = align(WORD, LETTER, TEXT, 5)
    assert tokens(LETTER, ids) == [*"ab c def", "<e>"]
    wanted = np.zeros((5, 9))
    wanted[0, :2], wanted[1, 3], wanted[2, 5:8], wanted[3, 8] = 1 / 2, 1, 1 / 3, 1
    np.testing.assert_allclose(weights, wanted, rtol=1e-7)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_the_limit_counts_the_senders_tokens(limit):
    """What only later tokens need is left out."""
    ids, weights = align(WORD, LETTER, TEXT, limit)
    assert len(tokens(LETTER, ids)) == {1: 2, 2: 4, 3: 8, 4: 9}[limit]
    assert weights.shape == (limit, len(ids))
    full = align(WORD, LETTER, TEXT, 4)[1]
    np.testing.assert_array_equal(weights, full[:limit, : len(ids)])


@pytest.mark.parametrize("source", [WORD, LETTER])
@pytest.mark.parametrize("target", [OTHER, LETTER])
def test_rows_sum_to_one_or_zero(source, target):
    for text in (TEXT, "l", "m m kk", "hi  g"):
        n = len(source.text_ids(text))
        _, weights = align(source, target, text, n + 3)
        total = weights.sum(axis=1)
        assert np.all((np.abs(total - 1) < 1e-6) | (total == 0))
        assert not weights[n:].any()
        if source is target:
            assert np.array_equal(weights[:n], np.eye(n))


def test_an_empty_text_has_its_closing_tokens():
    ids, weights = align(LETTER, OTHER, "", 2)
    assert tokens(OTHER, ids) == ["<e>"]
    np.testing.assert_array_equal(weights, [[1], [0]])


def test_nothing_in_common():
    """A sender that starts with blanks, for which the receiver has no token."""
    ids, weights = align(LETTER, WORD, "   ab", 3)
    assert ids == ()
    assert weights.shape == (3, 0)


def test_rows_name_the_senders_own_tokens_where_a_text_holds_a_control_token():
    """Such a text is cut in harmless pieces; its tokens are those that the sender writes."""
    text = "ab <e> c"
    own = LETTER.text_ids(text)
    ids, weights = align(LETTER, LETTER, text, len(own))
    assert ids == own
    np.testing.assert_array_equal(weights, np.eye(len(own)))
    ids, _ = align(LETTER, WORD, text, len(own))
    assert ids == WORD.text_ids(text)


def test_the_share_of_tokens_that_are_cut_alike():
    assert share_alike(WORD, OTHER, [TEXT, "ab"], 20) == 1
    # Letters and words have `c` and the first closing token in common.
    assert share_alike(WORD, LETTER, [TEXT], 20) == 2 / 4
    assert share_alike(LETTER, WORD, [TEXT], 20) == 2 / 10
    assert share_alike(LETTER, WORD, [TEXT], 4) == 1 / 4
    assert share_alike(WORD, LETTER, [], 4) == 1


def test_outer_training_warns_of_agents_that_cut_texts_differently():
    examples = make_examples(PAIR)
    lines = unlike_tokens((("align", 1.0),), examples, make_rows(3))
    assert [line.partition(":")[0] for line in lines] == ["critic->solver", "solver->critic"]
    assert "objective hop" in lines[0]
    assert not unlike_tokens((("hop", 1.0),), examples, make_rows(3))
    assert not unlike_tokens((("align", 1.0), ("hop", 0.1)), examples, make_rows(3))
    assert not unlike_tokens((("align", 1.0),), make_examples(SELF), make_rows(3))
