"""Text from an agent: batched, greedy or sampled, in device-side chunks.

The next token of a row depends on that row alone: its key is folded from seed, question,
rollout and position, its tail is its own, and a finished row never writes. The host sees a
chunk at a time. Between chunks it may undo a row's last tokens (`park`), append others
(`extend`), as a tool call needs, and put another text in the place of a finished one (`admit`).
`rmas.system.batching` is the loop over chunks.
"""

import dataclasses
import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rmas import models
from rmas.models import ModelSpec, Segment
from rmas.parallel import constrain, gather_width, rotate_rows, take_rows
from rmas.shapes import Array, Params
from rmas.system.sampling import Sampling, choose
from rmas.weights.placement import heads_of

CHUNK = 32
"""Tokens per device call."""


@struct.dataclass
class DecodeState:
    """Everything between two tokens; `logits_BV` are those of the next one.

    `prefix` and `tail` are the KV cache: the prompt's part, and what came after it. `count_B` is
    the number of tokens that each row has written; its tail may also hold tokens from `extend`.
    `done_B` marks rows that write no more. After `start` the tail has no slots: `widen` opens it.
    """

    prefix: Segment
    tail: Segment
    logits_BV: Array
    count_B: Array
    done_B: Array

    def widened(self, positions: int, slots: int) -> "DecodeState":
        """The same with a prefix of `positions` and a tail of `slots` slots, none fewer."""
        return dataclasses.replace(
            self,
            prefix=models.pad_left(self.prefix, positions),
            tail=models.widen(self.tail, slots),
        )

    def constrained(self) -> "DecodeState":
        """Sharded by rows, in the same way after every chunk, so that one program serves all."""
        return dataclasses.replace(
            self,
            logits_BV=constrain(self.logits_BV, "batch", "vocab"),
            count_B=constrain(self.count_B, "batch"),
            done_B=constrain(self.done_B, "batch"),
        )


