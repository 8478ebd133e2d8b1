"""LiveCodeBench's tests: plain JSON, or base64 of zlib of a pickle of JSON text.

Such a pickle contains one text and nothing else. It is never unpickled: its opcodes are listed, and
an opcode that is not part of a pickled text is refused.
"""

import base64
import binascii
import json
import pickletools
import zlib

from rmas.errors import InputError

_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_AROUND = ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")
_MAX_STEPS = 16  # a pickled text has about half as many
MAX_BYTES = 512 << 20
"""Most bytes of the tests of one question, unpacked."""


def decode_tests(text: str, where: str, most: int = MAX_BYTES) -> list[dict[str, str]]:
    """The tests in a field, each with `input`, `output` and `testtype` (stdin or functional).

    Raises InputError, naming `where`, for another format and for more than `most` bytes.
    """
    if not text.strip():
        return []
    plain = text if text.lstrip()[:1] in ("[", "{") else _unpack(text, where, most)
    try:
        tests = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: the tests are not valid JSON ({str(error)[:80]})") from None
    if not isinstance(tests, list):
        raise InputError(f"{where}: the tests are not a list")
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
        return _text_in(data)
    except ValueError as error:  # also of incomplete and other streams
        raise InputError(f"{where}: the tests are not a pickled text ({error})") from None


def _text_in(data: bytes) -> str:
    """The text in a pickle of one text; ValueError for any other pickle."""
    found: list[str] = []
    for n, (step, argument, _) in enumerate(pickletools.genops(data)):
        if step.name in _TEXTS and not found:
            found.append(str(argument))
        elif step.name not in _AROUND or n > _MAX_STEPS:
            raise ValueError(f"it has the opcode {step.name}")
    if not found:
        raise ValueError("it has no text")
    return found[0]
