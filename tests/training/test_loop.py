"""Training: the optimizer by its formula, kills without a trace, weights left as they were."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.tasks.pipeline import batches
from rmas.tasks.rows import Row
from rmas.training import optim
from rmas.training.checkpoints import Checkpoints
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.optim import Optim
from rmas.training.outer import train_outer
from support.tiny_training import PAIR, Case, make_examples, make_rows

ROWS = [Row(str(n), "", "") for n in range(7)]
START = {"inner": {"a": {"w": np.float32([1.0, -2.0])}}, "outer": {"b": np.float32(0.5)}}
OPTIM = Optim(steps=7, lr=0.1, warmup_steps=2, clip=0.5)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# The loop, on a task that compiles at once.


def loss(links, frozen, batch, key):
    noise = jax.random.normal(key, batch.shape)
    w, b = links["inner"]["a"]["w"], links["outer"]["b"]
    off = frozen * (batch * w[0] + noise * w[1] + b) - 1
    return jnp.mean(off**2), {"off": off[0]}


def train(
    folder, die=lambda step: None, start=START, loss=loss, more=None, template=START, **changes
):
    asked = []

    def prepare(rows, step):
        die(step)
        asked.append(step)
        return np.float32([int(row.id) + step for row in rows])

    def links():
        assert start is not None, "initial links are made again"
        return jax.tree.map(jnp.asarray, start)

    settings = {"optim": OPTIM, "batch_size": 3, "save_every": 3} | changes
    task = TrainingTask(
        label="test",
        loss=loss,
        links=links,
        template=template,
        frozen=jnp.float32(0.7),
        source=ROWS,
        prepare=prepare,
        count_tokens=len,
        seed=5,
        **more or {},
    )
    trained = fit(task, Schedule(**settings), Path(folder))
    return trained, asked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one go: its folder and links."""
    folder = tmp_path_factory.mktemp("whole")
    trained, asked = train(folder)
    assert asked == list(range(7))
    return folder, trained


def test_a_run_in_one_go(whole):
    folder, trained = whole
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    norms = {"grad_norm", "grad_norm/inner/a", "grad_norm/outer/b"}
    names = {"step", "loss", "off", "learning_rate", *norms}
    assert all(set(line) == names for line in lines)
    took = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    assert [line["step"] for line in took] == [1, 2, 3, 4, 5, 6, 7]
    assert all(line["seconds"] > 0 and line["peak_bytes"] > 0 for line in took)
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (trained, START)), strict=True))
    assert Checkpoints(folder / "checkpoints").latest_step() == 7


def test_the_links_at_the_start_are_left_alone(tmp_path, whole):
    """Steps delete the state that they are given, but never arrays of the caller."""
    start = jax.device_put(START, jax.devices()[0])
    links, _ = train(tmp_path, start=start)
    same_bits(links, whole[1])
    same_bits(start, jax.tree.map(jnp.asarray, START))


@pytest.mark.parametrize("step", [0, 4, 6])
def test_interrupted_and_run_again(tmp_path, whole, step):
    """Saved after steps 3, 6 and 7; from there on nothing differs in a bit."""

    def die(n):
        if n == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, die)
    saved = step // 3 * 3
    trained, asked = train(tmp_path, start=None if saved else START)
    assert asked == list(range(saved, 7))
    same_bits(trained, whole[1])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_killed_and_run_again(tmp_path, whole):
    code = "import sys, test_loop; test_loop.train_and_die(sys.argv[1])"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), *sys.path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, timeout=120)
    assert done.returncode == -signal.SIGKILL
    trained, asked = train(tmp_path)
    assert asked[0] in (0, 3)  # the kill may come before the checkpoint is on disk
    same_bits(trained, whole[1])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def train_and_die(folder):
    """In a process of its own."""
    train(folder, lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == 4 else None)


