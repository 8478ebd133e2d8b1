"""Released systems compute what the PyTorch release does: on one device, and on a mesh of eight."""

import functools
import gc
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import rmas
from rmas.system.encode import Slot
from rmas.system.rendered import Renderer
from rmas.system.styles import STYLES
from support.released_runs import record

torch = pytest.importorskip("torch")
from support import released_reference, released_systems  # noqa: E402

ROUNDS, STEPS, TOKENS = 3, 4, 16
CLOSE = 1e-3
"""Rounding may decide where the best two logits are no further apart."""
MESH = "data=2,fsdp=2,tensor=2"
CASES = (
    ("sequential_light", "math"),
    ("sequential_scaled", "code"),
    ("mixture", "math"),
    ("distillation", "code"),
    ("deliberation", "math"),
)
STYLE_AND_TASK = ("style", "task")
EVERY_STYLE = pytest.mark.parametrize(STYLE_AND_TASK, CASES)
# The fast suite compiles one; the committed system of `test_released_goldens.py` is its hybrid.
MOST_SLOWLY = pytest.mark.parametrize(
    STYLE_AND_TASK,
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])],
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.json"
    return released_systems.write_json(path, released_systems.PROMPTS)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """`roots(style)`: a system on disk, made once; copy it before you change it."""

    @functools.cache
    def make(style: str) -> Path:
        root = tmp_path_factory.mktemp(style)
        released_systems.make(style, root)
        return root

    return make


@pytest.fixture(scope="module")
def releases(roots, prompts):
    """`releases(style, task)`: the system in PyTorch."""

    @functools.cache
    def load(style: str, task: str):
        return released_reference.Release(style, roots(style), task, prompts)

    return load


@pytest.fixture(scope="module")
def theirs(releases):
    """`theirs(style, task)`: what it computes."""

    @functools.cache
    def get(style: str, task: str):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return releases(style, task).run(released_systems.QUESTIONS, ROUNDS, STEPS, TOKENS)
        finally:
            torch.set_num_threads(threads)

    return get


@pytest.fixture(scope="module")
def ours(roots, prompts):
    """`ours(style, task)`: arrays and answers of the same by us, on one device."""

    @functools.cache
    def get(style: str, task: str):
        loaded = rmas.load_system(
            style, roots(style), task_family=task, dtype="float32", prompts=str(prompts)
        )
        return run(loaded)

    return get


def run(loaded):
    """Arrays under the names of `released_reference.Expected`, and the ids of the answers."""
    arrays, answers = record(loaded, released_systems.QUESTIONS, ROUNDS, STEPS, TOKENS)
    return arrays, [list(answer.ids) for answer in answers]


def tolerance(style):
    cases = [case for case, _, _ in released_systems.AGENTS[style].values()]
    return 5e-4 if any(case.startswith("qwen3_5") for case in cases) else 2e-4


def agree(arrays, expected, atol):
    assert arrays.keys() == expected.keys()
    for name, want in expected.items():
        assert arrays[name].shape == want.shape, name
        np.testing.assert_allclose(arrays[name], want, rtol=0, atol=atol, err_msg=name)


def same_ids(found, expected, margins):
    """Equal up to the first close decision; enough are not."""
    compared = 0
    for ours, theirs, gaps in zip(found, expected, margins, strict=True):
        sure = next((n for n, gap in enumerate(gaps) if gap < CLOSE), None)
        assert ours[:sure] == theirs[:sure]
        compared += len(theirs[:sure])
    assert compared > sum(map(len, expected)) / 2


@MOST_SLOWLY
def test_one_device_computes_what_the_release_does(theirs, ours, style, task):
    expected = theirs(style, task)
    arrays, ids = ours(style, task)
    agree(arrays, expected.arrays, tolerance(style))
    same_ids(ids, expected.ids[f"R{ROUNDS}"], expected.margins[f"R{ROUNDS}"])
    hidden = {name.split("/")[1] for name in arrays if name.startswith(f"round{ROUNDS}")}
    assert STYLES[style].topology.output not in hidden


@EVERY_STYLE
def test_prompts_are_cut_as_the_release_cuts_them(roots, prompts, releases, style, task):
    release = releases(style, task)
    loaded = rmas.load_system(style, roots(style), task_family=task, prompts=str(prompts))
    renderer = Renderer(loaded.system)
    for agent in loaded.system.topology.agents:
        for phase in ("first", "later"):
            for question in released_systems.QUESTIONS:
                ours = [
                    run.source if isinstance(run, Slot) else list(run)
                    for run in renderer.encoded(agent, question, phase)
                ]
                assert ours == [p for p in release.segments(agent, phase, question) if p != []]


