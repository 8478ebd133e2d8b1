"""What a prefill is said to need against what XLA's compiler reports of the program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from rmas import models, parallel
from rmas.models.base import base_spec
from rmas.system.sizes import copied_bytes, prefill_bytes
from rmas.weights.placement import abstract_weights

FACTOR = 1.5
slow = pytest.mark.slow
ONE = parallel.single_device_mesh().abstract_mesh


def compiled_bytes(spec, rows: int, positions: int) -> int:
    """Temporary memory of the program that prefills and gives the next token's logits."""
    params = abstract_weights(spec, jnp.float32, False)
    x_BTD = jax.ShapeDtypeStruct((rows, positions, spec.d_model), jnp.float32)
    valid_BT = jax.ShapeDtypeStruct((rows, positions), bool)

    def first(params, x_BTD, valid_BT):
        h_BD, prefix = models.prefill(spec, params, x_BTD, valid_BT)
        return models.unembed(spec, params, h_BD), prefix

    compiled = jax.jit(first).lower(params, x_BTD, valid_BT).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("model", "rows", "positions"),
    [
        ("Qwen/Qwen3-1.7B", 8, 256),  # all scores at once
        ("Qwen/Qwen3-1.7B", 8, 2048),
        pytest.param("meta-llama/Llama-3.2-1B-Instruct", 2, 1024, marks=slow),
        pytest.param("google/gemma-3-4b-it", 8, 1024, marks=slow),
        pytest.param("Qwen/Qwen3.5-2B", 8, 1024, marks=slow),
    ],
)
def test_prefill_needs_what_the_compiler_reports(model, rows, positions):
    spec = base_spec(model)
    spec = dataclasses.replace(spec, layers=2 * spec.period)
    counted = prefill_bytes(spec, rows, positions, mesh=ONE, dtype=jnp.float32)
    counted += copied_bytes(spec, mesh=ONE, dtype=jnp.float32)
    assert 1 / FACTOR < counted / compiled_bytes(spec, rows, positions) < FACTOR


def test_a_mesh_divides_what_it_splits():
    spec = base_spec("Qwen/Qwen3-1.7B")

    def needs(rows: int, **sizes: int) -> int:
        mesh = parallel.abstract_mesh(parallel.MeshSpec(**sizes), math.prod(sizes.values()))
        return prefill_bytes(spec, rows, 1024, mesh=mesh, dtype=jnp.bfloat16)

    assert needs(8) == needs(16, data=2) == needs(32, data=2, fsdp=2)
    assert needs(8) / 2 < needs(8, tensor=2) < needs(8)
    assert needs(8, tensor=16) > needs(8, tensor=8)  # 8 key/value heads
