"""Processes that grade: dead and hanging ones cost their own answer alone."""

import subprocess
import sys
import threading

import pytest

from rmas.errors import InputError
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.rows import Row

# What a grader's process would do for these answers, if it were to meet something new.
TRAPS = """
import os, time
from rmas.tasks import grader_pool, grading, math_answers
import dataclasses
def score(text, row):
    if "hang" in text:
        time.sleep(600)
    if "die" in text:
        os._exit(3)
    if "eat" in text:
        return text, {"exact": float(len(bytearray(8 << 30)) > 0), "release_compatible": 0.0}
    if "raise" in text:
        raise RuntimeError("odd\\nthing")
    return math_answers.score_math(text, row)
task = dataclasses.replace(grading.GRADERS["math"], score=score)
grading.GRADERS["math"] = grader_pool.GRADERS["math"] = task
grader_pool.serve()
"""


@pytest.fixture
def trapped(monkeypatch):
    """GraderPool whose processes hang, die, and eat memory on demand."""
    popen = subprocess.Popen

    def start(command, **more):
        return popen([*command[:2], TRAPS], **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    with GraderPool(processes=2, seconds=1) as made:
        yield made


def test_every_answer_gets_its_grade(trapped):
    words = ["7", "hang 7", "7", "die 7", "raise 8", "7", "eat", "8", "die", "7"]
    texts = [f"\\boxed{{{word}}}" for word in words]
    grades = trapped.grade("math", texts, [Row("", "", "7")] * len(words))
    assert [grade.scores["exact"] for grade in grades] == [w == "7" for w in words]
    notes = [grade.note for grade in grades]
    assert notes[1] == "timeout"
    assert notes[3] == notes[8] == "crashed"
    assert notes[4].startswith("RuntimeError: odd")
    assert notes[6].startswith("MemoryError")
    assert [notes[n] for n in (0, 2, 5, 7, 9)] == [""] * 5
    assert grades[1].answer == "hang 7"
    # The release's own rule is quick, and is applied all the same.
    release = [grade.scores["release_compatible"] for grade in grades]
    assert release == [float("7" in w) for w in words]


def test_nothing_is_left_behind():
    with GraderPool(processes=2) as made:
        made.grade("math", [r"\boxed{1}"] * 4, [Row("", "", "1")] * 4)
        processes = [worker._process for worker in made._workers]
        assert 1 <= len(processes) <= 2 and all(p.poll() is None for p in processes)
    assert all(p.poll() is not None for p in processes)
    assert not [t for t in threading.enumerate() if t.name.startswith("graders")]


def test_puzzles_start_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    (grade,) = GraderPool().grade("relay", ["value 3"], [Row("", "", "3")])
    assert grade.scores["exact"] == 1


def test_as_many_texts_as_rows():
    with pytest.raises(ValueError, match="shorter"):
        GraderPool().grade("relay", ["value 3"], [])


def test_without_math_verify_the_error_says_so(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('gone')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with GraderPool() as made, pytest.raises(InputError, match="is math-verify installed"):
        made.grade("math", ["1"], [Row("", "", "1")])
