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


def numbers(flag: str, texts: Sequence[str], empty: bool = False) -> list[int]:
    """The distinct numbers of a list, all above 0, sorted.

    Raises `InputError` for a text that is not such a number, and for a list without any but where
    it may be `empty`.
    """
    if not all(_NUMBER.fullmatch(text) for text in texts or ([] if empty else [""])):
        raise InputError(
            f"--{flag}={printable(','.join(texts))}; wanted numbers above 0, as in 8,32"
        )
    return sorted(set(map(int, texts)))
