"""What a training step needs of each device's memory, without loading a weight or running a step.

Weights, links and the optimizer's moments are counted from shapes and shardings. The temporary
memory of a step is what XLA reports of the compiled program (`memory_analysis`).

What that is in outer training with R rounds, M latent steps, B rows, and agents of width D:

* A turn is computed again for its gradient, from its messages (activation checkpointing). It then
  needs `P`, its prompt's activations, and for the latent steps `(n + s) tail(M)`: they are
  checkpointed in n blocks of s (about the root of M), each of which stores a tail of M - 1 cache
  slots and a state at its start, and within the block that is computed again each step stores as
  much. A recurrent layer's tail is its state, whatever M.
* A message is kept for every edge and round: `4 B M D` bytes.

So a step needs `t (P + (n + s) tail(M)) + (R - 1) messages(M)`. Compilers that keep the order of
recomputation (TPU, GPU) hold t = 1 turn at a time. XLA's compiler for CPUs, which plans use, does
not keep that order: it holds all turns of one round that are in one loop, and where R = 2, as it
unrolls the loop, every turn of the step.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rmas import models
from rmas.models import ModelSpec
from rmas.parallel.axes import parts
from rmas.training.objectives import Lengths, TrainingContext


def tail_bytes(spec: ModelSpec, rows: int, slots: int, dtype: Any) -> int:
    """Bytes of an agent's cache of so many slots (at least one) and of its recurrent states."""

    def tail() -> Any:
        x_BTD = jnp.zeros((rows, 16, spec.d_model), dtype)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), models.abstract_params(spec))
        _, prefix = models.prefill(spec, params, x_BTD, jnp.ones((rows, 16), bool))
        return models.open_tail(spec, prefix, max(slots, 1), dtype)[1]

    leaves = jax.tree.leaves(jax.eval_shape(tail))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def turn_caches(
    context: TrainingContext, rows: int, lengths: Lengths, mesh: Mesh, dtype: Any = jnp.float32
) -> int:
    """Bytes of keys, values and states: of all preambles, and of the largest turn after them.

    `rows` are those of a part of the batch (gradient accumulation), over all devices.
    """
    incoming, m = context.topology.incoming, context.latent_steps
    rows = -(-rows // parts(mesh, "batch"))

    def bytes_of(spec: ModelSpec, positions: int) -> int:
        share = parts(mesh, "kv_heads")
        split = share if spec.n_kv_heads and spec.n_kv_heads % share == 0 else 1
        return tail_bytes(spec, rows, positions, dtype) // split

    rest, specs = lengths.prompt - lengths.preamble, context.spec.models
    turns = (bytes_of(spec, rest + m * len(incoming(agent)) + m) for agent, spec in specs)
    preambles = sum(bytes_of(spec, lengths.preamble) for _, spec in specs if lengths.preamble)
    return preambles + max(turns)
