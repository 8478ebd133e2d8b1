"""Round trips, mismatches, damage, and kills in the middle of a save."""

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


def test_a_save_needs_its_arrays_no_more(tmp_path):
    """The next step of training deletes them while the files are being written."""
    state, wanted = make_state(), make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        same_bits(wanted, checkpoints.restore(make_state(1))[1])


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


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be used"):
        Checkpoints(tmp_path / "file")
