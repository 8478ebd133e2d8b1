"""What a step of training needs of each device, told without a weight and without running.

Weights, links and the optimizer's moments are counted from shapes and shardings. What comes and
goes while the step runs is what XLA says of the compiled program (`memory_analysis`).

Where that goes in outer training with R rounds, m latent steps, B rows, and agents of width D:

* A turn is computed again for its gradient, from its messages. What it then needs is `P`, its
  prompt's activations, and for the latent steps `(n + s) tail(m)`: they are kept in n blocks of s
  (about the root of m) whose starts hold a tail of m - 1 cache slots and a state, and of the block
  that is at work each step holds as much. A recurrent layer's tail is its state, whatever m.
* A message is kept for every edge and round: `4 B m D` bytes.

So a step needs `t (P + (n + s) tail(m)) + (R - 1) messages(m)`. Compilers that keep the order of
recomputation (TPU, GPU) hold t = 1 turn at a time. XLA's for the CPU, which plans use, drops the
fences: it holds all turns of one round that are in one loop, and where R = 2, as it unrolls the
loop, every turn of the step.
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
from rmas.shapes import Params
from rmas.system.batch import bucket
from rmas.system.turn import Prompt
from rmas.training import optim as optimizers
from rmas.training.examples import EdgeTargets, Targets, Text
from rmas.training.loop import Schedule
from rmas.training.objectives import OBJECTIVES, TrainingContext, inner_loss, system_loss, taps_of
from rmas.training.step import Loss, init_train_state, make_step


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of a question with its prompt, and of a role's text."""

    prompt: int
    text: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    `update` are the new links and moments beside the old. `caches` are those of the largest turn,
    and part of what the compiler counts; `activations` is the rest of that.
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
        """All of it."""
        return sum(dataclasses.astuple(self))


def outer_step(
    context: TrainingContext,
    objective: tuple[tuple[str, float], ...],
    params: dict[str, Params],
    trained: tuple[str, ...],
    schedule: Schedule,
    rounds: int,
    lengths: Lengths,
    mesh: Mesh,
    weights: int | None = None,
) -> Memory:
    """Compiles a step of outer training for arrays that need not exist, and asks what it needs.

    Args:
      params: shapes of each agent's weights, with their shardings on the mesh. Compilers for CPUs
        compute bfloat16 in float32, and copy all weights for it: take float32 here.
      trained: the parts of the links that are trained.
      mesh: of devices that are here; they may be fake ones of the CPU.
      weights: their bytes on a device, where they are held in another type than `params`.
    """
    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    template = {part: every[part] for part in trained}
    fixed = {part: every[part] for part in every if part not in trained}
    fixed = jax.tree.map(lambda x: _at(x, replicated(mesh)), fixed)

    def loss(links, frozen, batches, key, taps):
        agents, fixed = frozen
        return system_loss(context, objective, agents, fixed | links, batches, key, taps)

    rows = schedule.batch_size
    return _step(
        loss,
        template,
        (params, fixed),
        {name: abstract_batch(name, context, rounds, rows, lengths) for name, _ in objective},
        {name: OBJECTIVES[name].axes for name, _ in objective},
        schedule,
        mesh,
        taps_of(context, rounds),
        caches=_caches(context, rows // schedule.accumulate, lengths, mesh),
        weights=weights_of(params) if weights is None else weights,
        more=held(fixed),
    )


def inner_step(
    context: TrainingContext,
    params: dict[str, Params],
    schedule: Schedule,
    lengths: Lengths,
    mesh: Mesh,
    weights: int | None = None,
) -> Memory:
    """The same of inner training: the step of the agent that needs most; all are in memory."""
    every = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    largest = max(context.topology.agents, key=lambda a: held(params[a]))

    def loss(inner, frozen, batch, key):
        tree = {"inner": {largest: inner}, "outer": {}}
        return inner_loss(context, largest, frozen, tree, batch), {}

    texts = lengths.text * (1 + len(context.topology.incoming(largest)))
    prompt = _prompt(schedule.batch_size, positions=lengths.prompt + texts)
    batch = Text(prompt, jax.ShapeDtypeStruct(prompt.ids_BT.shape, jnp.bool_))
    weights = weights_of(params) if weights is None else weights
    link = every["inner"][largest]
    return _step(loss, link, params[largest], batch, 0, schedule, mesh, weights=weights)


def _step(
    loss: Loss,
    template: Params,
    frozen: Any,
    batch: Any,
    axes: Any,
    schedule: Schedule,
    mesh: Mesh,
    taps: Params | None = None,
    *,
    weights: int,
    caches: int = 0,
    more: int = 0,
) -> Memory:
    optimizer = optimizers.make(schedule.optim)
    state = jax.eval_shape(lambda links: init_train_state(links, optimizer), template)
    place = state_shardings(mesh, state)
    state = jax.tree.map(_at, state, place)
    batch = jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: _at(x, _rows(mesh, axis)), part), axes, batch
    )
    step = make_step(loss, optimizer, 0, place, mesh, axes, schedule.accumulate, taps)
    with use(mesh):
        compiled = step.lower(state, frozen, batch).compile()
    needs = compiled.memory_analysis()
    temporary = needs.temp_size_in_bytes
    caches = min(caches, temporary)
    return Memory(
        weights=weights,
        links=held(state.links) + more,
        optimizer=held(state.opt_state),
        update=needs.output_size_in_bytes - needs.alias_size_in_bytes,
        batch=held(batch),
        caches=caches,
        activations=temporary - caches,
    )


