"""Flags that are lists of words."""

from collections.abc import Sequence

from rmas.console import printable
from rmas.errors import InputError


def check_words(flag: str, words: Sequence[str], known: Sequence[str]) -> None:
    """Raises `InputError` for a list without words, or with one that is not known."""
    for word in words or [""]:
        if word not in known:
            raise InputError(f"--{flag}: {printable(word)!r} is unknown; known: {', '.join(known)}")
