import os
import subprocess
import sys

import pytest

from rmas.tasks import puzzle
from rmas.tasks.grading import TASKS, exact_match
from rmas.tasks.relay import RELAY


@pytest.mark.parametrize(
    ("answer", "gold", "score"), [("3", "3", 1.0), ("3", "13", 0.0), (None, "3", 0.0)]
)
def test_exact_match(answer, gold, score):
    assert exact_match(answer, gold) == {"exact": score, "release_compatible": score}


def test_relay_grades_its_own_teacher_texts():
    for row in RELAY.make_rows(50, seed=2):
        answer, scores = TASKS["relay"].grade(row.text("solver", 2), row.answer)
        assert (answer, scores["exact"]) == (row.answer, 1.0)
        assert TASKS["relay"].grade("no number", row.answer) == (
            None,
            exact_match(None, row.answer),
        )
        first, scores = TASKS["relay"].grade(row.text("solver", 0), row.answer)
        assert scores["exact"] == float(first == row.answer)
        assert first == str(puzzle.value_after(row, 1))


def test_grading_imports_no_input_pipeline():
    code = (
        "import sys, rmas.tasks.grading; print({'grain', 'tensorflow_datasets'} & {*sys.modules})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