def tail_size(limit: int) -> int:
    """Cache slots for `limit` tokens: whole chunks, so that similar limits share a program."""
    return -(-limit // CHUNK) * CHUNK


def start(
    model: ModelSpec,
    params: Params,
    x_BTD: Array,
    valid_BT: Array,
    past: tuple[Segment, ...] = (),
) -> DecodeState:
    """Prefills a left-padded prompt that continues `past`.

    The prefix of the result holds both; its tail has no slots yet.
    """
    h_BD, prefix = models.prefill(model, params, x_BTD, valid_BT, past=past)
    batch = len(h_BD)
    whole = models.join((*past, prefix))
    prefix, tail = models.open_tail(model, whole, 0, h_BD.dtype)
    return DecodeState(
        prefix=prefix,
        tail=tail,
        logits_BV=models.unembed(model, params, h_BD),
        count_B=jnp.zeros(batch, jnp.int32),
        # A row that only fills up the batch has no prompt, and writes nothing.
        done_B=~jnp.any(valid_BT, axis=1),
    ).constrained()


@functools.partial(jax.jit, static_argnums=(0, 1))
def widen(positions: int, slots: int, state: DecodeState) -> DecodeState:
    """The same with a prefix of `positions` and a tail of `slots` slots, none fewer than before."""
    return state.widened(positions, slots)


@functools.partial(jax.jit, static_argnums=(0, 1))
def chunk(
    model: ModelSpec,
    sampling: Sampling,
    params: Params,
    state: DecodeState,
    key_B: Array,
    eos_E: Array,
    limit_B: Array,
) -> tuple[DecodeState, Array, Array]:
    """Up to `CHUNK` tokens for every row that is not done.

    Args:
      key_B: key data `[B, 2]` uint32 (`row_keys`).
      eos_E: the ids that end a row; they are written too.
      limit_B: the most tokens of each row, int32.

    Returns the new state, ids `[B, CHUNK]` int32, and which of them were written, bool.
    """
    params = gather_width(params, heads_of(model), state.count_B)
    whole = state.prefix
    stepping, params, (prefix, tail) = models.unroll(model, params, (whole, state.tail))
    state = dataclasses.replace(state, prefix=prefix, tail=tail)
    batch = len(state.count_B)
    start_B = jnp.sum(state.prefix.valid_BS, axis=1, dtype=jnp.int32)
    ids_BC = jnp.zeros((batch, CHUNK), jnp.int32)
    wrote_BC = jnp.zeros((batch, CHUNK), bool)

    def unfinished(carry: tuple[Array, DecodeState, Array, Array]) -> Array:
        i, state, _, _ = carry
        return (i < CHUNK) & ~jnp.all(state.done_B)

    def step(
        carry: tuple[Array, DecodeState, Array, Array],
    ) -> tuple[Array, DecodeState, Array, Array]:
        i, state, ids_BC, wrote_BC = carry
        active_B = ~state.done_B
        id_B = choose(sampling, state.logits_BV, key_B, state.count_B)
        ids_BC = ids_BC.at[:, i].set(jnp.where(active_B, id_B, 0))
        wrote_BC = wrote_BC.at[:, i].set(active_B)
        pos_B1 = (start_B + _used(state))[:, None]
        count_B = state.count_B + active_B
        done_B = state.done_B | jnp.any(id_B[:, None] == eos_E, axis=1) | (count_B >= limit_B)
        active_B1 = (active_B & ~done_B)[:, None]
        h_B1D, new = models.run(
            stepping,
            params,
            models.embed(model, params, id_B[:, None]),
            active_B1,
            pos_B1,
            past=(state.prefix, state.tail),
        )
        tail = models.write(state.tail, new, active_B1, pos_B1)
        logits_BV = models.unembed(model, params, h_B1D[:, 0])
        state = DecodeState(state.prefix, tail, logits_BV, count_B, done_B)
        return i + 1, state, ids_BC, wrote_BC

    _, state, ids_BC, wrote_BC = lax.while_loop(
        unfinished, step, (jnp.int32(0), state, ids_BC, wrote_BC)
    )
    state = dataclasses.replace(state, prefix=whole, tail=models.roll(model, state.tail))
    return state.constrained(), ids_BC, wrote_BC


def _used(state: DecodeState) -> Array:
    """The number of positions in each row's tail, `[B]`."""
    return jnp.sum(state.tail.valid_BS, axis=1, dtype=jnp.int32)


@functools.partial(jax.jit, donate_argnums=0)
def admit(running: DecodeState, waiting: DecodeState, from_B: Array) -> DecodeState:
    """Rows of `waiting`, which has just been prefilled, in the place of finished ones.

    Row b becomes row `from_B[b]` of `waiting`, which is in the same one of the `row_blocks`; where
    that is negative, row b stays as it is. `running` is donated. It has at least as many slots as
    `waiting` (`widen`).
    """
    moves_B = from_B >= 0
    index_B = jnp.where(moves_B, from_B, jnp.arange(len(from_B)))
    new = _map_rows(lambda axis, x: take_rows(x, index_B, axis), waiting)
    new = new.widened(running.prefix.valid_BS.shape[1], running.tail.valid_BS.shape[1])
    return _map_rows(functools.partial(models.pick_rows, moves_B), new, running)


@jax.jit
def rotate(waiting: DecodeState) -> DecodeState:
    """Each of the `row_blocks` goes to the devices of the next one, so that `admit` finds it."""
    return _map_rows(lambda axis, x: rotate_rows(x, axis), waiting)


@jax.jit
def park(before: DecodeState, after: DecodeState, rows_B: Array) -> DecodeState:
    """Rows `rows_B` as they were before a chunk, and done; the others as they are after it.

    Tokens cannot be removed from a recurrent state. So the whole row returns to the start of the
    chunk, and `extend` appends what it keeps of the chunk, together with what follows.
    """
    before = dataclasses.replace(before, prefix=after.prefix)
    state = _map_rows(functools.partial(models.pick_rows, rows_B), before, after)
    return dataclasses.replace(state, prefix=after.prefix, done_B=after.done_B | rows_B)


def _map_rows(function: models.ByRows, *states: DecodeState) -> DecodeState:
    """A state of what a function makes of the arrays of states (`models.map_rows`)."""

    def segment(*segments: Segment) -> Segment:
        return models.map_rows(function, *segments)

    return DecodeState(
        prefix=segment(*(s.prefix for s in states)),
        tail=segment(*(s.tail for s in states)),
        logits_BV=function(0, *(s.logits_BV for s in states)),
        count_B=function(0, *(s.count_B for s in states)),
        done_B=function(0, *(s.done_B for s in states)),
    ).constrained()


@functools.partial(jax.jit, static_argnums=(0, 1))
def extend(
    model: ModelSpec,
    size: int,
    params: Params,
    state: DecodeState,
    ids_BT: Array,
    valid_BT: Array,
    wrote_B: Array,
) -> DecodeState:
    """Appends left-padded tokens to the rows' caches, and lets these rows write again.

    `wrote_B` is how many of the tokens the row has written itself. The tail grows to `size` slots.
    Rows without a valid token stay as they are.
    """
    tail = models.widen(state.tail, size)
    start_B = jnp.sum(state.prefix.valid_BS, axis=1, dtype=jnp.int32) + _used(state)
    pos_BT = models.positions(valid_BT, start_B)
    x_BTD = models.embed(model, params, ids_BT)
    h_BTD, new = models.run(
        model, params, x_BTD, valid_BT, pos_BT, past=(state.prefix, tail), left_padded=True
    )
    reads_B = jnp.any(valid_BT, axis=1)
    logits_BV = models.unembed(model, params, h_BTD[:, -1])
    return DecodeState(
        prefix=state.prefix,
        tail=models.write(tail, new, valid_BT, pos_BT),
        logits_BV=jnp.where(reads_B[:, None], logits_BV, state.logits_BV),
        count_B=state.count_B + wrote_B,
        done_B=state.done_B & ~reads_B,
    ).constrained()


@jax.jit
def held(state: DecodeState) -> tuple[Array, Array, Array]:
    """Of each row the positions in its prefix and in its tail, and its count; `[B]` int32 each."""
    prefix_B = jnp.sum(state.prefix.valid_BS, axis=1, dtype=jnp.int32)
    return prefix_B, _used(state), state.count_B


def row_keys(seed: int, names: list[str]) -> np.ndarray:
    """Key data `[B, 2]` uint32 from the seed and each row's name (question, rollout, turn)."""
    digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8] for name in names]
    return np.stack([np.frombuffer(d, np.uint32) for d in digests])
