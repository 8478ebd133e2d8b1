"""The TPU's compiler copies no weights and no prompt's cache for latent steps; no TPU is needed.

What an array of a layer's size is made by, in the loop over layers inside the loop over latent
steps, must be a product: a slice, copy or transpose of a weight outside one would read and write
it once more. Nor may one be made at each step, or of all layers once a call. Programs are compiled
for one described v5e chip (`libtpu` brings the compiler).
"""

import math
import re
from collections.abc import Sequence

import jax.numpy as jnp
import pytest

from rmas.links import LinkSpec
from rmas.parallel import make_mesh, parse_mesh
from rmas.parallel.slices import describe_devices, parse_slice
from rmas.plans import arguments, programs
from rmas.plans.instructions import Computations, Instruction, computations
from rmas.system.topology import Edge, Topology
from rmas.system.turn import LATENT_STEPS, SystemSpec
from support.tiny_families import family_spec

pytestmark = [pytest.mark.tpu, pytest.mark.usefixtures("optimized")]

AGENT, ROWS, PROMPT, STEPS = "a", 8, 256, 8
SOLO = Topology("solo", (AGENT,), (Edge(AGENT, AGENT, "feedback"),), AGENT)
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


def rollout(family: str, int8: bool) -> Computations:
    """The compiled program of a rollout."""
    model = family_spec(family, **FAMILIES[family])
    links = LinkSpec("linear", ((AGENT, model.d_model),), SOLO.link_edges)
    mesh = make_mesh(parse_mesh("single"), describe_devices(parse_slice("v5e:1x1")))
    system = arguments.abstract_system(
        SOLO, SystemSpec(((AGENT, model),), links), mesh, dtype=jnp.bfloat16, quantize=int8
    )
    program = programs.rollout(system, AGENT, steps=STEPS, rows=ROWS, positions=PROMPT)
    return computations(program.text)


def bodies(instructions: Sequence[Instruction]) -> list[str]:
    """The bodies of the loops in a computation."""
    return [name for i in instructions if i.opcode == "while" for name in i.called]


def large_arrays(found: Computations, body: str, size: int) -> list[str]:
    """The instructions outside products that make an array like a weight, of at least `size`.

    Recurrent states are float32, which no weight is.
    """
    large = []
    for instruction in found[body]:
        if instruction.opcode in _FREE or _PREFETCH.match(instruction.opcode):
            continue
        if "AllocateBuffer" in instruction.text:
            continue
        called = [part for name in instruction.called for part in found[name]]
        if any(part.opcode in _PRODUCTS for part in (instruction, *called)):
            continue
        shapes = re.findall(r"(?:bf16|s8)\[([\d,]+)\]", instruction.shape)
        if any(math.prod(map(int, shape.split(","))) >= size for shape in shapes):
            large.append(instruction.text.strip()[:160])
    return large


@pytest.mark.parametrize(
    ("family", "int8"), [("qwen3", False), ("qwen3", True), ("qwen3_5", False)]
)
def test_latent_step_copies_no_weights(family, int8):
    found = rollout(family, int8)
    entry = next(iter(found))
    steps = bodies([i for i in found[entry] if LATENT_STEPS in i.source])
    layers = [inner for body in steps for inner in bodies(found[body])]
    assert layers
    model = family_spec(family, **FAMILIES[family])
    smallest = model.d_model * model.n_kv_heads * model.head_dim
    assert smallest <= ROWS * PROMPT * model.n_kv_heads * model.head_dim
    assert not [line for body in layers + steps for line in large_arrays(found, body, smallest)]
    assert not large_arrays(found, entry, smallest * model.n_periods)
