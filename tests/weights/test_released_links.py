"""Links in the release's files: numbers kept, names strict, folders as the release has them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.links import InnerLink, LinkSpec, OuterLink, init_links
from rmas.weights import torch_archive
from rmas.weights.released_links import (
    from_state_dict,
    link_template,
    read_inner,
    read_outer,
    read_released,
    to_state_dict,
)
from rmas.weights.released_manifests import Layout
from support.torch_files import floats, pack, state, tensor

FORMS = ("linear", "linear_res", "mlp", "mlp_res", "ln_res")
GOLDEN = Path(__file__).parents[1] / "goldens" / "links.npz"
KINDS = pytest.mark.parametrize("kind", ["inner", "outer"])
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def module_of(kind, form, d_src, d_dst):
    return InnerLink(form, d_src) if kind == "inner" else OuterLink(form, d_src, d_dst)


def golden(kind, form):
    """States, what the link of PyTorch makes of them, and its state dict."""
    prefix = f"{kind}/{form}/"
    with np.load(GOLDEN) as file:
        arrays = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    return arrays.pop("h"), arrays.pop("y"), arrays


def random_links(spec, seed=0):
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_links(spec, jax.random.key(0)))
    return jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype), shapes)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(x, jax.Array)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def refused(match, call, *args):
    with pytest.raises(InputError, match=match) as e:
        call(*args)
    assert "\n" not in str(e.value)
    return str(e.value)


@KINDS
@EVERY_FORM
def test_a_released_link_computes_what_pytorch_does(kind, form):
    h, y, released = golden(kind, form)
    module = module_of(kind, form, 8, 6)
    params = from_state_dict(released, link_template(module), "links.npz")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    found = jax.jit(module.apply)({"params": params}, h)
    np.testing.assert_allclose(found, y, rtol=0, atol=2e-6)
    again = to_state_dict(params)
    assert again.keys() == released.keys()
    for name, array in released.items():
        assert again[name].flags.c_contiguous
        np.testing.assert_array_equal(again[name], array)


@KINDS
@EVERY_FORM
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_pytorch_loads_an_exported_link(torch, tmp_path, kind, form, dtype, tolerance):
    from support import torch_links

    with jax.enable_x64(dtype == "float64"):
        module = module_of(kind, form, 20, 12)
        random = np.random.default_rng(3)
        params = jax.tree.map(
            lambda x: jnp.asarray(random.standard_normal(x.shape) / x.shape[0] ** 0.5, dtype),
            link_template(module),
        )
        torch_archive.write(tmp_path / "link.pt", to_state_dict(params))
        released = torch_links.make(kind, form, 20, 12).to(getattr(torch, dtype))
        released.load_state_dict(torch.load(tmp_path / "link.pt", weights_only=True), strict=True)
        h = random.standard_normal((3, 5, 20)).astype(dtype)
        ours = jax.jit(module.apply)({"params": params}, jnp.asarray(h))
        assert ours.dtype == dtype
        theirs = released(torch.tensor(h)).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
        back = from_state_dict(torch_archive.read(tmp_path / "link.pt"), params, "link.pt")
        same(back, params)


def test_square_matrices_are_turned_too():
    link = {"proj1": {"kernel": jnp.arange(9.0).reshape(3, 3), "bias": jnp.zeros(3)}}
    released = to_state_dict(link)
    np.testing.assert_array_equal(released["proj1.weight"], link["proj1"]["kernel"].T)
    same(from_state_dict(released, link, ""), link)


@pytest.mark.parametrize("stored", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_stored_types_become_float32(stored):
    _, _, released = golden("inner", "ln_res")
    released = {n: a.astype(stored) for n, a in released.items()}
    params = from_state_dict(released, link_template(InnerLink("ln_res", 8)), "")
    for name, array in to_state_dict(params).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, released[name].astype(np.float32))


def test_names_and_shapes_are_strict():
    _, _, released = golden("outer", "ln_res")
    template = link_template(OuterLink("ln_res", 8, 6))
    wrong = {n.replace("proj2", "proj3"): a for n, a in released.items()}
    told = refused("^here: not a link of the expected", from_state_dict, wrong, template, "here")
    assert "missing proj2.bias, proj2.weight, unexpected proj3.bias, proj3.weight" in told
    one = dict(released)
    del one["ln_source.bias"]
    refused("missing ln_source.bias, unexpected nothing", from_state_dict, one, template, "")
    more = released | {"scale": np.ones(1)}
    refused("missing nothing, unexpected scale", from_state_dict, more, template, "")
    for value in (np.nan, -np.inf):
        damaged = {n: np.full_like(a, value) if n == "proj2.weight" else a for n, a in one.items()}
        damaged["ln_source.bias"] = released["ln_source.bias"]
        refused("^here: damaged, .* nan or inf: proj2.weight", from_state_dict, damaged, template,
                "here")  # fmt: skip
    template = link_template(OuterLink("ln_res", 8, 5))
    told = refused("^here: wrong dimensions", from_state_dict, released, template, "here")
    assert "proj1.weight is (12, 8), not (10, 8)" in told
    turned = released | {"residual_proj.weight": released["residual_proj.weight"].T}
    template = link_template(OuterLink("ln_res", 8, 6))
    refused(
        r"residual_proj.weight is \(8, 6\), not \(6, 8\)", from_state_dict, turned, template, ""
    )


# Folders. One agent of width 4; outer links from 4 to 6 and back.


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def link(seed, module=None):
    module = module or InnerLink("ln_res", 4)
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype), link_template(module)
    )


def put(path, params):
    torch_archive.write(path, to_state_dict(params))
    return params


INNER = {
    "format_version": 1,
    "role": "planner",
    "style": "sequential_light",
    "tasks": {
        task: {"task": task, "adapter.pt": f"adapter({task}).pt",
               "adapter_config.json": "adapter_config.json"}
        for task in ("math", "code")
    },
}  # fmt: skip


def entry(key, d_src, d_dst, **more):
    return {
        "legacy_key": key, "filename": f"{key}.pt", "source_role": "A", "target_role": "B",
        "adapter_type": "outer_ln_res_adapter", "in_dim": d_src, "out_dim": d_dst, **more,
    }  # fmt: skip


EDGES = {"outer_ab": (4, 6), "outer_ba": (6, 4)}
FLAT = {"adapters": [entry(key, *dims) for key, dims in EDGES.items()]}


@pytest.fixture
def outer(tmp_path):
    links = {
        key: put(tmp_path / f"{key}.pt", link(i, OuterLink("ln_res", *dims)))
        for i, (key, dims) in enumerate(EDGES.items())
    }
    write_json(tmp_path / "outerlink_config.json", FLAT)
    return links


def test_where_an_inner_link_is_looked_for(tmp_path):
    plain = put(tmp_path / "adapter.pt", link(0))
    assert read_inner(tmp_path, "math", 4)[0] == "ln_res"
    same(read_inner(tmp_path, "math", 4)[1], plain)
    math = put(tmp_path / "adapter(math).pt", link(1))
    same(read_inner(str(tmp_path), "math", 4)[1], math)
    same(read_inner(tmp_path, "code", 4)[1], plain)
    other = put(tmp_path / "other.pt", link(2))
    write_json(tmp_path / "innerlink_config.json", {"format_version": 1, "adapter": "other.pt"})
    same(read_inner(tmp_path, "math", 4)[1], other)
    write_json(tmp_path / "innerlink_config.json", {"format_version": 1})
    same(read_inner(tmp_path, "math", 4)[1], math)
    write_json(tmp_path / "innerlink_config.json", {"tasks": {"math": {"adapter.pt": "other.pt"}}})
    same(read_inner(tmp_path, "math", 4)[1], other)


def test_the_form_comes_from_adapter_config(tmp_path):
    short = put(tmp_path / "adapter.pt", link(0, InnerLink("linear_res", 4)))
    write_json(tmp_path / "adapter_config.json", {"adapter_type": "1layer_res"})
    form, params = read_inner(tmp_path, "math", 4)
    assert form == "linear_res"
    same(params, short)
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    refused("adapter.pt: not a link of the expected form.*post_ln", read_inner, tmp_path, "math", 4)
    write_json(tmp_path / "adapter_config.json", {"adapter_type": "lora"})
    told = refused("unknown link form 'lora'; known: linear", read_inner, tmp_path, "math", 4)
    assert told.startswith(str(tmp_path / "adapter_config.json"))
    write_json(tmp_path / "adapter_config.json", {"adapter_type": 3})
    refused("config.json: adapter_type must be a string", read_inner, tmp_path, "math", 4)
    (tmp_path / "adapter_config.json").unlink()
    tasks = {"math": {"adapter.pt": "adapter.pt", "adapter_config.json": "form.json"}}
    write_json(tmp_path / "innerlink_config.json", {"tasks": tasks})
    refused(r"cannot read .*form.json: no such file", read_inner, tmp_path, "math", 4)
    write_json(tmp_path / "form.json", {"adapter_type": "1layer"})
    assert read_inner(tmp_path, "math", 4)[0] == "linear"


def test_faults_of_inner_links(tmp_path):
    refused(
        r"holds no inner link: expected innerlink_config.json, adapter\(math\).pt or adapter.pt",
        read_inner, tmp_path, "math", 4,
    )  # fmt: skip
    write_json(tmp_path / "innerlink_config.json", INNER)
    refused(r"no links for task 'music'; known: 'code', 'math'", read_inner, tmp_path, "music", 4)
    refused("cannot read .*adapter_config.json: no such file", read_inner, tmp_path, "math", 4)
    write_json(tmp_path / "adapter_config.json", {"adapter_type": "ln_res_adapter"})
    refused(r"cannot read .*adapter\(math\).pt: no such file", read_inner, tmp_path, "math", 4)
    put(tmp_path / "adapter(math).pt", link(0))
    told = refused("wrong dimensions for this system", read_inner, tmp_path, "math", 5)
    assert told.startswith(str(tmp_path / "adapter(math).pt"))
    assert "proj1.weight is (4, 4), not (5, 5)" in told
    (tmp_path / "innerlink_config.json").unlink()
    refused("task '../x': file names must not leave the folder", read_inner, tmp_path, "../x", 4)


AWAY = ["/etc/passwd", "../adapter.pt", "a/adapter.pt", "a\\b.pt", "..", ".", "", "a\0.pt"]


@pytest.mark.parametrize("name", AWAY)
def test_names_in_manifests_stay_in_their_folder(tmp_path, outer, name):
    folder = tmp_path / "agent"
    told = "innerlink_config.json: file names must not leave the folder"
    for manifest in (
        {"adapter": name},
        {"tasks": {"math": {"adapter.pt": name}}},
        {"tasks": {"math": {"adapter.pt": "adapter.pt", "adapter_config.json": name}}},
    ):
        write_json(folder / "innerlink_config.json", manifest)
        refused(told, read_inner, folder, "math", 4)
    moved = {"adapters": [FLAT["adapters"][0] | {"filename": name}, FLAT["adapters"][1]]}
    write_json(tmp_path / "outerlink_config.json", moved)
    refused("outerlink_config.json: file names must not", read_outer, tmp_path, "math", EDGES)


def test_snapshots_of_links_to_blobs_are_read(tmp_path, outer):
    """The hub's cache: a folder of symbolic links to files elsewhere."""
    snapshot = tmp_path / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    for file in [*tmp_path.glob("*.pt"), *tmp_path.glob("*.json")]:
        blob = tmp_path / f"blob-{file.name}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(f"../../{blob.name}")
    for key, params in read_outer(snapshot, "math", EDGES)[1].items():
        same(params, outer[key])


