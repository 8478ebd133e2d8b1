"""Flags that are lists of words or numbers."""

import re
from collections.abc import Sequence

from rmas.console import printable
from rmas.errors import InputError

_NUMBER = re.compile(r"[1-9][0-9]{0,5}")


def check_words(flag: str, words: Sequence[str], known: Sequence[str]) -> None:
    """Raises `InputError` for a list without words, or with one that is not known."""
    for word in words or [""]:
        if word not in known:
            raise InputError(f"--{flag}: {printable(word)!r} is unknown; known: {', '.join(known)}")


def numbers(flag: str, texts: Sequence[str]) -> list[int]:
    """The numbers of a list, from 1 on, in order.

    Raises `InputError` for a list without numbers, or with a text that is none.
    """
    if not all(_NUMBER.fullmatch(text) for text in texts or [""]):
        raise InputError(f"--{flag}={printable(','.join(texts))}; wanted numbers, as in 8,32")
    return sorted(set(map(int, texts)))
