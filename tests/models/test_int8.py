"""Models with int8 weights: what they compute, its gradient, and what it costs in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.links import LinkSpec, init_links
from rmas.models import abstract_params, ops
from rmas.system.turn import SystemSpec, rollout
from rmas.weights.quantize import quantize, quantize_kernel
from support import rollouts
from support.tiny_families import family_params, family_spec

extended = functools.partial(pytest.param, marks=pytest.mark.extended)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def dequantised(params, dtype):
    """The full model that an int8 one stands for."""
    if "scale" in params and params["kernel"].dtype == jnp.int8:
        kernel = params["kernel"].astype(dtype) * params["scale"].astype(dtype)[..., None, :]
        return {name: x for name, x in params.items() if name != "scale"} | {"kernel": kernel}
    return {name: dequantised(x, dtype) if isinstance(x, dict) else x for name, x in params.items()}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape)


# One product.


def test_product_and_gradient_are_those_of_the_dequantised_matrix():
    with jax.enable_x64(True):
        made = quantize_kernel(jnp.asarray(random(12, 7)))
        full = dequantised(made, np.float64)
        x_BTD, w_BTF = jnp.asarray(random(2, 5, 12)), random(2, 5, 7)

        def value(weights, x_BTD):
            return jnp.sum(jnp.sin(ops.matmul(x_BTD, weights)) * w_BTF)

        for f in (ops.matmul, jax.grad(value, argnums=1)):
            arguments = (x_BTD, made) if f is ops.matmul else (made, x_BTD)
            wanted = (x_BTD, full) if f is ops.matmul else (full, x_BTD)
            found, expected = jax.jit(f)(*arguments), jax.jit(f)(*wanted)
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        # Frozen: nothing flows into the weights.
        assert not jax.grad(value, allow_int=True)(made, x_BTD)["scale"].any()


def test_bfloat16_stream_is_multiplied_in_float32():
    """Sums and scales are in float32; the only rounding is of the result."""
    made = quantize_kernel(jnp.asarray(random(256, 5), jnp.float32))
    x_TD = jnp.asarray(random(3, 256), jnp.bfloat16)
    found = ops.matmul(x_TD, made)
    assert found.dtype == jnp.bfloat16
    exact = np.asarray(x_TD, np.float64) @ dequantised(jax.device_get(made), np.float64)["kernel"]
    step = np.spacing(np.abs(exact).astype(jnp.bfloat16)).astype(np.float64)
    assert (np.abs(np.asarray(found, np.float64) - exact) <= 0.501 * step).all()


# Whole models.

VALID = np.arange(7) >= np.array([[0], [3]])
IDS = np.random.default_rng(0).integers(0, 42, VALID.shape, np.int32)


def runs(spec, params, x_BTD, map_DD) -> dict[str, np.ndarray]:
    """States and logits of a prompt, the states of a rollout, greedy ids."""
    h_BTD, logits_BTV = rollouts.whole(spec, params, x_BTD, VALID)
    states_BMD, _ = rollouts.latent(spec, params, x_BTD, VALID, map_DD, 3)
    ids_BM = rollouts.greedy(spec, params, IDS, VALID, 6)
    return {
        "hidden": np.asarray(h_BTD)[VALID],
        "logits": np.asarray(logits_BTV)[VALID],
        "states": np.asarray(states_BMD),
        "ids": np.asarray(ids_BM),
    }


@pytest.mark.parametrize(
    "family", ["qwen3", slow("qwen3_5"), extended("llama"), extended("gemma3")]
)
def test_model_is_the_dequantised_one(family):
    """Every matrix of every layer, prefill, cached steps and the head: the same numbers."""
    with jax.enable_x64(True):
        spec = family_spec(family)
        made = quantize(family_params(spec, 0, np.float64))
        x_BTD = jnp.asarray(random(2, 7, spec.d_model))
        map_DD = jnp.asarray(random(spec.d_model, spec.d_model)) * spec.d_model**-0.5
        found = runs(spec, made, x_BTD, map_DD)
        expected = runs(spec, dequantised(made, np.float64), x_BTD, map_DD)
    for name, x in found.items():
        np.testing.assert_allclose(x, expected[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("family", ["qwen3", extended("qwen3_5"), extended("gemma3")])
def test_change_of_logits(family):
    """Random models change by 1 to 2.5% of their logits' size; 1 to 3% with a bfloat16 stream."""
    spec = family_spec(family)
    params = family_params(spec)
    x_BTD = jnp.asarray(random(2, 7, spec.d_model), jnp.float32)
    full_BTV = np.asarray(rollouts.whole(spec, params, x_BTD, VALID)[1])[VALID]
    for dtype, least, most in ((jnp.float32, 5e-3, 0.03), (jnp.bfloat16, 5e-3, 0.04)):
        made = quantize(jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), params))
        h_BTD, logits_BTV = rollouts.whole(spec, made, x_BTD, VALID)
        assert (h_BTD.dtype, logits_BTV.dtype) == (dtype, jnp.float32)
        change = np.asarray(logits_BTV)[VALID] - full_BTV
        assert least < np.sqrt(np.mean(change**2) / np.mean(full_BTV**2)) < most