def test_a_finished_run_returns_at_once(tmp_path, whole):
    shutil.copytree(whole[0], tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    trained, asked = train(tmp_path / "run", start=None)
    assert asked == []
    same_bits(trained, whole[1])
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_the_first_line_is_about_the_initial_links(tmp_path):
    """And with warm-up the first update changes nothing."""
    traced = []

    def seen(links, frozen, batch, key):
        traced.append(batch.shape)
        return loss(links, frozen, batch, key)

    trained, _ = train(tmp_path, loss=seen, optim=Optim(steps=1), save_every=1)
    same_bits(trained, jax.tree.map(jnp.asarray, START))
    (line,) = metrics(tmp_path)
    assert line == first_line()
    assert traced == [(3,)]


def first_line():
    """By hand: the first batch of the stream, the key of step 0, and the plain loss."""
    rows = next(iter(batches(ROWS, seed=5, batch_size=3)))
    batch, key = np.float32([int(r.id) for r in rows]), jax.random.key(5)
    key = jax.random.fold_in(key, 0)
    links = jax.tree.map(jnp.asarray, START)
    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, parts), grads = grad(links, jnp.float32(0.7), batch, key)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    return {
        "step": 1,
        "loss": pytest.approx(float(value), rel=1e-6),
        "grad_norm": pytest.approx(float(norm), rel=1e-6),
        "grad_norm/inner/a": pytest.approx(np.linalg.norm(grads["inner"]["a"]["w"]), rel=1e-6),
        "grad_norm/outer/b": pytest.approx(abs(float(grads["outer"]["b"])), rel=1e-6),
        "learning_rate": 0.0,
        "off": pytest.approx(float(parts["off"]), rel=1e-6),
    }


def test_one_trace_for_all_batches_fresh_or_resumed(tmp_path):
    traced = []

    def seen(links, frozen, batch, key):
        traced.append(batch.shape)
        return loss(links, frozen, batch, key)

    def die(n):
        if n == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, die, loss=seen)
    assert len(traced) == 1
    train(tmp_path, loss=seen)
    assert len(traced) == 2


def test_links_of_another_shape_are_refused(tmp_path, whole):
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "checkpoints")
    other = START | {"outer": {"b": np.zeros(3, np.float32)}}
    with pytest.raises(InputError, match=r"outer.*b"):
        train(tmp_path, start=other, template=other)


# The optimizer.


def updates(settings, grads, shape=(2,)):
    """What the optimizer does to a parameter of two numbers, from [1, -1] on."""
    optimizer = optim.make(settings)
    x = jnp.float32([1.0, -1.0]).reshape(shape)
    state, out = optimizer.init(x), []
    update = jax.jit(optimizer.update)
    for g in grads:
        u, state = update(jnp.float32(g).reshape(shape), state, x)
        x = x + u
        out.append(np.asarray(u).ravel())
    return np.array(out)


@pytest.mark.parametrize(("shape", "decay"), [((2, 1), 0.1), ((2,), 0.0)])
def test_adamw_by_its_formula(shape, decay):
    """Matrices decay; biases and scales of norms do not."""
    settings = Optim(steps=9, lr=0.02, warmup_steps=3, b1=0.8, b2=0.9, weight_decay=0.1, clip=1.0)
    grads = np.random.default_rng(0).standard_normal((9, 2)) * 10.0 ** np.arange(-4, 5)[:, None]
    x, mu, nu, wanted = np.array([1.0, -1.0]), 0.0, 0.0, []
    for t, g in enumerate(grads):
        g = g * min(1.0, 1.0 / np.linalg.norm(g))
        mu, nu = 0.8 * mu + 0.2 * g, 0.9 * nu + 0.1 * g**2
        step = mu / (1 - 0.8 ** (t + 1)) / (np.sqrt(nu / (1 - 0.9 ** (t + 1))) + 1e-8)
        lr = 0.02 * t / 3 if t < 3 else 0.02 * (1 + np.cos(np.pi * (t - 3) / 6)) / 2
        wanted.append(-lr * (step + decay * x))
        x = x + wanted[-1]
    found = updates(settings, grads, shape)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-9)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    """With one gradient for ever, an update is the learning rate."""
    lrs = -updates(Optim(steps=110, lr=0.5), np.ones((111, 2)))[:, 0]
    assert lrs[0] == 0
    np.testing.assert_allclose(lrs[[5, 10, 60]], [0.25, 0.5, 0.25], rtol=1e-4)
    np.testing.assert_allclose(lrs[110], 0, atol=1e-6)
    assert np.all(np.diff(lrs[:11]) > 0)
    assert np.all(np.diff(lrs[10:]) < 0)


