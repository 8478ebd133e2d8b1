"""What a command imports before it does anything."""

import json
import subprocess
import sys

import pytest

from support.commands import ROOT

SLOW = {
    *("grain", "orbax", "tensorstore", "matplotlib", "transformers", "tokenizers", "sympy"),
    *("scipy", "pandas", "pyarrow", "tensorboardX", "tensorflow", "torch", "huggingface_hub"),
}
"""Packages that only some stages need; each takes some tenths of a second, or seconds."""


def imported(code: str) -> set[str]:
    """The top packages that a new interpreter has imported after some code."""
    code += "\nimport json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["experiments.evaluate", "experiments.ask"])
def test_evaluations_do_not_import_what_others_need(module):
    found = imported(f"import {module}")
    assert {"jax", "flax"} <= found
    assert found & SLOW == set()


def test_the_front_door_imports_nothing():
    assert imported("import rmas") & {"jax", "numpy", *SLOW} == set()


def test_batches_import_what_makes_them():
    code = "from rmas.tasks.pipeline import batches; batches([1], seed=0, batch_size=1)"
    assert "grain" in imported(code)


def test_garbage_is_collected_again_once_a_command_runs():
    code = """
import gc, sys
sys.argv = ["-m"]
from experiments import app
assert not gc.isenabled()
sys.argv = ["command"]
try:
    app.run(lambda argv: print(gc.isenabled(), gc.get_freeze_count() > 1000))
except SystemExit:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True True\n"
