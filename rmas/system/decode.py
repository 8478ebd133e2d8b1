"""Text from the output agent: batched, greedy or sampled, in device-side chunks.

The next token of a row depends on that row alone: its key is folded from seed, question,
rollout and position, its tail is its own, and a finished row never writes. The host sees a
chunk at a time, and stops when every row is finished. Between chunks it may undo a row's last
tokens (`park`) and append others (`extend`), as a tool call needs.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rmas import models
from rmas.models import ModelSpec, Segment
from rmas.parallel import constrain, gather_width
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
    `done_B` marks rows that write no more.
    """

    prefix: Segment
    tail: Segment
    logits_BV: Array
    count_B: Array
    done_B: Array

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
    size: int,
    past: tuple[Segment, ...] = (),
) -> DecodeState:
    """Prefills a left-padded prompt after `past`; its cache can hold `tail_size(size)` more tokens.

    The prefix of the result holds `past`, too.
    """
    h_BD, prefix = models.prefill(model, params, x_BTD, valid_BT, past=past)
    batch = len(h_BD)
    whole = models.join((*past, prefix))
    prefix, tail = models.open_tail(model, whole, tail_size(size), h_BD.dtype)
    return DecodeState(
        prefix=prefix,
        tail=tail,
        logits_BV=models.unembed(model, params, h_BD),
        count_B=jnp.zeros(batch, jnp.int32),
        # A row that only fills up the batch has no prompt, and writes nothing.
        done_B=~jnp.any(valid_BT, axis=1),
    ).constrained()


@functools.partial(jax.jit, static_argnums=(0, 1))
def chunk(
    model: ModelSpec,
    sampling: Sampling,
    params: Params,
    state: DecodeState,
    key_B: Array,
    eos_E: Array,
    limit: Array,
) -> tuple[DecodeState, Array, Array]:
    """Up to `CHUNK` tokens for every row that is not done.

    Args:
      key_B: key data `[B, 2]` uint32 (`row_keys`).
      eos_E: the ids that end a row; they are written too.
      limit: scalar, the most tokens of a row.

    Returns the new state, ids `[B, CHUNK]` int32, and which of them were written, bool.
    """
    params = gather_width(params, heads_of(model), state.count_B)
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
        done_B = state.done_B | jnp.any(id_B[:, None] == eos_E, axis=1) | (count_B >= limit)
        active_B1 = (active_B & ~done_B)[:, None]
        h_B1D, new = models.run(
            model,
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
    return state.constrained(), ids_BC, wrote_BC


def _used(state: DecodeState) -> Array:
    """The number of positions in each row's tail, `[B]`."""
    return jnp.sum(state.tail.valid_BS, axis=1, dtype=jnp.int32)


@jax.jit
def park(before: DecodeState, after: DecodeState, rows_B: Array) -> DecodeState:
    """Rows `rows_B` as they were before a chunk, and done; the others as they are after it.

    Tokens cannot be removed from a recurrent state. So the whole row returns to the start of the
    chunk, and `extend` appends what it keeps of the chunk, together with what follows.
    """
    return DecodeState(
        prefix=after.prefix,
        tail=models.pick_rows(rows_B, before.tail, after.tail),
        logits_BV=jnp.where(rows_B[:, None], before.logits_BV, after.logits_BV),
        count_B=jnp.where(rows_B, before.count_B, after.count_B),
        done_B=after.done_B | rows_B,
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


def row_keys(seed: int, names: list[str]) -> np.ndarray:
    """Key data `[B, 2]` uint32 from the seed and each row's name (question, rollout, turn)."""
    digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8] for name in names]
    return np.stack([np.frombuffer(d, np.uint32) for d in digests])


BetweenChunks = Callable[[DecodeState, DecodeState, list[list[int]]], DecodeState]
"""`between(before, after, new)`: what happens between two chunks. It gets the states before and
after the last chunk and each row's new ids, which it may shorten, and returns the state to continue
from."""


def generate(
    model: ModelSpec,
    params: Params,
    state: DecodeState,
    sampling: Sampling,
    *,
    key_B: np.ndarray,
    eos: tuple[int, ...],
    limit: int,
    between: BetweenChunks | None = None,
) -> tuple[list[list[int]], DecodeState]:
    """Decodes every row to its end: one of the ids `eos`, or `limit` tokens in all.

    Returns the ids of each row, the stop token included, and the final state, whose cache lacks
    the last id of every row.
    """
    rows: list[list[int]] = [[] for _ in range(len(key_B))]
    eos_E = jnp.asarray(eos, jnp.int32)
    while True:
        before = state
        state, ids_BC, wrote_BC = chunk(
            model, sampling, params, state, key_B=key_B, eos_E=eos_E, limit=limit
        )
        ids, wrote, done = jax.device_get((ids_BC, wrote_BC, state.done_B))
        new = [i[w].tolist() for i, w in zip(ids, wrote, strict=True)]
        if between:
            state = between(before, state, new)
            done = jax.device_get(state.done_B)
        for row, own in zip(rows, new, strict=True):
            row += own
        if done.all():
            return rows, state
