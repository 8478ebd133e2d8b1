"""Whole systems of links written as the release has them, and never over anything."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.links import LinkSpec, init_links
from rmas.weights.released_export import write_released
from rmas.weights.released_links import read_released
from rmas.weights.released_manifests import Layout

WIDTHS = {"planner": 4, "critic": 6, "solver": 5}
SEQUENTIAL = Layout(
    style="sequential_light",
    paradigm="sequential",
    labels={"planner": "Planner", "critic": "Critic", "solver": "Solver"},
    keys={
        ("planner", "critic"): "outer_12",
        ("critic", "solver"): "outer_23",
        ("solver", "planner"): "outer_31",
    },
    by_task=True,
)
FLAT = Layout(
    style="duo",
    paradigm="duo",
    labels={"planner": "Planner", "solver": "Solver"},
    keys={("planner", "solver"): "outer_ps"},
    by_task=False,
)


def links_of(layout, form="ln_res", seed=0):
    """Random links of a layout's agents and edges."""
    widths = tuple((agent, WIDTHS[agent]) for agent in layout.labels)
    spec = LinkSpec(form, widths, tuple(layout.keys))
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_links(spec, jax.random.key(0)))
    return jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype), shapes)


def read(root, layout, task="math"):
    folders = {agent: root / agent for agent in layout.labels}
    return read_released(layout, folders, root / "outer", WIDTHS, task)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(match, root, *args):
    """The write fails, and changes nothing."""
    before = files(root)
    with pytest.raises(InputError, match=match) as e:
        write_released(root, *args)
    assert "\n" not in str(e.value)
    assert files(root) == before


@pytest.mark.parametrize("form", ["linear", "linear_res", "mlp", "mlp_res", "ln_res"])
@pytest.mark.parametrize("layout", [SEQUENTIAL, FLAT])
def test_there_and_back(tmp_path, layout, form):
    links = links_of(layout, form)
    write_released(tmp_path, layout, links, form, "math")
    found, again = read(tmp_path, layout)
    assert found == form
    same(again, links)


def test_names_and_manifests_are_the_release_s(tmp_path):
    write_released(tmp_path / "new", SEQUENTIAL, links_of(SEQUENTIAL), "ln_res", "math")
    write_released(tmp_path / "new", SEQUENTIAL, links_of(SEQUENTIAL, seed=1), "ln_res", "code")
    written = files(tmp_path / "new")
    assert set(written) == {
        f"{agent}/{name}"
        for agent in SEQUENTIAL.labels
        for name in ("adapter(math).pt", "adapter(code).pt", "adapter_config.json",
                     "innerlink_config.json")
    } | {
        f"outer/{pair}-Outerlink({task}).pt"
        for pair in ("Planner-Critic", "Critic-Solver", "Solver-Planner")
        for task in ("math", "code")
    } | {"outer/outerlink_config.json"}  # fmt: skip
    assert json.loads(written["critic/adapter_config.json"]) == {"adapter_type": "ln_res_adapter"}
    assert json.loads(written["critic/innerlink_config.json"]) == {
        "format_version": 1,
        "role": "critic",
        "style": "sequential_light",
        "tasks": {
            "math": {
                "task": "math",
                "adapter.pt": "adapter(math).pt",
                "adapter_config.json": "adapter_config.json",
            },
            "code": {
                "task": "code",
                "adapter.pt": "adapter(code).pt",
                "adapter_config.json": "adapter_config.json",
            },
        },
    }
    outer = json.loads(written["outer/outerlink_config.json"])
    assert (outer["format_version"], outer["paradigm"]) == (1, "sequential")
    assert list(outer["tasks"]) == ["math", "code"]
    assert outer["tasks"]["code"]["task"] == "code"
    assert outer["tasks"]["code"]["adapters"][1] == {
        "legacy_key": "outer_23",
        "filename": "Critic-Solver-Outerlink(code).pt",
        "source_role": "Critic",
        "target_role": "Solver",
        "adapter_type": "outer_ln_res_adapter",
        "in_dim": 6,
        "out_dim": 5,
    }


def test_flat_manifests(tmp_path):
    write_released(tmp_path, FLAT, links_of(FLAT), "ln_res")
    written = files(tmp_path)
    assert {"planner/adapter.pt", "outer/Planner-Solver-Outerlink.pt"} < set(written)
    assert json.loads(written["planner/innerlink_config.json"]) == {
        "format_version": 1,
        "role": "planner",
        "style": "duo",
        "adapter": "adapter.pt",
    }
    outer = json.loads(written["outer/outerlink_config.json"])
    assert list(outer) == ["format_version", "paradigm", "adapters"]
    assert [a["legacy_key"] for a in outer["adapters"]] == ["outer_ps"]


