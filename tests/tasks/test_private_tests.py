"""LiveCodeBench's packed tests: the real form is read, nothing in one is ever executed."""

import base64
import json
import os
import pickle
import zlib

import pytest

from rmas.errors import InputError
from rmas.tasks.private_tests import decode_tests
from support.make_samples import LIVECODEBENCH

TESTS = [{"input": "1", "output": "2", "testtype": "stdin"}]


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def test_both_forms():
    assert decode_tests(json.dumps(TESTS), "x") == TESTS
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert decode_tests(packed(pickle.dumps(json.dumps(TESTS), protocol)), "x") == TESTS
    found = decode_tests(LIVECODEBENCH[0]["private_test_cases"], "x")
    assert [test["output"] for test in found] == ["11\n", "0\n"]
    assert decode_tests("", "x") == []


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    path = tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(Payload(path), protocol)
        with pytest.raises(InputError, match=r"^q, private: .*not a pickled text .* opcode"):
            decode_tests(packed(data), "q, private")
        # The same beside the text that is wanted.
        with pytest.raises(InputError, match="has the opcode"):
            decode_tests(packed(pickle.dumps([json.dumps(TESTS), Payload(path)], protocol)), "q")
    assert not path.exists()
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()  # so it would have


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no base64!", "neither JSON nor base64"),
        (base64.b64encode(b"plain").decode(), "neither JSON nor base64"),
        (packed(b"\x80\x04X"), "not a pickled text"),
        (packed(pickle.dumps(json.dumps(TESTS))[:-9]), "not a pickled text"),
        (packed(pickle.dumps(7)), "has the opcode BININT1"),
        (packed(pickle.dumps({"a": 1})), "has the opcode EMPTY_DICT"),
        (packed(b"Pno such thing\n."), "has the opcode PERSID"),
        (packed(b"\x80\x04" + b"]" * 1000), "has the opcode EMPTY_LIST"),
        (packed(b"\x80\x04" + b"\x94" * (8 << 20) + b"."), "has the opcode MEMOIZE"),
        (packed(b"\x80\x04."), "it has no text"),
        (packed(pickle.dumps("not json")), "not valid JSON"),
        ("[1]", "test 0 lacks a text"),
        ('{"a": 1}', "the tests are not a list"),
        ('[{"input": "1", "output": 2, "testtype": "stdin"}]', "test 0 lacks a text"),
        ('[{"input": "1", "output": "2", "testtype": "x"}]', "known: stdin, functional"),
        ("[" * 100_000, "not valid JSON"),
    ],
)  # fmt: skip
def test_refused_in_one_line(text, message):
    with pytest.raises(InputError) as error:
        decode_tests(text, "row 3")
    assert str(error.value).startswith("row 3: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bomb_is_refused_at_its_limit():
    with pytest.raises(InputError, match="larger than 1 MiB"):
        decode_tests(packed(b"0" * (64 << 20)), "row 3", most=1 << 20)
