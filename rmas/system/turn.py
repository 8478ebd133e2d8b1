"""One agent's turn: a latent rollout, or the states of a given text (teacher forcing)."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rmas import models
from rmas.links import LinkSpec, edge_name
from rmas.models import ModelSpec, Segment
from rmas.parallel import constrain, current_parts, gather_width
from rmas.shapes import Array, Params
from rmas.system.topology import Edge, Topology
from rmas.weights.placement import heads_of

LATENT_STEPS = "latent_steps"
"""The scope of their operations in compiled programs and profiles."""
_START_OF_BLOCK = "start of a block of latent steps"


@struct.dataclass
class Prompt:
    """One agent's prompt as arrays, left-padded; each position is a token or a slot vector.

    `slot_BT` is -1 at tokens; elsewhere it indexes the agent's incoming messages, joined in
    the order of `Topology.incoming` (`[B, C, D]`). A leading round axis is sliced off by the
    engine. Teacher-forced turns also carry `state_index_BM`: the positions whose states are the
    message, in order; unused places repeat a position and no slot points to them.
    """

    ids_BT: Array
    valid_BT: Array
    slot_BT: Array
    state_index_BM: Array | None = None


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """Static facts of a system: topology order, one `ModelSpec` per agent, link forms.

    With `remat` (activation checkpointing), reverse mode stores less of every layer and computes
    the rest again.
    """

    models: tuple[tuple[str, ModelSpec], ...]
    links: LinkSpec
    remat: bool = False

    def model(self, agent: str) -> ModelSpec:
        """The architecture of an agent; raises `KeyError` for an unknown one."""
        return dict(self.models)[agent]


def send(
    topology: Topology, spec: SystemSpec, links: Params, agent: str, z_BME: Array
) -> dict[str, Array]:
    """An agent's messages `[B, M, D]` by `edge_name`: its inner-mapped states through its links."""
    return {
        edge_name(e.src, e.dst): spec.links.outer(links, e.src, e.dst, z_BME)
        for e in topology.outgoing(agent)
    }


def zero_messages(
    spec: SystemSpec, links: Params, batch: int, length: int
) -> Callable[[Edge], Array]:
    """A function from an edge to its zero message `[batch, length, D]`, in the links' dtype."""
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(links))
    widths = dict(spec.links.widths)
    return lambda edge: jnp.zeros((batch, length, widths[edge.dst]), dtype)


def inputs(model: ModelSpec, params: Params, prompt: Prompt, messages: tuple[Array, ...]) -> Array:
    """Input vectors `[B, T, D]`: token embeddings, and in the slots the vectors of `messages`.

    `messages` are `[B, M, D]` in the order of `Topology.incoming`. They are not scaled, not even
    where a family scales its token embeddings.
    """
    x_BTD = models.embed(model, params, prompt.ids_BT)
    if not messages:
        return x_BTD
    z_BCD = jnp.concatenate([z.astype(x_BTD.dtype) for z in messages], axis=1)
    index_BT1 = jnp.maximum(prompt.slot_BT, 0)[..., None]
    slots_BTD = jnp.take_along_axis(z_BCD, index_BT1, axis=1)
    x_BTD = jnp.where(prompt.slot_BT[..., None] >= 0, slots_BTD, x_BTD)
    return constrain(x_BTD, "batch", None, None)


