"""What an evaluation compiles: each program once, and no single operation as a program."""

import collections
import json
import os
import subprocess
import sys

import pytest

from support.commands import ROOT

PROGRAM = """
import collections, json, sys
import jax
import rmas
from rmas.experiment.links import write_links
from support.experiments import experiment

rmas.start(sys.argv[1])
run = experiment(
    sys.argv[2],
    num_questions=5,
    limits__latent_steps=2,
    limits__max_new_tokens=8,
    limits__message_tokens=8,
    evaluate__methods=("latent", "text", "untrained"),
    evaluate__rounds=(1, 2),
    evaluate__batch_size=4,
)
write_links(run.workdir / "outer" / "links", run.initial_links(), run.manifest())
compiled, counts = collections.Counter(), collections.Counter()
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **more: compiled.update(
        [more["fun_name"]] if name == "/jax/core/compile/backend_compile_duration" else []
    )
)
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name]))
run.evaluate()
hits, misses = (counts[f"/jax/compilation_cache/cache_{name}"] for name in ("hits", "misses"))
print(json.dumps({"compiled": compiled, "hits": hits, "misses": misses}))
"""


def evaluate(cache, workdir) -> dict:
    """The programs of a small evaluation in a process of its own, and hits of the compile cache."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(cache), str(workdir)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_each_program_is_compiled_once(tmp_path):
    """Two compilations of one program would find each other in a cache that starts empty."""
    first = evaluate(tmp_path / "cache", tmp_path / "one")
    compiled = collections.Counter(first["compiled"])
    assert first["hits"] == 0
    assert first["misses"] == compiled.total()
    assert compiled["jit(think)"] == 2  # one for each number of rounds, trained or not
    # None is a single operation, as NumPy calls and shapes of small arrays easily become.
    assert compiled.keys() <= {
        *("jit(think)", "jit(read)", "jit(chunk)", "jit(widen)", "jit(admit)", "jit(_read_one)"),
        *("jit(_read_rows)", "jit(init_links)"),
    }
    assert evaluate(tmp_path / "cache", tmp_path / "two") == {
        "compiled": first["compiled"],
        "hits": compiled.total(),
        "misses": 0,
    }