def test_without_warm_up_the_first_update_counts():
    lrs = -updates(Optim(steps=4, lr=0.5, warmup_steps=0), np.ones((3, 2)))[:, 0]
    np.testing.assert_allclose(lrs[[0, 2]], [0.5, 0.25], rtol=1e-4)
    # A run shorter than its warm-up only warms up.
    short = -updates(Optim(steps=2, lr=0.5, warmup_steps=10), np.ones((2, 2)))[:, 0]
    np.testing.assert_allclose(short, [0, 0.05], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        Optim(**change)


# Inner and outer training of a tiny system.


def with_fewer_steps(folder, target, last):
    """A copy of a run as it was before its last checkpoint."""
    shutil.copytree(folder, target)
    shutil.rmtree(target / "checkpoints" / str(last))


def test_outer_training_leaves_all_else_as_it_was(tmp_path):
    case = Case(make_examples(PAIR, np.float32, rounds=1, latent_steps=2), on_policy=0.5)
    frozen = jax.tree.map(lambda x: np.array(x), (case.params, case.links))
    steps = 3

    def run(folder, start):
        return train_outer(
            (("align", 1.0),),
            folder=folder,
            context=case.context,
            params=case.params,
            fixed={"inner": case.links["inner"]},
            links=start,
            examples=case.examples,
            source=make_rows(4),
            schedule=Schedule(Optim(steps=steps, lr=1e-2, warmup_steps=0), 2, 2),
            seed=1,
        )

    trained = run(tmp_path / "a", lambda: {"outer": case.links["outer"]})
    same_bits((case.params, case.links), frozen)
    assert list(trained) == ["inner", "outer"]
    same_bits(trained["inner"], frozen[1]["inner"])
    # Without feedback in one round, one edge alone is heard; all take part in the loss.
    moved = {
        name: any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, pair), strict=True))
        for name in trained["outer"]
        for pair in [(trained["outer"][name], frozen[1]["outer"][name])]
    }
    assert moved == {
        "critic->critic": True,
        "critic->solver": True,
        "solver->solver": False,
        "solver->critic": False,
    }
    # The checkpoint holds what was trained, the optimizer's two moments of it, and counts.
    info = Checkpoints(tmp_path / "a" / "checkpoints")._info(3)
    saved = [tuple(leaf["shape"]) for leaf in info["leaves"].values()]
    shapes = [leaf.shape for leaf in jax.tree.leaves(case.links["outer"])]
    assert sorted(s for s in saved if s) == sorted(3 * shapes)
    assert len(saved) - 3 * len(shapes) <= 3
    # Killed after the second step: the rest is the same, and the start is not made again.
    with_fewer_steps(tmp_path / "a", tmp_path / "b", 3)
    same_bits(run(tmp_path / "b", lambda: pytest.fail("made again")), trained)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    names = {name for name in metrics(tmp_path / "a")[0] if not name.startswith("grad_norm/")}
    measured = {"align", "align/round_1", "cosine/critic", "learning_rate"}
    assert names == {"step", "loss", "grad_norm", *measured}


def test_inner_training_moves_one_link(tmp_path):
    case = Case(make_examples(PAIR, np.float32))
    params = case.params["solver"]
    frozen = jax.tree.map(lambda x: np.array(x), (params, case.links))

    def run(folder):
        return train_inner(
            "solver",
            folder=folder,
            context=case.context,
            params=params,
            links=case.links,
            examples=case.examples,
            source=make_rows(4),
            schedule=Schedule(Optim(steps=6, lr=1e-2, warmup_steps=1), 4, 4),
            seed=1,
        )

    trained = run(tmp_path / "a")
    same_bits((params, case.links), frozen)
    before, after = frozen[1]["inner"]["solver"], trained
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        assert np.any(x != y)
    lines = metrics(tmp_path / "a")
    assert lines[-1]["loss"] < lines[0]["loss"]
    with_fewer_steps(tmp_path / "a", tmp_path / "b", 6)
    same_bits(run(tmp_path / "b"), trained)
    assert metrics(tmp_path / "b") == lines
