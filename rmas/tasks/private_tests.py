"""LiveCodeBench's tests: plain JSON, or base64 of zlib of a pickle of JSON text.

Such a pickle holds one text and nothing else. It is read without executing anything: whatever asks
for a class, a function or a persistent object is refused.
"""

import base64
import binascii
import io
import json
import pickle
import pickletools
import zlib
from typing import Any

from rmas.errors import InputError

_MEMO = 1000
MAX_BYTES = 512 << 20
"""Bytes of the tests of one question, unpacked."""


def decode_tests(text: str, where: str, most: int = MAX_BYTES) -> list[dict[str, str]]:
    """The tests in a field, each with `input`, `output` and `testtype` (stdin or functional).

    Raises InputError naming `where` for what is none of the known forms, or larger than `most`.
    """
    if not text.strip():
        return []
    plain = text if text.lstrip()[:1] in ("[", "{") else _unpack(text, where, most)
    try:
        tests = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: the tests are not valid JSON ({str(error)[:80]})") from None
    if not isinstance(tests, list):
        raise InputError(f"{where}: the tests are no list")
    for n, test in enumerate(tests):
        names = ("input", "output", "testtype")
        if not (isinstance(test, dict) and all(isinstance(test.get(k), str) for k in names)):
            raise InputError(f"{where}: test {n} lacks a text {', '.join(names)}")
        if test["testtype"] not in ("stdin", "functional"):
            raise InputError(
                f"{where}: test {n} has testtype {test['testtype'][:20]!r}; "
                "known: stdin, functional"
            )
    return tests


def _unpack(text: str, where: str, most: int) -> str:
    try:
        packed = base64.b64decode(text, validate=True)
        inflate = zlib.decompressobj()
        data = inflate.decompress(packed, most)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise InputError(
            f"{where}: the tests are neither JSON nor base64 of zlib ({str(error)[:80]})"
        ) from None
    if inflate.unconsumed_tail or len(data) >= most:
        raise InputError(f"{where}: the tests are larger than {most >> 20} MiB")
    try:
        _check(data)
        value = _Text(io.BytesIO(data)).load()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # an unpickler raises whatever its input makes it
        raise InputError(f"{where}: the tests are no pickle of a text ({error})") from None
    if not isinstance(value, str):
        raise InputError(f"{where}: the pickle of the tests holds {type(value).__name__}, no text")
    return value


def _check(data: bytes) -> None:
    """Raises `InputError` for a pickle that would keep far more than one text in mind."""
    for step, argument, _ in pickletools.genops(data):
        if step.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > _MEMO:
            raise InputError(f"the pickle of the tests has {step.name} {argument}")


class _Text(pickle.Unpickler):
    """Reads what needs no code of anybody."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(f"the pickle of the tests asks for {module[:40]}.{name[:40]}")

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("the pickle of the tests asks for a persistent object")
