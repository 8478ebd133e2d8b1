"""Round trips, mismatches, damage, and kills in the middle of a save."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmas.errors import InputError
from rmas.training import checkpoints as module
from rmas.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]


def make_state(seed: int = 0) -> dict:
    key = jax.random.key(seed)
    links = {
        "inner": {"planner": {"w": jax.random.normal(key, (3, 5))}},
        "outer": {"planner->critic": {"w": jnp.array([1e-45, -0.0, jnp.inf, jnp.nan])}},
    }
    return {
        "links": links,
        "opt": optax.adamw(1e-3).init(links),
        "step": jnp.int32(7),
        "done": jnp.array(True),
        "mask": jnp.array([True, False]),
        "scale": jnp.float32(0.1),
    }


def steps_in(folder: Path, killed: bool = False) -> list[str]:
    """The steps of a closed folder, each with the list of its files, and nothing else.

    A step that was the newest when its process was killed has no list.
    """
    names = sorted(path.name for path in folder.iterdir())
    steps = [name for name in names if name.isdigit()]
    lists = {f"files-{step}.json" for step in steps}
    found = set(names) - set(steps)
    assert found <= lists if killed else found == lists
    return steps


def same_bits(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(y, jax.Array)
        assert (x.dtype, x.shape, x.sharding) == (y.dtype, y.shape, y.sharding)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_round_trip_is_bit_exact(tmp_path):
    state = make_state()
    data, meta = {"next_index": 12, "inner": {"a": [1, 2]}}, {"base": "tiny", "lr": 0.1}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, state, data, meta)
    checkpoints.close()
    # Another manager, and a template with other values.
    step, restored, data_back, meta_back = Checkpoints(tmp_path).restore(make_state(1))
    assert (step, data_back, meta_back) == (7, data, meta)
    same_bits(state, restored)


@pytest.mark.parametrize("data", [b"\x00\xffgrain", {}, None])
def test_data_state_keeps_its_kind(tmp_path, data):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(), data, {})
    assert checkpoints.restore(make_state())[2] == data


def test_restored_and_fresh_state_enter_one_executable(tmp_path):
    # Restored arrays are committed to their sharding: put the fresh ones there explicitly, too.
    fresh = jax.device_put(make_state(), jax.devices()[0])
    traces = 0

    @jax.jit
    def step(state):
        nonlocal traces
        traces += 1
        return jax.tree.map(lambda x: x, state)

    first = step(fresh)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, first, None, {})
    step(checkpoints.restore(fresh)[1])
    assert traces == 1
    assert step._cache_size() == 1


def test_template_may_be_shapes_alone(tmp_path):
    state = make_state()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, None, {})
    same_bits(state, checkpoints.restore(jax.eval_shape(lambda: state))[1])


def test_newest_steps_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest_step() is None
    with pytest.raises(InputError, match="no checkpoint in"):
        checkpoints.restore(make_state())
    for step in (1, 2, 30):
        checkpoints.save(step, make_state(step), None, {"step": step})
    assert checkpoints.latest_step() == 30
    checkpoints.wait()
    assert steps_in(tmp_path) == ["2", "30"]
    with pytest.raises(ValueError, match="step 30 is not newer"):
        checkpoints.save(30, make_state(), None, {})


def test_the_best_step_stays_too(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, score in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 1.5)):
        checkpoints.save(step, make_state(step), None, {"step": step}, score)
    assert checkpoints.best_step() == 2
    assert steps_in(tmp_path) == ["2", "4"]
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.best_step() == 2
    assert checkpoints.restore(make_state(), checkpoints.best_step())[3] == {"step": 2}
    assert checkpoints.restore(make_state())[3] == {"step": 4}


@pytest.mark.parametrize("where", ["saved", "restored"])
def test_parts_of_several_processes_have_no_checksum(tmp_path, monkeypatch, where):
    """Saved by many and restored by one, or the other way round."""
    described = module._describe

    def without(leaf):
        return described(leaf) | {"crc32": None}

    checkpoints, state = Checkpoints(tmp_path), make_state()
    with monkeypatch.context() as patch:
        if where == "saved":
            patch.setattr(module, "_describe", without)
        checkpoints.save(1, state, None, {})
        checkpoints.wait()
    if where == "restored":
        monkeypatch.setattr(module, "_describe", without)
    same_bits(state, checkpoints.restore(make_state(1))[1])


def change(state: dict, kind: str) -> dict:
    if kind == "dtype":
        state["links"]["inner"]["planner"]["w"] = jnp.zeros((3, 5), jnp.bfloat16)
    elif kind == "shape":
        state["links"]["inner"]["planner"]["w"] = jnp.zeros((5, 3))
    elif kind == "missing":
        state["links"]["inner"]["critic"] = {"w": jnp.zeros(2)}
    else:
        del state["links"]["inner"]
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dtype", r"links/inner/planner/w is float32\[3, 5\], wanted bfloat16\[3, 5\]"),
        ("shape", r"links/inner/planner/w is float32\[3, 5\], wanted float32\[5, 3\]"),
        ("missing", "has no links/inner/critic/w"),
        ("extra", "has links/inner/planner/w, which this config does not train"),
    ],
)
def test_another_state_is_refused_by_leaf(tmp_path, kind, message):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(), None, {})
    checkpoints.save(2, make_state(), None, {})
    with pytest.raises(InputError, match=message):
        checkpoints.restore(change(make_state(), kind))
    assert checkpoints.latest_step() == 2  # nothing was put aside


def test_leaf_that_is_no_array_is_named(tmp_path):
    with pytest.raises(ValueError, match="a/b is float"):
        Checkpoints(tmp_path).save(1, {"a": {"b": 1.0}}, None, {})


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


@pytest.mark.parametrize("damage", [flip_a_bit, truncate_arrays, truncate_info, empty_manifest])
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


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be used"):
        Checkpoints(tmp_path / "file")


FULL_DISK = """
import pathlib, sys
import jax.numpy as jnp
import numpy as np
from rmas.errors import InputError
from rmas.training.checkpoints import Checkpoints
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


def on_a_small_disk(program: str, folder: Path) -> list[str]:
    """What a program prints that gets a folder on a file system of 2 MB of its own."""
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
    return done.stdout.splitlines()


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path):
    told, restored = on_a_small_disk(FULL_DISK, tmp_path)
    assert told.startswith("error: a checkpoint in ")
    assert "cannot be written: the disk is full; free some space and run the same command" in told
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


def test_metrics_tell_of_a_full_disk(tmp_path):
    """At once, with TensorBoard's file as with ours; later lines follow whole ones."""
    told, lines = on_a_small_disk(FULL_METRICS, tmp_path)
    assert told.startswith("error: metrics cannot be written in ")
    assert "No space left on device; make room" in told
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