def test_another_task_is_kept(tmp_path):
    math, code = links_of(SEQUENTIAL, seed=1), links_of(SEQUENTIAL, seed=2)
    write_released(tmp_path, SEQUENTIAL, math, "ln_res", "math")
    path = tmp_path / "outer" / "outerlink_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"variant": "light"}))
    write_released(tmp_path, SEQUENTIAL, code, "ln_res", "code")
    same(read(tmp_path, SEQUENTIAL, "math")[1], math)
    same(read(tmp_path, SEQUENTIAL, "code")[1], code)
    assert json.loads(path.read_text())["variant"] == "light"


def test_nothing_is_overwritten(tmp_path):
    math = links_of(SEQUENTIAL)
    write_released(tmp_path, SEQUENTIAL, math, "ln_res", "math")
    refused("has links for task 'math'", tmp_path, SEQUENTIAL, math, "ln_res", "math")
    (tmp_path / "outer" / "Critic-Solver-Outerlink(code).pt").write_bytes(b"mine")
    refused(r"Critic-Solver-Outerlink\(code\).pt exists", tmp_path, SEQUENTIAL, math, "ln_res",
            "code")  # fmt: skip
    write_released(tmp_path / "flat", FLAT, links_of(FLAT), "ln_res")
    refused("outerlink_config.json exists", tmp_path / "flat", FLAT, links_of(FLAT), "ln_res")


def test_folders_of_another_system_are_refused(tmp_path):
    math = links_of(SEQUENTIAL)
    write_released(tmp_path, SEQUENTIAL, math, "ln_res", "math")
    other = Layout("sequential_scaled", "sequential", SEQUENTIAL.labels, SEQUENTIAL.keys, True)
    refused("belongs to another system: style is not 'sequential_scaled'", tmp_path, other, math,
            "ln_res", "code")  # fmt: skip
    short = links_of(SEQUENTIAL, "linear")
    refused("holds links of form ln_res, not linear", tmp_path, SEQUENTIAL, short, "linear", "code")
    write_released(tmp_path / "flat", FLAT, links_of(FLAT), "ln_res")
    by_task = Layout(FLAT.style, FLAT.paradigm, FLAT.labels, FLAT.keys, by_task=True)
    refused("has one entry for all tasks; duo has", tmp_path / "flat", by_task, links_of(FLAT),
            "ln_res")  # fmt: skip


def test_links_that_do_not_fit_the_layout(tmp_path):
    links = links_of(SEQUENTIAL)
    refused("duo has inner links planner, solver; these are critic, planner, solver", tmp_path,
            FLAT, links, "ln_res")  # fmt: skip
    partly = links | {"outer": {}}
    refused(
        "outer links critic->solver, .*; these are none", tmp_path, SEQUENTIAL, partly, "ln_res"
    )
    refused("the link planner is not of form mlp", tmp_path, SEQUENTIAL, links, "mlp")
    mixed = links | {"outer": links_of(SEQUENTIAL, "mlp_res")["outer"]}
    refused("the link planner->critic is not of form ln_res", tmp_path, SEQUENTIAL, mixed, "ln_res")
    for task in ("a/b", "../x", "a\0b"):
        refused("task .*: file names must not leave the folder", tmp_path, SEQUENTIAL, links,
                "ln_res", task)  # fmt: skip


@pytest.mark.parametrize("layout", [SEQUENTIAL, FLAT])
def test_pytorch_loads_an_exported_system(torch, tmp_path, layout):
    from support import torch_links

    links = links_of(layout)
    write_released(tmp_path, layout, links, "ln_res", "math")
    spec = LinkSpec("ln_res", tuple(WIDTHS.items()), tuple(layout.keys))
    manifest = json.loads((tmp_path / "outer" / "outerlink_config.json").read_text())
    manifest = manifest["tasks"]["math"] if layout.by_task else manifest
    random = np.random.default_rng(9)

    def agrees(ours, released, file, width):
        released.load_state_dict(torch.load(file, weights_only=True), strict=True)
        h = random.standard_normal((7, width)).astype(np.float32)
        theirs = released(torch.tensor(h)).detach().numpy()
        found = jax.jit(ours)(h)
        np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())

    for agent in layout.labels:
        (file,) = (tmp_path / agent).glob("adapter*.pt")
        ours = functools.partial(spec.inner, links, agent)
        agrees(ours, torch_links.Inner("ln_res", WIDTHS[agent]), file, WIDTHS[agent])
    for (src, dst), made in zip(layout.keys, manifest["adapters"], strict=True):
        released = torch_links.Outer("ln_res", made["in_dim"], made["out_dim"])
        ours = functools.partial(spec.outer, links, src, dst)
        agrees(ours, released, tmp_path / "outer" / made["filename"], WIDTHS[src])
