"""LoRA factors beside matrices: the merged model is the oracle, for values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.models import ops
from rmas.parallel import param_shardings, use
from rmas.parallel.rules import meanings_of
from rmas.weights.lora import init_lora, merge_lora, with_lora
from rmas.weights.placement import heads_of
from rmas.weights.quantize import quantize, quantize_kernel
from support import rollouts
from support.fake_devices import mesh_of
from support.tiny_families import family_params, family_spec

ALPHA, RANK = 5.0, 3
VALID = np.arange(7) >= np.array([[0], [3]])
extended = functools.partial(pytest.param, marks=pytest.mark.extended)


def random_lora(params, dtype=np.float64):
    """An adapter whose factors are all at work."""
    random = np.random.default_rng(11)
    shapes = jax.eval_shape(lambda: init_lora(params, RANK, jax.random.key(0)))
    return jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape) * x.shape[-2] ** -0.5, dtype), shapes
    )


def paths(tree):
    return {
        "/".join(k.key for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("int8", [False, True])
def test_product_is_that_of_the_merged_matrix(int8):
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_BTD = jnp.asarray(random.standard_normal((2, 5, 12)))
        weights = {"kernel": jnp.asarray(random.standard_normal((12, 7)))}
        if int8:
            weights = quantize_kernel(weights["kernel"])
        full_DF = weights["kernel"].astype(np.float64)
        full_DF = full_DF * weights.get("scale", np.float64(1.0))
        a_DR, b_RF = (jnp.asarray(random.standard_normal(s)) for s in ((12, RANK), (RANK, 7)))

        def value(x_BTD, a_DR, b_RF, merged):
            if merged:
                y_BTF = x_BTD @ (full_DF + a_DR @ b_RF)
            else:
                y_BTF = ops.matmul(x_BTD, {**weights, "lora_a": a_DR, "lora_b": b_RF})
            return jnp.sum(jnp.sin(y_BTF) * np.arange(7))

        both = [
            jax.jit(jax.value_and_grad(functools.partial(value, merged=m), argnums=(0, 1, 2)))
            for m in (False, True)
        ]
        found, wanted = (f(x_BTD, a_DR, b_RF) for f in both)
    for x, y in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert x.dtype == np.float64
        close(x, y, 1e-12)


def test_the_product_of_the_factors_is_never_made():
    weights = {"kernel": (64, 48), "lora_a": (64, RANK), "lora_b": (RANK, 48)}
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in weights.items()}
    program = jax.make_jaxpr(ops.matmul)(jax.ShapeDtypeStruct((2, 64), np.float32), shapes)
    assert all(v.aval.shape != (64, 48) for e in program.eqns for v in e.outvars)


@pytest.mark.parametrize(
    ("family", "int8"),
    [
        ("gemma3", True),
        extended("qwen3_5", False),
        extended("llama", False),
        extended("mistral", False),
        extended("qwen2", False),
        extended("qwen3", True),
        extended("qwen3_5", True),
        extended("gemma3", False),
    ],
)
def test_models_of_all_families(family, int8):
    """Whole sequences and rollouts with a cache, of stacked layers and of those after them."""
    spec = family_spec(family)
    with jax.enable_x64(True):
        params = family_params(spec, 0, np.float64)
        params = quantize(params) if int8 else params
        lora = random_lora(params)
        ways = with_lora(params, lora, ALPHA), merge_lora(params, lora, ALPHA)
        random = np.random.default_rng(1)
        x_BTD = jnp.asarray(random.standard_normal((2, 7, spec.d_model)))
        map_DD = jnp.asarray(random.standard_normal((spec.d_model,) * 2) / 8)
        runs = []
        for own in ways:
            h_BTD, logits_BTV = rollouts.whole(spec, own, x_BTD, VALID)
            states_BMD, _ = rollouts.latent(spec, own, x_BTD, VALID, map_DD, 2)
            runs.append((h_BTD[VALID], logits_BTV[VALID], states_BMD))
        base_BTD, _ = rollouts.whole(spec, params, x_BTD, VALID)
    for found, wanted in zip(*runs, strict=True):
        assert found.dtype == np.float64
        close(found, wanted)
    assert np.abs(runs[0][0] - base_BTD[VALID]).max() > 1e-2
    kernels = {p.rpartition("/")[0] for p in paths(params) if p.endswith("_proj/kernel")}
    assert {p.rpartition("/")[0] for p in paths(lora)} == kernels
    assert set(paths(ways[1])) == {p for p in paths(params) if not p.endswith("_proj/scale")}


def test_a_new_adapter_changes_nothing():
    """Factors of stacked layers are stacked and differ; weights stay the same arrays."""
    spec = family_spec("gemma3", num_hidden_layers=3)
    params = family_params(spec)
    lora = jax.jit(lambda p: init_lora(p, RANK, jax.random.key(1)))(params)
    for path, value in paths(lora).items():
        owner, _, name = path.rpartition("/")
        *lead, width, features = paths(params)[f"{owner}/kernel"].shape
        shape = {"lora_a": (width, RANK), "lora_b": (RANK, features)}[name]
        assert value.shape == (*lead, *shape)
        assert value.dtype == np.float32
        if name == "lora_b":
            assert not np.any(value)
            continue
        bound = width**-0.5
        assert np.abs(value).max() <= bound
        assert abs(np.std(value) - bound / 3**0.5) < 0.2 * bound
    first = [value for path, value in paths(lora).items() if path.endswith("lora_a")]
    assert len({np.asarray(x).tobytes() for x in first}) == len(first)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    joined = paths(with_lora(half, lora, ALPHA))
    for path, value in paths(half).items():
        assert joined.pop(path) is value
    assert set(joined) == set(paths(lora))
    assert all(value.dtype == jnp.bfloat16 for value in joined.values())
    merged = merge_lora(half, lora, ALPHA)
    assert jax.tree.structure(merged) == jax.tree.structure(half)
    for x, y in zip(*map(jax.tree.leaves, (merged, half)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_factors_are_split_as_their_matrix():
    period = "layers/period/0"
    assert meanings_of(f"{period}/attention/q_proj/lora_a") == (None, "width", None)
    assert meanings_of(f"{period}/attention/q_proj/lora_b") == (None, None, "heads")
    assert meanings_of("layers/rest/0/mlp/down_proj/lora_a") == ("mlp", None)
    assert meanings_of("layers/rest/0/delta/v_proj/lora_b") == (None, "delta_value_heads")
    with pytest.raises(KeyError, match="norm/kernel"):
        meanings_of("norm/lora_a")


@pytest.mark.parametrize("family", ["qwen2", extended("qwen3_5"), extended("gemma3")])
def test_on_a_mesh(family):
    spec, mesh = family_spec(family), mesh_of(2, 2, 2)
    with jax.enable_x64(True):
        params = family_params(spec, 0, np.float64)
        params = with_lora(params, random_lora(params), ALPHA)
        x_BTD = jnp.asarray(np.random.default_rng(1).standard_normal((2, 7, spec.d_model)))
        wanted, _ = rollouts.whole(spec, params, x_BTD, VALID)
        placed = jax.device_put(params, param_shardings(mesh, params, heads_of(spec)))
        with use(mesh):
            found, _ = rollouts.whole(spec, placed, x_BTD, VALID)
    close(found[VALID], wanted[VALID])
