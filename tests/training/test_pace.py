"""When a run saves, stops and measures, and gradient accumulation."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import ROWS, loss, metrics, same_bits, train

from rmas.errors import InputError, Stopped
from rmas.training import loop
from rmas.training import optim as optimizers
from rmas.training.checkpoints import Checkpoints
from rmas.training.optim import Optim
from rmas.training.step import gradient_probe, init_train_state
from rmas.training.validation import ValidationData

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one go: its folder and links."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)[0]


@pytest.mark.parametrize(
    ("number", "step", "status"),
    [(signal.SIGTERM, 1, 143), (signal.SIGHUP, 4, 143), (signal.SIGINT, 4, 130)],
)
def test_a_signal_saves_and_ends(tmp_path, whole, number, step, status, capfd):
    """At the end of the step in which it comes, between two checkpoints."""

    def die(n):
        if n == step:
            os.kill(os.getpid(), number)

    before = [signal.getsignal(n) for n in ENDING]
    with pytest.raises(Stopped, match=f"stopped after step {step + 1} of 7, which is saved") as end:
        train(tmp_path, die)
    assert end.value.status == status
    told = "Ctrl-C: this step is finished and saved first; Ctrl-C again ends at once"
    assert (told in capfd.readouterr().err) == (number == signal.SIGINT)
    assert [signal.getsignal(n) for n in ENDING] == before
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == step + 1
    trained, asked = train(tmp_path, start=None)
    assert asked == list(range(step + 1, 7))
    same_bits(trained, whole[1])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_second_interrupt_ends_at_once(tmp_path):
    def die(n):
        if n == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, die)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 3


def test_handlers_of_others_stay(tmp_path, whole):
    """A SIGHUP that nohup ignores, and what a host program does with Ctrl-C."""
    seen = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    own = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        trained, asked = train(
            tmp_path, lambda n: [os.kill(os.getpid(), s) for s in (signal.SIGHUP, signal.SIGINT)]
        )
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGINT, own)
    assert asked == list(range(7)) and len(seen) == 7
    same_bits(trained, whole[1])


ON_A_TERMINAL = """
import fcntl, sys, termios
from pathlib import Path
fcntl.ioctl(0, termios.TIOCSCTTY)
from kill_program import main
from rmas.errors import Stopped
try:
    main(Path(sys.argv[1]), 100000)
except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.status)
"""


def test_a_closed_terminal_saves_and_ends(tmp_path):
    """Although every write to it, as of the progress bar, is an error from then on."""
    ours, theirs = pty.openpty()
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TERM": "xterm"}
    command = [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path)]
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, env=env, start_new_session=True, **ends) as process:
        os.close(theirs)
        shown, file, deadline = b"", tmp_path / "metrics.jsonl", time.monotonic() + 60
        while not file.is_file() or file.read_bytes().count(b"\n") < 20:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 1 << 16)
        os.close(ours)
        assert process.wait(60) == 143
    assert b"/100000" in shown
    last = json.loads(file.read_text().splitlines()[-1])["step"]
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == last


def test_checkpoints_by_time(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CLOCK_STEPS", 2)
    train(tmp_path, save_every=100, save_minutes=1e-9)
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert {"6", "7"} <= kept
    assert kept <= {"2", "4", "6", "7"}  # one of them is the best


def test_micro_batches_are_the_batch(tmp_path):
    def no_noise(links, frozen, batch, key):
        w, b = links["inner"]["a"]["w"], links["outer"]["b"]
        return jnp.mean((frozen * (batch * w[0] - batch**2 * w[1] + b) - 1) ** 2), {"off": w[0]}

    whole, _ = train(tmp_path / "a", loss=no_noise, batch_size=12)
    parts, _ = train(tmp_path / "b", loss=no_noise, batch_size=12, accumulate=3)
    for x, y in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6)
    for line, other in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=True):
        np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5)
    with pytest.raises(InputError, match="must be a multiple of accumulate, 5"):
        train(tmp_path / "c", batch_size=12, accumulate=5)


def validation_data(rows):
    return ValidationData(rows, lambda items: np.float32([int(row.id) for row in items]))


def test_validation_and_the_best_links(tmp_path, caplog):
    """Its rows are measured at each checkpoint; the best one's links are given on demand."""
    settings = {"validation_rows": 7, "save_every": 2, "optim": Optim(steps=7, lr=0.9, clip=9.0)}
    more = {"validation": validation_data(ROWS[:7])}
    last, _ = train(tmp_path / "a", more=more, **settings)
    best, _ = train(tmp_path / "a", more=more, select="best", **settings)
    lines = {line["step"]: line for line in metrics(tmp_path / "a")}
    found = {step: line["validation"] for step, line in lines.items() if "validation" in line}
    assert list(found) == [2, 4, 6, 7]
    rows = np.float32([int(row.id) for row in ROWS[:6]]).reshape(2, 3)  # whole batches of three
    wanted = np.mean([loss(last, jnp.float32(0.7), rows[n], jax.random.key(0))[0] for n in (0, 1)])
    np.testing.assert_allclose(found[7], wanted, rtol=1e-5)
    checkpoints = Checkpoints(tmp_path / "a" / "checkpoints")
    assert checkpoints.best_step() == min(found, key=found.get)
    at = checkpoints.best_step()
    assert at < 7
    saved = checkpoints.restore(init_train_state(last, optimizers.make(settings["optim"])), at)[
        1
    ].links
    same_bits(best, saved)
    with pytest.raises(AssertionError):
        same_bits(best, last)
    # A best checkpoint that cannot be read costs a warning.
    for file in (tmp_path / "a" / "checkpoints" / str(at)).rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(b"")
    again, _ = train(tmp_path / "a", more=more, select="best", **settings)
    same_bits(again, last)
    assert f"the best checkpoint, of step {at}, cannot be read" in caplog.text
    with pytest.raises(InputError, match="there are 2 validation rows, but a batch needs 3"):
        train(tmp_path / "b", more={"validation": validation_data(ROWS[:2])}, validation_rows=7)


def test_gradient_norms_by_round():
    """A probe measures how large the gradient was where it stands, and changes nothing."""

    def twice(w, squares):
        return jnp.sum(gradient_probe(w, squares[0]) * 3.0) + jnp.sum(
            gradient_probe(w, squares[1]) ** 2
        )

    w = jnp.float32([1.0, -2.0])
    grad, squares = jax.grad(twice, argnums=(0, 1))(w, jnp.zeros(2))
    np.testing.assert_allclose(grad, 3 + 2 * w)
    np.testing.assert_allclose(squares, [2 * 9.0, 4.0 + 16.0])


def test_a_trace_of_two_steps(tmp_path):
    train(tmp_path, profile_steps=(2, 4))
    found = [p.name for p in (tmp_path / "profile").rglob("*") if p.is_file()]
    assert any(name.endswith(".xplane.pb") for name in found)
    assert "perfetto_trace.json.gz" in found
    with pytest.raises(InputError, match=r"profile_steps is \(4, 2\)"):
        train(tmp_path / "b", profile_steps=(4, 2))
