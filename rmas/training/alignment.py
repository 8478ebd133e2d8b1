"""Which tokens of two tokenizers stand for the same piece of a text."""

import functools
from collections.abc import Iterable

import numpy as np

from rmas.system.encode import ChatTokenizer


def _spans(chat: ChatTokenizer, text: str) -> list[tuple[int, int, int]]:
    # Closing tokens come after the text; one character each keeps them apart and in order.
    closing = [(i, len(text) + n, len(text) + n + 1) for n, i in enumerate(chat.close)]
    return chat.data_spans(text) + closing


@functools.lru_cache(maxsize=100_000)
def align(
    source: ChatTokenizer, target: ChatTokenizer, text: str, limit: int
) -> tuple[tuple[int, ...], np.ndarray]:
    """The receiver's tokens for each of the first `limit` tokens of the sender.

    Returns the receiver's ids `[N]` and weights `[limit, N]` float32: row t spreads 1 over the
    receiver's tokens in proportion to the characters that they share with the sender's token t.
    Where both tokenize the text alike, this is the identity. Rows without a counterpart are zero.
    """
    own, other = _spans(source, text), _spans(target, text)
    weights = np.zeros((limit, len(other)), np.float32)
    for t, (_, a, b) in enumerate(own[:limit]):
        shared = np.array([max(0, min(b, d) - max(a, c)) for _, c, d in other], np.float32)
        if shared.sum() > 0:
            weights[t] = shared / shared.sum()
    used = int(np.max(np.nonzero(weights.any(axis=0))[0], initial=-1)) + 1
    return tuple(i for i, _, _ in other[:used]), weights[:, :used]


def share_alike(
    source: ChatTokenizer, target: ChatTokenizer, texts: Iterable[str], limit: int
) -> float:
    """The share of the sender's tokens that are a token of the receiver, too.

    Counted are the first `limit` tokens of each text; 1 where there are none.
    """
    alike = count = 0
    for text in texts:
        shares_MN = align(source, target, text, limit)[1] > 0
        single_N = shares_MN.sum(axis=0) == 1
        alike += int(np.sum((shares_MN.sum(axis=1) == 1) & (shares_MN & single_N).any(axis=1)))
        count += min(len(_spans(source, text)), limit)
    return alike / count if count else 1.0