def test_outer_links_for_all_tasks_or_by_task(tmp_path, outer):
    for task in ("math", "anything"):
        form, links = read_outer(str(tmp_path), task, EDGES)
        assert form == "ln_res"
        same(links, outer)
    write_json(tmp_path / "outerlink_config.json", {"tasks": {"math": FLAT, "code": FLAT}})
    same(read_outer(tmp_path, "code", EDGES)[1], outer)
    refused(
        "no links for task 'music'; known: 'code', 'math'", read_outer, tmp_path, "music", EDGES
    )
    one = {"outer_ab": (4, 6)}
    assert list(read_outer(tmp_path, "math", one)[1]) == ["outer_ab"]
    bare = [{"legacy_key": key, "filename": f"{key}.pt"} for key in EDGES]
    write_json(tmp_path / "outerlink_config.json", {"adapters": bare})
    same(read_outer(tmp_path, "math", EDGES)[1], outer)


@pytest.mark.parametrize(
    ("edges", "change", "told"),
    [
        ({"outer_ac": (4, 6)}, {}, "no entry for outer_ac; known: 'outer_ab', 'outer_ba'"),
        ({"outer_ab": (5, 6)}, {}, "is from 4 to 6 dimensions; this system needs 5 to 6"),
        ({"outer_ab": (4, 6)}, {"out_dim": "6"}, "from 4 to '6' dimensions.*needs 4 to 6"),
        (EDGES, {"adapter_type": "1layer"}, "one form; found outer_ab: linear, outer_ba: ln_res"),
        (EDGES, {"adapter_type": "magic"}, "unknown link form 'magic'"),
        (EDGES, {"adapter_type": None}, "adapter_type must be a string"),
        (EDGES, {"filename": None}, "filename must be a string"),
        (EDGES, {"legacy_key": 12}, "legacy_key must be a string"),
        (EDGES, {"legacy_key": "outer_ba"}, "a legacy_key is used twice: 'outer_ba'"),
    ],
)  # fmt: skip
def test_faults_of_outer_entries(tmp_path, outer, edges, change, told):
    path = tmp_path / "outerlink_config.json"
    write_json(path, {"adapters": [FLAT["adapters"][0] | change, FLAT["adapters"][1]]})
    assert refused(told, read_outer, tmp_path, "math", edges).startswith(str(path))