@pytest.mark.extended
@EVERY_STYLE
def test_a_mesh_computes_what_one_device_does(roots, prompts, theirs, ours, style, task):
    loaded = rmas.load_system(
        style, roots(style), task_family=task, dtype="float32", mesh=MESH, prompts=str(prompts)
    )
    arrays, ids = run(loaded)
    expected, expected_ids = ours(style, task)
    agree(arrays, expected, tolerance(style))
    same_ids(ids, expected_ids, theirs(style, task).margins[f"R{ROUNDS}"])


def shardings(tree) -> dict:
    """Where each array lies, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf.sharding for path, leaf in leaves}


def test_where_arrays_lie_on_a_mesh(roots, prompts):
    root = roots("sequential_scaled")
    loaded = rmas.load_system("sequential_scaled", root, mesh=MESH, prompts=str(prompts))
    assert loaded.system.mesh.shape == {"data": 2, "fsdp": 2, "tensor": 2}
    lies = {name: shardings(agent.params) for name, agent in loaded.system.agents.items()}
    for of_agent in lies.values():
        assert all(len(sharding.device_set) == 8 for sharding in of_agent.values())
    specs = {
        ("planner", "embed/weight"): P("tensor", "fsdp"),
        ("planner", "layers/period/0/attention/k_proj/kernel"): P(None, "fsdp", "tensor"),
        ("planner", "layers/rest/0/mlp/down_proj/kernel"): P("tensor", "fsdp"),
        ("critic", "layers/period/0/attention/o_proj/kernel"): P(None, "tensor", "fsdp"),
        ("critic", "head/kernel"): P("fsdp", "tensor"),
        ("solver", "layers/period/0/delta/v_proj/kernel"): P(None, "fsdp", "tensor"),
        ("solver", "layers/period/0/delta/a_log"): P(None, "tensor"),
        ("solver", "norm/weight"): P(None),
    }
    for (agent, path), spec in specs.items():
        assert lies[agent][path].spec == spec, (agent, path)
    for sharding in shardings(loaded.links).values():
        assert sharding.is_fully_replicated
        assert len(sharding.device_set) == 8


@pytest.mark.parametrize("task", ["math", "code"])
def test_links_are_those_of_the_task(roots, prompts, task):
    root = roots("distillation")
    loaded = rmas.load_system("distillation", root, task_family=task, prompts=str(prompts))
    assert loaded.form == "ln_res"
    files = {
        ("inner", "expert"): f"expert/adapter({task}).pt",
        ("inner", "learner"): f"learner/adapter({task}).pt",
        ("outer", "expert->learner"): f"outer/Expert-Learner-Outerlink({task}).pt",
        ("outer", "learner->expert"): f"outer/Learner-Expert-Outerlink({task}).pt",
    }
    for (kind, name), file in files.items():
        state = torch.load(root / file, weights_only=True)
        kernel = loaded.links[kind][name]["proj2"]["kernel"]
        np.testing.assert_array_equal(kernel, state["proj2.weight"].numpy().T)


def listing(root: Path) -> dict:
    """Every file and folder, with its size and the time of its last change."""
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in [root, *sorted(root.rglob("*"))]
    }


def test_nothing_is_written_into_the_folders(roots, prompts, ours, tmp_path):
    root = Path(shutil.copytree(roots("sequential_light"), tmp_path / "root"))
    folders = [root, *(p for p in root.iterdir() if p.is_dir())]
    before = listing(root)
    for folder in folders:
        folder.chmod(0o555)
    try:
        loaded = rmas.load_system("sequential_light", root, dtype="float32", prompts=str(prompts))
        _, ids = run(loaded)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert listing(root) == before
    assert ids == ours("sequential_light", "math")[1]


def live_bytes() -> int:
    """Bytes of all buffers on all devices, each counted once."""
    gc.collect()
    buffers = {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            buffers[shard.device, shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(buffers.values())


def size(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("change", [None, "weights"])
def test_agents_on_one_base_model_share_its_memory(roots, prompts, tmp_path, change):
    root = Path(shutil.copytree(roots("deliberation"), tmp_path / "root"))
    if change:
        # One byte in the middle: neither sizes nor the ends of the files tell them apart.
        with (root / "toolcaller/model.safetensors").open("r+b") as file:
            middle = file.seek(0, 2) // 2
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 1]))
    before = live_bytes()
    loaded = rmas.load_system("deliberation", root, dtype="float32", prompts=str(prompts))
    held = live_bytes() - before - size(loaded.links)
    one, other = (loaded.system.agents[name].params for name in ("reflector", "toolcaller"))
    file = root / "reflector/model.safetensors"
    assert 0.9 * file.stat().st_size < size(one) < file.stat().st_size
    if change:
        assert held == size(one) + size(other)
        differ = jax.tree.map(lambda x, y: int(np.sum(np.asarray(x) != np.asarray(y))), one, other)
        assert sum(jax.tree.leaves(differ)) == 1
    else:
        assert held == size(one)
        assert all(x is y for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True))
