"""The TPU's compiler copies no weights and no caches for a latent step; no TPU is needed.

What an array of a layer's size is made by, in the loop over layers inside the loop over latent
steps, must be a product: a slice, copy or transpose of a weight outside one would read and write
it once more. Programs are compiled for one described v5e chip (`libtpu` brings the compiler).
"""

import math
import os
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from rmas.links import LinkSpec, init_links
from rmas.system.turn import SystemSpec, rollout
from rmas.weights.placement import abstract_weights
from support.tiny_families import family_spec

pytest.importorskip("libtpu")
pytestmark = [pytest.mark.tpu, pytest.mark.usefixtures("optimized")]

AGENT, BATCH, PROMPT, STEPS = "a", 8, 32, 8
# Every kernel of a layer is larger than its caches, and all layers together than a chip's VMEM.
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
}
DELTA = {
    "full_attention_interval": 2,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
}
FAMILIES = {"qwen3": SIZES, "qwen3_5": SIZES | DELTA}
_PRODUCTS = ("convolution", "dot")
# These make no array, or read one into VMEM while others are computed.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "constant")
_PREFETCH = re.compile(r"(copy|slice|async)-(start|done|update)")


@pytest.fixture(autouse=True)
def _described_devices(monkeypatch):
    """Settings of libtpu where there is no TPU; its programs cannot be cached."""
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
        if name not in os.environ:
            monkeypatch.setenv(name, value)
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", cached)


def compiled(family: str, int8: bool) -> str:
    """The text of a rollout's program."""
    from jax.experimental import topologies

    chip = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    spec = family_spec(family, **FAMILIES[family])
    system = SystemSpec(((AGENT, spec),), LinkSpec("linear", ((AGENT, spec.d_model),), ()))

    def on_chip(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(chip))

    @jax.jit
    def program(params, links, x_BTD, valid_BT):
        return rollout(system, params, links, AGENT, x_BTD, valid_BT, STEPS)

    arguments = (
        abstract_weights(spec, jnp.bfloat16, int8),
        jax.eval_shape(lambda: init_links(system.links, jax.random.key(0))),
        jax.ShapeDtypeStruct((BATCH, PROMPT, spec.d_model), jnp.bfloat16),
        jax.ShapeDtypeStruct((BATCH, PROMPT), bool),
    )
    return program.lower(*jax.tree.map(on_chip, arguments)).compile().as_text()


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a compiled program, by its name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            lines = found.setdefault(head[1], [])
        elif line.startswith("  "):
            lines.append(line)
    return found


def loops(lines: list[str]) -> list[str]:
    """The bodies of the loops in a computation."""
    return re.findall(r" while\(.*?body=%?([\w.\-]+)", "\n".join(lines))


def large_arrays(parts: dict[str, list[str]], body: str, size: int) -> list[str]:
    """The instructions outside products that make an array like a weight, of at least `size`.

    Recurrent states are float32, which no weight is.
    """
    found = []
    for line in parts[body]:
        made = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(", line)
        if made is None or made[2] in _FREE or _PREFETCH.match(made[2]):
            continue
        called = re.search(r"calls=%?([\w.\-]+)", line)
        inside = parts[called[1]] if called else [line]
        if any(f" {product}(" in part for part in inside for product in _PRODUCTS):
            continue
        shapes = re.findall(r"(?:bf16|s8)\[([\d,]+)\]", made[1])
        if any(math.prod(map(int, shape.split(","))) >= size for shape in shapes):
            found.append(line.strip()[:160])
    return found


@pytest.mark.parametrize(
    ("family", "int8"), [("qwen3", False), ("qwen3", True), ("qwen3_5", False)]
)
def test_latent_step_copies_no_weights(family, int8):
    parts = computations(compiled(family, int8))
    steps = {body for lines in parts.values() for body in loops(lines)}
    layers = {inner for body in steps for inner in loops(parts[body])}
    assert layers
    spec = family_spec(family, **FAMILIES[family])
    smallest = spec.d_model * spec.n_kv_heads * spec.head_dim
    assert not [line for body in layers for line in large_arrays(parts, body, smallest)]
