"""Which tokens of two tokenizers stand for the same piece of a text."""

import functools
from typing import Any

import numpy as np

from rmas.system.encode import ChatTokenizer


def _spans(chat: ChatTokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    out: dict[str, Any] = chat.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids, spans = list(out["input_ids"]), [tuple(s) for s in out["offset_mapping"]]
    # Closing tokens lie behind the text: one character each keeps them apart and in order.
    for n, i in enumerate(chat.close):
        ids.append(i)
        spans.append((len(text) + n, len(text) + n + 1))
    return ids, spans


@functools.lru_cache(maxsize=100_000)
def align(
    source: ChatTokenizer, target: ChatTokenizer, text: str, limit: int
) -> tuple[tuple[int, ...], np.ndarray]:
    """The receiver's tokens for each of the first `limit` tokens of the sender.

    Returns the receiver's ids `[N]` and weights `[limit, N]` float32: row t spreads 1 over the
    receiver's tokens in proportion to the characters that they share with the sender's token t.
    Where both cut the text alike, this is the identity. Rows without a counterpart are zero.
    """
    _, own = _spans(source, text)
    ids, other = _spans(target, text)
    weights = np.zeros((limit, len(ids)), np.float32)
    for t, (a, b) in enumerate(own[:limit]):
        shared = np.array([max(0, min(b, d) - max(a, c)) for c, d in other], np.float32)
        if shared.sum() > 0:
            weights[t] = shared / shared.sum()
    used = int(np.max(np.nonzero(weights.any(axis=0))[0], initial=-1)) + 1
    return tuple(ids[:used]), weights[:, :used]
