"""Checkpoints in trouble: damage, full disks, kills; and what they leave of the process."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from absl import logging as absl_logging
from test_checkpoints import make_state, same_bits, steps_in

from rmas.errors import InputError
from rmas.training import orbax_errors
from rmas.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]


def biggest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(folder: Path) -> None:
    file = biggest(folder / "state")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def truncate_arrays(folder: Path) -> None:
    for file in folder.joinpath("state").rglob("*"):
        if file.is_file() and "/d/" in str(file):
            os.truncate(file, file.stat().st_size // 2)


def truncate_info(folder: Path) -> None:
    os.truncate(biggest(folder / "info"), 20)


def empty_manifest(folder: Path) -> None:
    os.truncate(folder / "state" / "manifest.ocdbt", 0)


def damage_score(folder: Path) -> None:
    (folder / "metrics" / "metrics").write_bytes(b"\xff{")


def score_in_words(folder: Path) -> None:
    (folder / "metrics" / "metrics").write_text('{"score": "low"}')


def nest_metadata(folder: Path) -> None:
    (folder / "_CHECKPOINT_METADATA").write_text("[" * 100_000)


def unmark(folder: Path) -> None:
    (folder / "commit_success.txt").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(flip_a_bit, truncate_arrays, truncate_info, empty_manifest),
        *(damage_score, score_in_words, nest_metadata, unmark),
    ],
)
def test_damaged_latest_falls_back(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path)
    state = {"w": jax.random.normal(jax.random.key(0), (64, 64)), "step": jnp.int32(1)}
    checkpoints.save(1, state, None, {"step": 1})
    checkpoints.save(2, jax.tree.map(lambda x: x + 1, state), None, {"step": 2})
    checkpoints.close()
    damage(tmp_path / "2")
    checkpoints = Checkpoints(tmp_path)
    step, restored, _, meta = checkpoints.restore(state)
    assert (step, meta) == (1, {"step": 1})
    same_bits(state, restored)
    assert "step 2 cannot be read" in caplog.text
    assert "step 1 is used" in caplog.text
    # The resumed run can save the same step again, and the damaged one is still there to see.
    checkpoints.save(2, state, None, {"step": "again"})
    assert checkpoints.restore(state)[3] == {"step": "again"}
    assert (tmp_path / "damaged-2").is_dir()


def test_damage_without_a_list_of_files_prints_no_other_traces(tmp_path, caplog):
    """As after a kill. Reads that end after the failed one find Orbax's event loop closed."""
    state = {f"w{i}": jax.random.normal(jax.random.key(i), (64, 64)) for i in range(40)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, None, {})
    (tmp_path / "files-2.json").unlink()
    for file in tmp_path.joinpath("2", "state").rglob("*"):
        if file.is_file() and "/d/" in str(file):
            data = bytearray(file.read_bytes())
            at = len(data) // 3
            data[at : at + 500] = bytes(500)
            file.write_bytes(bytes(data))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state)[0] == 1
    assert "step 2 cannot be read" in caplog.text


def test_only_the_error_of_closed_loops_is_ignored_while_reading(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))
    before = sys.unraisablehook

    class Fails:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    closed, other = RuntimeError("Event loop is closed"), RuntimeError("else")
    with pytest.raises(ValueError, match="a read"), orbax_errors.reading():
        for error in (closed, other):
            Fails(error)
        raise ValueError("a read")
    assert sys.unraisablehook is before
    Fails(closed)
    assert seen == [other, closed]