# Memory of links' gradients through a rollout.

WIDTH, AGENT = 128, "a"
# Otherwise XLA's CPU backend runs whatever depends on nothing first: all dequantisations at once.
MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
WIDE = {
    "qwen3": {"num_hidden_layers": 4},
    # One period: nothing but its own loop over steps keeps its weights from being dequantised.
    "qwen3_5": {"num_hidden_layers": 4, "full_attention_interval": 4},
    "gemma3": {"num_hidden_layers": 5, "sliding_window_pattern": 3},
}


@functools.cache
def scratch(family: str, int8: bool, steps: int, checkpoint: bool) -> int:
    """Bytes that the gradient needs beside its arguments and results."""
    spec = family_spec(family, hidden_size=WIDTH, intermediate_size=4 * WIDTH, **WIDE[family])
    system = SystemSpec(((AGENT, spec),), LinkSpec("linear", ((AGENT, WIDTH),), ()))
    links = jax.eval_shape(lambda: init_links(system.links, jax.random.key(0)))
    params = abstract_params(spec)
    params = jax.eval_shape(quantize, params) if int8 else params

    def loss(links, params, x_BTD, valid_BT):
        z_BMD = rollout(system, params, links, AGENT, x_BTD, valid_BT, steps, checkpoint)[1]
        return jnp.sum(jnp.sin(z_BMD))

    x_BTD = jax.ShapeDtypeStruct((1, 4, WIDTH), jnp.float32)
    valid_BT = jax.ShapeDtypeStruct((1, 4), bool)
    program = jax.jit(jax.grad(loss), compiler_options=MEMORY)
    compiled = program.lower(links, params, x_BTD, valid_BT).compile()
    return compiled.memory_analysis().temp_size_in_bytes


# The largest matrix of these models, dequantised, and a little more.
ONE_MATRIX = 4 * WIDTH * WIDTH * 4 + 20_000


@pytest.mark.parametrize(
    ("family", "checkpoint"),
    [
        slow("qwen3", True),
        extended("qwen3_5", True),
        extended("gemma3", False),
    ],
)
def test_gradient_holds_no_dequantised_weights(family, checkpoint):
    """At m = 4 and 16 it needs what the full model's needs, and one matrix at a time.

    All matrices in float32 are 12 to 16 of that size.
    """
    extra = [
        scratch(family, True, steps, checkpoint) - scratch(family, False, steps, checkpoint)
        for steps in (4, 16)
    ]
    assert max(extra) < ONE_MATRIX
    assert abs(extra[1] - extra[0]) < 20_000


def differentiated(x_TD, q_DF, scale_F):
    """Reverse mode keeps what multiplied its argument."""
    return x_TD @ (q_DF * scale_F)


@jax.custom_vjp
def unfenced(x_TD, q_DF, scale_F):
    """Nothing keeps the loop over steps from dequantising once and for all."""
    return x_TD @ q_DF.astype(x_TD.dtype) * scale_F


def _unfenced_backward(stored, dy_TF):
    q_DF, scale_F = stored
    return (dy_TF * scale_F) @ q_DF.astype(dy_TF.dtype).T, None, None


unfenced.defvjp(lambda x, q, scale: (unfenced(x, q, scale), (q, scale)), _unfenced_backward)


@pytest.mark.parametrize(
    ("family", "product"), [("qwen3", differentiated), extended("qwen3_5", unfenced)]
)
def test_other_products_would_hold_them_all(family, product, monkeypatch):
    """The measure sees what it is there for."""
    full = scratch(family, False, 4, True)
    monkeypatch.setattr(ops, "int8_matmul", product)
    assert scratch.__wrapped__(family, True, 4, True) - full > 12 * ONE_MATRIX