def test_faults_of_outer_files(tmp_path, outer):
    put(tmp_path / "outer_ab.pt", link(0, OuterLink("ln_res", 4, 5)))
    told = refused("wrong dimensions for this system", read_outer, tmp_path, "math", EDGES)
    assert told.startswith(str(tmp_path / "outer_ab.pt"))
    pack(tmp_path / "outer_ab.pt", state(a=tensor((4,), (1,))), floats(4))
    refused("outer_ab.pt: not a link of .* unexpected a", read_outer, tmp_path, "math", EDGES)
    (tmp_path / "outer_ab.pt").unlink()
    refused("cannot read .*outer_ab.pt: no such file", read_outer, tmp_path, "math", EDGES)
    (tmp_path / "outerlink_config.json").unlink()
    refused("cannot read .*outerlink_config.json: no such", read_outer, tmp_path, "math", EDGES)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "is not valid JSON"),
        (b'{"a": 1, "a": 2}', "is not valid JSON: 'a' is there twice in one object"),
        (b"\xff", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b" " * (1 << 20) + b"{}", "is larger than 1048576 bytes"),
        (b'{"tasks": []}', "tasks must map each task to an object"),
        (b'{"tasks": {"math": 3}}', "tasks must map each task to an object"),
        (b'{"tasks": {}}', "no links for task 'math'; known: none"),
        (b'{"tasks": {"math": {}}}', "adapter.pt must be a string|adapters must be a list"),
        (b'{"adapters": {}, "adapter": []}', "adapters must be a list|adapter must be a string"),
        (b'{"adapters": [3], "adapter": 3}', "adapters must be a list|adapter must be a string"),
    ],
)
def test_broken_manifests(tmp_path, content, told):
    for name, read, third in (
        ("innerlink_config.json", read_inner, 4),
        ("outerlink_config.json", read_outer, EDGES),
    ):
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in refused(told, read, tmp_path, "math", third)


def test_two_forms_in_one_system(tmp_path, outer):
    keys = {("a", "b"): "outer_ab", ("b", "a"): "outer_ba"}
    layout = Layout("duo", "duo", {"a": "A", "b": "B"}, keys, by_task=False)
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    for agent, width in (("a", 4), ("b", 6)):
        folders[agent].mkdir()
        put(folders[agent] / "adapter.pt", link(0, InnerLink("ln_res", width)))
    args = (layout, folders, tmp_path, {"a": 4, "b": 6}, "math")
    form, links = read_released(*args)
    assert form == "ln_res"
    same(links["outer"], {"a->b": outer["outer_ab"], "b->a": outer["outer_ba"]})
    spec = LinkSpec(form, (("a", 4), ("b", 6)), (("a", "b"), ("b", "a")))
    assert jax.tree.structure(links) == jax.tree.structure(random_links(spec))
    put(folders["b"] / "adapter.pt", link(0, InnerLink("mlp", 6)))
    write_json(folders["b"] / "adapter_config.json", {"adapter_type": "2layer"})
    refused("one form; found a: ln_res, b: mlp, outer links: ln_res", read_released, *args)