def global_state() -> dict:
    """What of the process a library must leave as it was."""
    loggers = {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    settings = {
        name: (logger.level, [*logger.handlers], [*logger.filters], logger.propagate)
        for name, logger in [("", logging.root), *loggers.items()]
    }
    handlers = [logging.lastResort, *(h for _, own, _, _ in settings.values() for h in own)]
    return {
        # A logger that nobody has set is as good as none.
        "loggers": {n: s for n, s in settings.items() if s != (logging.NOTSET, [], [], True)},
        "handlers": [(handler.level, [*handler.filters]) for handler in handlers],
        "disabled": logging.root.manager.disable,
        "absl": absl_logging.get_verbosity(),
        "warnings": [*warnings.filters],
        "showwarning": warnings.showwarning,
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
    }


def test_the_process_is_left_as_it_was(tmp_path):
    """By saves, reads of whole and damaged steps, and closing; also while a save is written."""
    before = global_state()
    checkpoints = Checkpoints(tmp_path)
    assert global_state() == before
    checkpoints.save(1, make_state(), None, {})
    assert global_state() == before
    checkpoints.save(2, make_state(), None, {})
    checkpoints.restore(make_state())
    assert global_state() == before
    checkpoints.close()
    assert global_state() == before
    (tmp_path / "files-2.json").unlink()
    truncate_arrays(tmp_path / "2")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 1
    assert global_state() == before


def test_damaged_scores_of_all_steps_are_one_clear_line(tmp_path):
    """And nothing is renamed: a training must not begin anew in silence."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": jnp.ones(3)}, None, {})
    before = steps_in(tmp_path)
    for step in (1, 2):
        damage_score(tmp_path / str(step))
    with pytest.raises(InputError, match=r"can be read \(tried steps 2, 1\)"):
        Checkpoints(tmp_path)
    assert steps_in(tmp_path) == before


def test_a_newest_step_that_is_gone_is_told(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": jnp.ones(3)}, None, {})
    shutil.rmtree(tmp_path / "2")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
    assert f"checkpoint step 2 is gone from {tmp_path}" in caplog.text


def test_what_is_saved_is_what_was_given(tmp_path):
    """Facts are written while the caller goes on, and changes its own."""
    facts, state = {"losses": [1.0]}, {"w": jnp.ones(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, facts)
        facts["losses"].append(2.0)
        assert checkpoints.restore(state)[3] == {"losses": [1.0]}


def test_all_damaged_is_one_clear_line(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"w": jnp.ones((64, 64))}
    for step in (1, 2):
        checkpoints.save(step, state, None, {})
        checkpoints.wait()
        truncate_arrays(tmp_path / str(step))
    with pytest.raises(InputError, match=r"can be read \(tried steps 2, 1\)") as error:
        checkpoints.restore(state)
    assert "\n" not in str(error.value)


FULL_DISK = """
import pathlib, sys
import jax.numpy as jnp
import numpy as np
from absl import logging as absl_logging
from rmas.errors import InputError
from rmas.training.checkpoints import Checkpoints
from rmas.training.orbax_errors import should_print
absl_logging.use_absl_handler()
absl_logging.get_absl_handler().addFilter(should_print)
folder = pathlib.Path(sys.argv[1])
state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(256, 256)), jnp.float32)}
checkpoints = Checkpoints(folder / "run")
checkpoints.save(1, state, None, {"step": 1})
checkpoints.wait()
fill = folder / "fill"
with open(fill, "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass
try:
    checkpoints.save(2, state, None, {"step": 2})
    checkpoints.wait()
except InputError as error:
    print("error:", error)
fill.unlink()
step, found, _, meta = Checkpoints(folder / "run").restore(state)
print("restored", step, meta, bool((found["w"] == state["w"]).all()))
"""


def on_a_small_disk(program: str, folder: Path) -> tuple[list[str], str]:
    """What a program prints, and its errors, with a folder on a file system of only 2 MB."""
    mount = f'mount -t tmpfs -o size=2m none {folder} && exec $0 -c "$1" {folder}'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    try:
        probe = f"mount -t tmpfs none {folder}"
        can = subprocess.run([*command[:-1], probe], capture_output=True).returncode == 0
    except OSError:
        can = False
    if not can:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        [*command, sys.executable, program],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    print(done.stderr)
    return done.stdout.splitlines(), done.stderr


def test_a_full_disk_is_reported_and_leaves_the_checkpoint_before(tmp_path):
    """In one line: a command's handler drops the stack traces of the writing threads."""
    (error, restored), printed = on_a_small_disk(FULL_DISK, tmp_path)
    assert error.startswith("error: a checkpoint in ")
    assert "cannot be written: the disk is full; free some space and run the same command" in error
    assert printed == ""
    assert restored == "restored 1 {'step': 1} True"


FULL_METRICS = """
import pathlib, sys
from rmas.errors import InputError
from rmas.training.metrics import MetricsWriter
folder = pathlib.Path(sys.argv[1])
fill = open(folder / "fill", "wb", buffering=0)
step = 0
try:
    with MetricsWriter(folder / "run") as writer:
        while True:
            step += 1
            writer.write_times(step, {f"n{i}": i for i in range(30)})
            writer.write(step, {f"n{i}": i for i in range(30)})
            if step == 20:
                try:
                    while True:
                        fill.write(b"x" * 512)
                except OSError:
                    pass
except InputError as error:
    print("error:", error)
fill.close()
(folder / "fill").unlink()
with MetricsWriter(folder / "run", last_step=20) as writer:
    writer.write(21, {"n0": 0})
print((folder / "run" / "metrics.jsonl").read_text().count("\\n"))
"""


def test_metrics_report_a_full_disk(tmp_path):
    """At once, with TensorBoard's file as with ours; later lines follow whole ones."""
    (error, lines), _ = on_a_small_disk(FULL_METRICS, tmp_path)
    assert error.startswith("error: metrics cannot be written in ")
    assert "No space left on device; make room" in error
    assert lines == "21"


SAVER = """
import sys
import jax.numpy as jnp
from rmas.training.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
state = {"w": jnp.zeros((256, 256)), "step": jnp.int32(0)}
start = 0
if checkpoints.latest_step() is not None:
    start, state, _, meta = checkpoints.restore(state)
    assert meta == {"step": start}, meta
    assert int(state["step"]) == start and bool((state["w"] == start).all())
for step in range(start + 1, 100000):
    state = {"w": state["w"] + 1, "step": state["step"] + 1}
    checkpoints.save(step, state, {"next": step}, {"step": step})
    print(step, flush=True)
"""


def test_sigkill_at_random_moments_keeps_a_whole_checkpoint(tmp_path):
    """Each life must find the last step that the life before saw saved, or a later one."""
    moments = random.Random(0)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SAVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        ) as process:
            seen = [int(process.stdout.readline() or -1)]
            time.sleep(moments.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
            out, errors = process.communicate(timeout=60)
        assert seen != [-1], errors
        assert errors == ""
        seen += [int(line) for line in out.splitlines()]
        checkpoints = Checkpoints(tmp_path)
        template = {"w": jnp.zeros((256, 256)), "step": jnp.int32(0)}
        step, state, data, meta = checkpoints.restore(template)
        assert seen[-1] - 1 <= step <= seen[-1] + 1  # saved while the next one is made
        assert (int(state["step"]), data, meta) == (step, {"next": step}, {"step": step})
        assert bool((state["w"] == step).all())
        # The next save leaves nothing half-made or half-deleted.
        following = {"w": state["w"] + 1, "step": state["step"] + 1}
        checkpoints.save(step + 1, following, {"next": step + 1}, {"step": step + 1})
        checkpoints.close()
        assert str(step + 1) in steps_in(tmp_path, killed=True)
