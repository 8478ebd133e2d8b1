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

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmas import models
from rmas.links import init_links
from rmas.models import ModelSpec
from rmas.parallel import replicated, state_shardings, use
from rmas.parallel.axes import AXES_OF, parts
from rmas.shapes import Array, Params
from rmas.training import optim as optimizers
from rmas.training.examples import Text
from rmas.training.loop import Schedule
from rmas.training.objectives import (
    OBJECTIVES,
    Lengths,
    LossAndMetrics,
    Probes,
    TrainingContext,
    WeightedObjectives,
    batch_axes,
    inner_loss,
    make_probes,
    system_loss,
)
from rmas.training.objectives.base import abstract, zero_text
from rmas.training.step import Loss, init_train_state, make_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      weights: of all agents, which are all in memory.
      links: trained and fixed ones.
      optimizer: its moments.
      update: the new links and moments, beside the old ones.
      batch: a step's input.
      caches: keys, values and states of the largest turn; part of the step's temporary memory.
      activations: the rest of that.
    """

    weights: int
    links: int
    optimizer: int
    update: int
    batch: int
    caches: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(dataclasses.astuple(self))


def outer_step(
    context: TrainingContext,
    objective: WeightedObjectives,
    *,
    params: dict[str, Params],
    trained: tuple[str, ...],
    schedule: Schedule,
    rounds: int,
    lengths: Lengths,
    mesh: Mesh,
    weights: int | None = None,
) -> Memory:
    """Compiles a step of outer training for abstract arrays, and reads what it needs.

    Args:
      params: shapes of each agent's weights, with their shardings on the mesh. Compilers for CPUs
        compute bfloat16 in float32, and copy all weights for it: use float32 here.
      trained: the parts of the links that are trained.
      mesh: of devices that this process has; they may be made-up ones of the CPU.
      weights: bytes of the weights on a device, where their dtype is not that of `params`.
    """
    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    template = {part: every[part] for part in trained}
    fixed = {part: every[part] for part in every if part not in trained}
    fixed = jax.tree.map(lambda x: _at(x, replicated(mesh)), fixed)

    def loss(
        links: Params, frozen: Any, batches: dict[str, Any], key: Array, probes: Probes
    ) -> LossAndMetrics:
        agents, fixed = frozen
        return system_loss(context, objective, agents, fixed | links, batches, key, probes)

    rows = schedule.batch_size
    batches = {
        name: OBJECTIVES[name].abstract_batch(context, rounds, rows, lengths)
        for name, _ in objective
    }
    return _step(
        loss,
        template=template,
        frozen=(params, fixed),
        batch=batches,
        axes=batch_axes(objective),
        schedule=schedule,
        mesh=mesh,
        probes=make_probes(context, rounds),
        caches=_caches(context, rows // schedule.accumulate, lengths, mesh),
        weights=weight_bytes(params) if weights is None else weights,
        more_links=device_bytes(fixed),
    )


def inner_step(
    context: TrainingContext,
    params: dict[str, Params],
    schedule: Schedule,
    lengths: Lengths,
    mesh: Mesh,
    weights: int | None = None,
) -> Memory:
    """`outer_step` for inner training: the step of the agent that needs most.

    All agents are in memory, as in training.
    """
    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    largest = max(context.topology.agents, key=lambda a: device_bytes(params[a]))

    def loss(inner: Params, frozen: Params, batch: Text, key: Array) -> LossAndMetrics:
        tree = {"inner": {largest: inner}, "outer": {}}
        return inner_loss(context, largest, frozen, tree, batch), {}

    texts = lengths.text * (1 + len(context.topology.incoming(largest)))
    positions = lengths.prompt + texts
    return _step(
        loss,
        template=every["inner"][largest],
        frozen=params[largest],
        batch=abstract(lambda: zero_text(schedule.batch_size, positions=positions)),
        axes=0,
        schedule=schedule,
        mesh=mesh,
        weights=weight_bytes(params) if weights is None else weights,
    )


def _step(
    loss: Loss,
    *,
    template: Params,
    frozen: Any,
    batch: Any,
    axes: Any,
    schedule: Schedule,
    mesh: Mesh,
    probes: Probes | None = None,
    weights: int,
    caches: int = 0,
    more_links: int = 0,
) -> Memory:
    optimizer = optimizers.make(schedule.optim)
    state = jax.eval_shape(lambda links: init_train_state(links, optimizer), template)
    shardings = state_shardings(mesh, state)
    state = jax.tree.map(_at, state, shardings)
    batch = jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: _at(x, _rows(mesh, axis)), part), axes, batch
    )
    step = make_step(
        loss,
        optimizer,
        seed=0,
        shardings=shardings,
        mesh=mesh,
        axes=axes,
        accumulate=schedule.accumulate,
        probes=probes,
    )
    with use(mesh):
        compiled = step.lower(state, frozen, batch).compile()
    needs = compiled.memory_analysis()
    assert needs is not None, "the compilers of CPUs, GPUs and TPUs report what a program needs"
    temporary = needs.temp_size_in_bytes
    caches = min(caches, temporary)
    return Memory(
        weights=weights,
        links=device_bytes(state.links) + more_links,
        optimizer=device_bytes(state.opt_state),
        update=needs.output_size_in_bytes - needs.alias_size_in_bytes,
        batch=device_bytes(batch),
        caches=caches,
        activations=temporary - caches,
    )


def weight_bytes(params: dict[str, Params]) -> int:
    """Bytes of all agents' weights on one device; those that agents share count once."""
    return sum(map(device_bytes, {id(tree): tree for tree in params.values()}.values()))


def device_bytes(tree: Any) -> int:
    """Bytes of one device's parts of a tree of `jax.ShapeDtypeStruct`s."""

    def one(x: jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def tail_bytes(spec: ModelSpec, rows: int, slots: int, dtype: Any) -> int:
    """Bytes of an agent's cache of so many slots (at least one) and of its recurrent states."""

    def tail() -> Any:
        x_BTD = jnp.zeros((rows, 16, spec.d_model), dtype)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), models.abstract_params(spec))
        _, prefix = models.prefill(spec, params, x_BTD, jnp.ones((rows, 16), bool))
        return models.open_tail(spec, prefix, max(slots, 1), dtype)[1]

    leaves = jax.tree.leaves(jax.eval_shape(tail))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def _caches(context: TrainingContext, rows: int, lengths: Lengths, mesh: Mesh) -> int:
    """Bytes of the largest turn's keys, values and states: of its prompt and its latent steps."""
    incoming, m = context.topology.incoming, context.latent_steps
    rows = -(-rows // parts(mesh, "batch"))

    def one(agent: str, spec: ModelSpec) -> int:
        positions = lengths.prompt + m * len(incoming(agent)) + m
        share = parts(mesh, "kv_heads")
        split = share if spec.n_kv_heads and spec.n_kv_heads % share == 0 else 1
        return tail_bytes(spec, rows, positions, jnp.float32) // split

    return max(one(agent, spec) for agent, spec in context.spec.models)


def _at(x: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _rows(mesh: Mesh, axis: int) -> NamedSharding:
    return NamedSharding(mesh, P(*[None] * axis, AXES_OF["batch"]))