def rollout(
    spec: SystemSpec,
    params: Params,
    links: Params,
    agent: str,
    x_BTD: Array,
    valid_BT: Array,
    steps: int,
    checkpoint: bool = False,
    past: tuple[Segment, ...] = (),
    to_input: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """m latent steps after a prompt, which may have a `past` (paper, latent thoughts generation).

    `h_1` is the state at the last prompt position; each step feeds `inner(h)` back as the next
    input. Returns the states `h_BMD` in the agent's dtype and the inner-mapped ones `z_BMD`,
    float32 at least. With `checkpoint`, reverse mode stores the inputs of blocks of about sqrt(m)
    steps, and computes what is inside them again. `to_input`, from `[B, D]` to `[B, D]`, takes the
    place of the inner link.
    """
    to_input = to_input or functools.partial(spec.links.inner, links, agent)
    return _rollout(spec, params, to_input, agent, x_BTD, valid_BT, steps, checkpoint, past)[:2]


def remember(
    spec: SystemSpec,
    params: Params,
    links: Params,
    agent: str,
    x_BTD: Array,
    valid_BT: Array,
    steps: int,
    past: tuple[Segment, ...] = (),
) -> Segment:
    """The keys and values of a turn: of its prompt and of all m latent thoughts, as one segment.

    As `rollout`, with one run of the model more, which reads the last thought.
    """
    to_input = functools.partial(spec.links.inner, links, agent)
    segments = _rollout(
        spec, params, to_input, agent, x_BTD, valid_BT, steps + 1, past=past, keep=True
    )[2]
    return models.join(segments)


def _rollout(
    spec: SystemSpec,
    params: Params,
    to_input: Callable[[Array], Array],
    agent: str,
    x_BTD: Array,
    valid_BT: Array,
    steps: int,
    checkpoint: bool = False,
    past: tuple[Segment, ...] = (),
    keep: bool = False,
) -> tuple[Array, Array, tuple[Segment, ...]]:
    """See `rollout`; with `keep` also the segments of the prompt and of the m - 1 steps."""
    model = spec.model(agent)
    h_BD, prefix = models.prefill(model, params, x_BTD, valid_BT, remat=spec.remat, past=past)
    z_BD = to_input(h_BD)
    if steps == 1:
        return h_BD[:, None], z_BD[:, None], (prefix,)
    prefix, tail = models.open_tail(model, prefix, steps - 1, h_BD.dtype)
    past = (*past, prefix)
    start_B = models.length(past)
    one_B1 = jnp.ones((len(z_BD), 1), bool)

    def latent_steps(params: Params, z_BD: Array, tail: Segment) -> tuple[Any, Segment | None]:
        params = gather_width(params, heads_of(model), z_BD)
        stepping, cache = model, (*past, tail)
        if not spec.remat:
            stepping, params, cache = models.unroll(model, params, cache)
        *before, tail = cache

        def step(carry: tuple[Array, Segment], t: Array) -> tuple[tuple[Array, Segment], Any]:
            z_BD, tail = carry
            pos_B1 = (start_B + t)[:, None]
            h_B1D, new = models.run(
                stepping,
                params,
                z_BD[:, None],
                one_B1,
                pos_B1,
                past=(*before, tail),
                remat=spec.remat,
            )
            tail = models.append(tail, new, pos_B1, t)
            h_BD = h_B1D[:, 0]
            z_BD = to_input(h_BD)
            return (z_BD, tail), (h_BD, z_BD)

        times = jnp.arange(steps - 1, dtype=jnp.int32)
        (_, tail), states = _scan(step, (z_BD, tail), times, checkpoint)
        return states, models.roll(model, tail) if keep else None

    if checkpoint and current_parts("width") > 1:
        # So that reverse mode does not keep the gathered weights, but gathers them again.
        saved = jax.checkpoint_policies.save_only_these_names(_START_OF_BLOCK)
        latent_steps = jax.checkpoint(latent_steps, policy=saved)
    with jax.named_scope(LATENT_STEPS):
        rest, written = latent_steps(params, z_BD, tail)
    h_BMD, z_BMD = (
        jnp.concatenate([first_BD[:, None], jnp.moveaxis(rest_MBD, 0, 1)], axis=1)
        for first_BD, rest_MBD in zip((h_BD, z_BD), rest, strict=True)
    )
    kept = () if written is None else (prefix, written)
    return h_BMD, constrain(z_BMD, "batch", None, None), kept


def steps_in_blocks(steps: int) -> int:
    """How many of a checkpointed rollout's steps are in blocks that reverse mode computes again.

    The first of the `steps` is the prefill's; blocks of s steps, about the root of all, are whole.
    """
    length = steps - 1
    return 0 if length < 4 else length // math.isqrt(length) * math.isqrt(length)


def _scan(
    step: Callable[[Any, Array], tuple[Any, Any]], carry: Any, times: Array, checkpoint: bool
) -> tuple[Any, Any]:
    """`lax.scan`, with `checkpoint` in blocks of about sqrt(length)."""
    length = len(times)
    whole = steps_in_blocks(length + 1) if checkpoint else 0
    if not whole:
        return lax.scan(step, carry, times)
    size = math.isqrt(length)
    block = jax.checkpoint(lambda c, t: lax.scan(step, c, t))

    def named(carry: Any, t: Array) -> tuple[Any, Any]:
        return block(checkpoint_name(carry, _START_OF_BLOCK), t)

    carry, out = lax.scan(named, carry, times[:whole].reshape(-1, size))
    out = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), out)
    if whole < length:
        carry, last = lax.scan(step, checkpoint_name(carry, _START_OF_BLOCK), times[whole:])
        out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, last)
    return carry, out


def teacher_forced(
    spec: SystemSpec,
    params: Params,
    links: Params,
    agent: str,
    x_BTD: Array,
    prompt: Prompt,
    past: tuple[Segment, ...] = (),
) -> Array:
    """Inner-mapped states `z_BMD` at the `state_index_BM` of a prompt that ends in a role's text.

    Raises `ValueError` for a prompt without these positions (`batch.with_states` adds them).
    """
    if prompt.state_index_BM is None:
        raise ValueError("a teacher-forced turn needs a prompt with state_index_BM")
    pos_BT = models.positions(prompt.valid_BT, models.length(past))
    h_BTD, _ = models.run(
        spec.model(agent),
        params,
        x_BTD,
        valid_BT=prompt.valid_BT,
        pos_BT=pos_BT,
        past=past,
        remat=spec.remat,
        left_padded=True,
    )
    h_BMD = jnp.take_along_axis(h_BTD, prompt.state_index_BM[..., None], axis=1)
    return spec.links.inner(links, agent, h_BMD)
