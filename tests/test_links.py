"""Links against PyTorch: live modules where it is installed, committed goldens everywhere."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erf

from rmas.errors import InputError
from rmas.links import (
    RELEASED_ALIASES,
    InnerLink,
    LinkSpec,
    OuterLink,
    aligned_outer,
    edge_name,
    init_links,
    parse_form,
)

FORMS = ("linear", "linear_res", "mlp", "mlp_res", "ln_res")
GOLDEN = Path(__file__).parent / "goldens" / "links.npz"
SPEC = LinkSpec("ln_res", (("a", 8), ("b", 6)), (("a", "b"), ("b", "a")))


def from_released(tensors):
    """Our tree from a released state dict: dense weights turned, norm weights named scale."""
    tree = {}
    for key, value in tensors.items():
        module, leaf = key.split(".")
        if leaf == "weight":
            leaf, value = ("kernel", value.T) if value.ndim == 2 else ("scale", value)
        tree.setdefault(module, {})[leaf] = jnp.asarray(value)
    return tree


def module_of(kind, form, d_src, d_dst):
    return InnerLink(form, d_src) if kind == "inner" else OuterLink(form, d_src, d_dst)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["inner", "outer"])
@pytest.mark.parametrize("form", FORMS)
def test_torch_modules(torch, kind, form):
    from support import torch_links

    released = torch_links.make(kind, form, 20, 12)
    h = np.random.default_rng(1).standard_normal((3, 5, 20)).astype(np.float32)
    params = from_released(torch_links.state_dict(released))
    ours = module_of(kind, form, 20, 12).apply({"params": params}, h)
    assert ours.dtype == jnp.float32
    close(ours, released(torch.tensor(h)))


@pytest.mark.parametrize("kind", ["inner", "outer"])
@pytest.mark.parametrize("form", FORMS)
def test_goldens(kind, form):
    prefix = f"{kind}/{form}/"
    with np.load(GOLDEN) as file:
        arrays = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    h, y = arrays.pop("h"), arrays.pop("y")
    params = from_released(arrays)
    module = module_of(kind, form, 8, 6)
    close(module.apply({"params": params}, h), y)
    # The released names are ours, one to one.
    fresh = module.init(jax.random.key(0), jnp.zeros((1, 8)))["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


def test_torch_initialisation():
    """Weights and biases uniform within 1 / sqrt(fan in), norms one and zero."""
    spec = LinkSpec("ln_res", (("a", 64), ("b", 48)), (("a", "b"),))
    links = init_links(spec, jax.random.key(0))
    for params, fans in (
        (links["inner"]["a"], {"proj1": 64, "proj2": 64}),
        (links["outer"]["a->b"], {"proj1": 64, "proj2": 96, "residual_proj": 64}),
    ):
        for name, fan_in in fans.items():
            for leaf in params[name].values():
                bound, value = fan_in**-0.5, np.abs(leaf)
                assert 0.8 * bound < value.max() <= bound
                assert abs(value.mean() / bound - 0.5) < 0.1
        for name in params.keys() - fans.keys():
            close(params[name]["scale"], 1.0, 0)
            close(params[name]["bias"], 0.0, 0)


def mlp_with_identity(d):
    eye, zero = jnp.eye(d), jnp.zeros(d)
    return {n: {"kernel": eye, "bias": zero} for n in ("proj1", "proj2")}


def test_gelu_is_exact():
    x = jnp.linspace(-3.0, 3.0, 61).reshape(-1, 1)
    ours = InnerLink("mlp", 1).apply({"params": mlp_with_identity(1)}, x)
    close(ours, x * 0.5 * (1 + erf(x / np.sqrt(2))), 1e-6)
    # The tanh form differs by more than the tolerance above: the test tells them apart.
    assert np.abs(ours - jax.nn.gelu(x, approximate=True)).max() > 1e-4


@pytest.mark.parametrize("name", ["pre_ln", "post_ln", "ln_source", "ln_target"])
def test_norm_epsilon(name):
    """Narrow features show eps: with a variance of 1e-5 the result shrinks by sqrt(2)."""
    inner = name in ("pre_ln", "post_ln")
    d, params = 4, mlp_with_identity(4)
    unit = {"scale": jnp.ones(d), "bias": jnp.zeros(d)}
    x = jnp.array([[1.0, -1.0, 1.0, -1.0]]) * np.sqrt(1e-5)
    y = x / np.sqrt(2e-5)
    if inner:
        params |= {"pre_ln": unit, "post_ln": unit}
        module = InnerLink("ln_res", d)
    else:
        params |= {"residual_proj": params["proj1"], "ln_source": unit, "ln_target": unit}
        wide = {"kernel": jnp.eye(d, 2 * d), "bias": jnp.zeros(2 * d)}
        params |= {"proj1": wide, "proj2": {"kernel": jnp.eye(2 * d, d), "bias": jnp.zeros(d)}}
        module = OuterLink("ln_res", d, d)
    if name in ("post_ln", "ln_target"):  # the MLP branch closed
        params["proj2"] = jax.tree.map(jnp.zeros_like, params["proj2"])
        expected = y
    else:  # the residual path closed as far as it can be: it is known, and so can be undone
        params["post_ln" if inner else "ln_target"] = unit
        total = x + jax.nn.gelu(y, approximate=False)
        centred = total - total.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        wrong = x + jax.nn.gelu(x / np.sqrt(1.1e-5), approximate=False)
        assert np.abs(wrong - total).max() > 0.1
    close(module.apply({"params": params}, x), expected, 1e-5)


@pytest.mark.parametrize("form", ["mlp_res", "ln_res"])
def test_gated_links_start_as_their_residual_path(form):
    spec = LinkSpec(form, SPEC.widths, SPEC.edges)
    links = init_links(spec, jax.random.key(3), init="gated")
    plain = init_links(spec, jax.random.key(3))
    h = jax.random.normal(jax.random.key(1), (2, 5, 8))

    def normed(x):
        c = x - x.mean(-1, keepdims=True)
        return c / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5) if form == "ln_res" else x

    residual = links["outer"]["a->b"]["residual_proj"]
    close(spec.inner(links, "a", h), normed(h))
    close(spec.outer(links, "a", "b", h), normed(h @ residual["kernel"] + residual["bias"]))
    assert np.abs(spec.inner(plain, "a", h) - normed(h)).max() > 1e-2
    # Only the last layer of the branch is closed; it can open again.
    close(links["outer"]["a->b"]["proj1"]["kernel"], plain["outer"]["a->b"]["proj1"]["kernel"], 0)


@pytest.mark.parametrize("form", ["mlp_res", "ln_res"])
def test_aligned_outer_recovers_a_linear_map(form):
    spec = LinkSpec(form, SPEC.widths, SPEC.edges)
    random = np.random.default_rng(0)
    z = random.standard_normal((400, 8)) + 3.0
    kernel, bias = random.standard_normal((8, 6)), random.standard_normal(6)
    y = z @ kernel + bias
    before = init_links(spec, jax.random.key(0))["outer"]["a->b"]
    params = aligned_outer(before, z, y, ridge=1e-9)
    close(params["residual_proj"]["kernel"], kernel, 1e-4)
    close(params["residual_proj"]["bias"], bias, 1e-3)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params["proj2"]))
    got = spec.outer({"outer": {"a->b": params}}, "a", "b", jnp.asarray(z, jnp.float32))
    if form == "mlp_res":
        close(got, y, 1e-3)
    else:
        close(jnp.sqrt(jnp.mean(got**2)), np.sqrt(np.mean(y**2)), 1e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, before)
    assert np.any(before["proj2"]["kernel"]), "the argument was changed"


def test_ridge_is_relative_to_the_features():
    """A ridge of one mean square shrinks white features to a half, whatever their size."""
    spec = LinkSpec("mlp_res", SPEC.widths, SPEC.edges)
    before = init_links(spec, jax.random.key(0))["outer"]["a->b"]
    z = np.linalg.qr(np.random.default_rng(0).standard_normal((400, 8)))[0]
    z = (z - z.mean(0)) * 50
    y = z[:, :6]
    got = aligned_outer(before, z, y, ridge=1.0)["residual_proj"]["kernel"]
    close(got, np.eye(8, 6) / 2, 0.02)


@pytest.mark.parametrize("form", ["linear", "linear_res", "mlp"])
def test_aligned_outer_needs_a_residual_map(form):
    params = init_links(LinkSpec(form, SPEC.widths, SPEC.edges), jax.random.key(0))
    with pytest.raises(InputError, match="mlp_res or ln_res"):
        aligned_outer(params["outer"]["a->b"], np.ones((3, 8)), np.ones((3, 6)), 1.0)


def test_forms_by_name():
    assert [parse_form(f) for f in FORMS] == list(FORMS)
    released = ["1layer", "1layer_res", "2layer", "2layer_res", "2layer_ln_res"]
    assert [parse_form(f) for f in released] == list(FORMS)
    assert {parse_form(f) for f in ("ln_res_adapter", "outer_ln_res_adapter")} == {"ln_res"}
    with pytest.raises(InputError, match=r"unknown link form '3layer'") as e:
        parse_form("3layer")
    for name in (*FORMS, *RELEASED_ALIASES):
        assert name in str(e.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("init", ["random", "gated", "aligned", "head"])
def test_tree(form, init):
    spec = LinkSpec(form, SPEC.widths, SPEC.edges)
    links = init_links(spec, jax.random.key(0), init)
    assert links.keys() == {"inner", "outer"}
    assert links["inner"].keys() == {"a", "b"}
    assert links["outer"].keys() == {edge_name("a", "b"), edge_name("b", "a")} == {"a->b", "b->a"}
    dense, norm = {"kernel", "bias"}, {"scale", "bias"}
    inner, outer = {"proj1": dense}, {"proj1": dense}
    if form in ("mlp", "mlp_res", "ln_res"):
        inner, outer = inner | {"proj2": dense}, outer | {"proj2": dense}
    if form in ("linear_res", "mlp_res", "ln_res"):
        outer = outer | {"residual_proj": dense}
    if form == "ln_res":
        inner = inner | {"pre_ln": norm, "post_ln": norm}
        outer = outer | {"ln_source": norm, "ln_target": norm}
    assert {k: set(v) for k, v in links["inner"]["b"].items()} == inner
    assert {k: set(v) for k, v in links["outer"]["a->b"].items()} == outer
    assert {leaf.dtype for leaf in jax.tree.leaves(links)} == {jnp.dtype("float32")}
    if form == "ln_res":
        assert links["outer"]["a->b"]["proj1"]["kernel"].shape == (8, 12)
    a, b = (links["inner"][x]["proj1"]["kernel"] for x in "ab")
    assert not np.array_equal(a[:6, :6], b)


@pytest.mark.parametrize("form", FORMS)
def test_types(form):
    """Narrow states are mapped in float32; float64 ones stay wide."""
    spec = LinkSpec(form, SPEC.widths, SPEC.edges)
    links = init_links(spec, jax.random.key(0))
    h = jax.random.normal(jax.random.key(1), (2, 8), jnp.bfloat16)
    assert spec.inner(links, "a", h).dtype == spec.outer(links, "a", "b", h).dtype == jnp.float32
    close(spec.inner(links, "a", h), spec.inner(links, "a", h.astype(jnp.float32)), 0)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), links)
        y = spec.outer(wide, "a", "b", jnp.asarray(h, jnp.float64))
        assert y.dtype == jnp.float64
        close(y, spec.outer(links, "a", "b", h), 1e-5)