def weights_of(params: dict[str, Params]) -> int:
    """Bytes of all agents' weights on one device; those that agents share count once."""
    return sum(map(held, {id(tree): tree for tree in params.values()}.values()))


def _prompt(*lead: int, positions: int, take: int | None = None) -> Prompt:
    shape = (*lead, bucket(positions))
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    taken = None if take is None else jax.ShapeDtypeStruct((*lead, take), jnp.int32)
    return Prompt(ids, jax.ShapeDtypeStruct(shape, jnp.bool_), ids, taken)


def held(tree: Any) -> int:
    """Bytes of one device's parts of a tree of shapes."""

    def one(x: jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def abstract_batch(
    name: str, context: TrainingContext, rounds: int, rows: int, lengths: Lengths
) -> Any:
    """The shapes of what an objective reads."""
    topology, m = context.topology, context.latent_steps
    forced = name == "teacher_forced"
    sent = lengths.text if forced else m

    def ints(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def bools(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bool_)

    own = {a: lengths.prompt + sent * len(topology.incoming(a)) for a in topology.agents}
    if forced:
        texts = {
            a: _prompt(rounds, rows, positions=n + lengths.text, take=sent) for a, n in own.items()
        }
        return {a: Text(p, bools(*p.ids_BT.shape)) for a, p in texts.items()}
    prompts = {a: _prompt(rounds, rows, positions=n) for a, n in own.items()}
    if name == "rollout":
        last = _prompt(rows, positions=own[topology.output] + lengths.text)
        return prompts, Text(last, bools(*last.ids_BT.shape))
    N = bucket(m)
    weights = jax.ShapeDtypeStruct((rounds, rows, m, N), jnp.float32)
    targets = {
        a: Targets(
            ints(rounds, rows, m),
            bools(rounds, rows, m),
            {
                f"{e.src}->{e.dst}": EdgeTargets(ints(rounds, rows, N), weights)
                for e in topology.outgoing(a)
            },
        )
        for a in topology.agents
    }
    return prompts, targets


def growth(context: TrainingContext, rounds: int, rows: int, dtype: Any) -> tuple[int, int]:
    """Bytes of `(n + s) tail(m)` of the largest turn, and of all messages that are kept."""
    m = context.latent_steps
    size = math.isqrt(m - 1) if m > 4 else max(m - 1, 1)
    blocks = -(-(m - 1) // size)
    tails = max(_tail(spec, rows, m, dtype) for _, spec in context.spec.models)
    widths = dict(context.spec.links.widths)
    messages = sum(4 * rows * m * widths[e.dst] for e in context.topology.edges)
    return (blocks + size) * tails, (rounds - 1) * messages


def turns_held(context: TrainingContext, rounds: int) -> int:
    """How many turns' activations XLA's CPU compiler holds at once (see the module)."""
    before, every = len(context.topology.before), len(context.topology.agents)
    return max(before, 1) if rounds == 1 else before + every if rounds == 2 else every


def _tail(spec: ModelSpec, rows: int, m: int, dtype: Any) -> int:
    def tail():
        x_BTD = jnp.zeros((rows, 16, spec.d_model), dtype)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), models.abstract_params(spec))
        _, prefix = models.prefill(spec, params, x_BTD, jnp.ones((rows, 16), bool))
        return models.open_tail(spec, prefix, max(m - 1, 1), dtype)[1]

    leaves = jax.tree.leaves(jax.eval_shape(tail))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def _caches(context: TrainingContext, rows: int, lengths: Lengths, mesh: Mesh) -> int:
    """Of the largest turn: keys, values and states of its prompt and its latent steps."""
    incoming, m = context.topology.incoming, context.latent_steps
    rows = -(-rows // parts(mesh, "batch"))

    def one(agent: str, spec: ModelSpec) -> int:
        positions = lengths.prompt + m * len(incoming(agent)) + m
        share = parts(mesh, "kv_heads")
        split = share if spec.n_kv_heads and spec.n_kv_heads % share == 0 else 1
        return _tail(spec, rows, positions + 1, jnp.float32) // split

    return max(one(agent, spec) for agent, spec in context.spec.models)


def _at(x: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _rows(mesh: Mesh, axis: int) -> NamedSharding:
    return NamedSharding(mesh, P(*[None] * axis, AXES_OF["batch"]))
