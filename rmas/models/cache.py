"""The KV cache, in segments, and the states of recurrent layers.

A cache is a tuple of segments, which attention reads without concatenating them: a *prefix*,
written once by prefill and constant afterwards, and a *tail* of free slots that later positions
are written into, each row at its own length. A recurrent layer has a state instead of keys and
values; the one in the last segment is current.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rmas.models.spec import DeltaLayer, ModelSpec
from rmas.parallel import constrain
from rmas.shapes import Array


@struct.dataclass
class KV:
    """Keys (rotated by RoPE) and values of one attention layer, `[..., B, H, S, K]`."""

    k_BHSK: Array
    v_BHSK: Array

    def written(self, new: "KV", put: "Put") -> "KV":
        """A copy with `new` written by `put`."""
        k_BHSK = put(self.k_BHSK, new.k_BHSK, rows=-4, slots=-2)
        return KV(k_BHSK, put(self.v_BHSK, new.v_BHSK, rows=-4, slots=-2)).constrained()

    def constrained(self) -> "KV":
        """The same, sharded: rows over the batch axes of the mesh, heads over its tensor axis."""
        names = (*(None,) * (self.k_BHSK.ndim - 4), "batch", "kv_heads", None, None)
        return KV(constrain(self.k_BHSK, *names), constrain(self.v_BHSK, *names))


@struct.dataclass
class State:
    """Recurrent state of one gated delta-net layer, float32 at least.

    `s_BHGKU` maps keys to values; `q_BWC`, `k_BWC`, `v_BWC` are the last W valid inputs of the
    short convolutions, where W is one less than their width.
    """

    s_BHGKU: Array
    q_BWC: Array
    k_BWC: Array
    v_BWC: Array

    def constrained(self) -> "State":
        """The same, sharded as `KV.constrained`; of one layer, without an axis in front."""
        H, G = self.s_BHGKU.shape[1:3]
        return State(
            constrain(self.s_BHGKU, "batch", "delta_heads", None, None, None),
            by_heads(self.q_BWC, "delta_heads", H),
            by_heads(self.k_BWC, "delta_heads", H),
            by_heads(self.v_BWC, "delta_value_heads", H * G),
        )


def by_heads(x_BTC: Array, meaning: str, heads: int) -> Array:
    """Constrains the sharding of channels that hold `heads` heads, so that no head is cut."""
    x_BTHK = x_BTC.reshape(*x_BTC.shape[:2], heads, -1)
    return constrain(x_BTHK, "batch", None, meaning, None).reshape(x_BTC.shape)


Entry = KV | State
"""What one segment holds of one layer."""


@struct.dataclass
class Entries:
    """The entries of all layers of a model.

    Attributes:
      period: of each layer of the period, stacked over its repetitions: `[L, ...]`.
      rest: of the layers after the last whole period.

    An entry is None for a recurrent layer whose state is in a later segment.
    """

    period: tuple[Entry | None, ...]
    rest: tuple[Entry | None, ...]


@struct.dataclass
class Segment:
    """A part of the cache: entries, which slots hold a position, and the positions (int32)."""

    entries: Entries
    valid_BS: Array
    pos_BS: Array

    def constrained(self) -> "Segment":
        """The same with `valid_BS` and `pos_BS` split by rows, as entries are."""
        valid_BS, pos_BS = (constrain(x, "batch", None) for x in (self.valid_BS, self.pos_BS))
        return Segment(self.entries, valid_BS, pos_BS)


def length(segments: Sequence[Segment]) -> Array | int:
    """The number of positions of each row in all of some segments, `[B]`, int32; 0 of none."""
    return sum(jnp.sum(s.valid_BS, axis=1, dtype=jnp.int32) for s in segments)


def join(segments: Sequence[Segment]) -> Segment:
    """One segment with the slots of several; of recurrent layers the last state."""
    if len(segments) == 1:
        return segments[0]

    def entry(*parts: Entry | None) -> Entry | None:
        kvs = [part for part in parts if isinstance(part, KV)]
        if not kvs:
            return parts[-1]
        k_BHSK = jnp.concatenate([kv.k_BHSK for kv in kvs], axis=-2)
        return KV(k_BHSK, jnp.concatenate([kv.v_BHSK for kv in kvs], axis=-2)).constrained()

    entries = [s.entries for s in segments]
    return Segment(
        Entries(
            tuple(map(entry, *(e.period for e in entries))),
            tuple(map(entry, *(e.rest for e in entries))),
        ),
        jnp.concatenate([s.valid_BS for s in segments], axis=1),
        jnp.concatenate([s.pos_BS for s in segments], axis=1),
    ).constrained()


def spread(segment: Segment, rows_B: Array) -> Segment:
    """A segment of one row for B rows: those of `rows_B` hold what it holds, the others nothing."""

    def repeat(axis: int, x: Array) -> Array:
        rows = jnp.expand_dims(rows_B, _others(x.ndim, axis))
        return jnp.where(rows, x, jnp.zeros((), x.dtype))

    return map_rows(repeat, segment)


def empty_kv(spec: ModelSpec, batch: int, size: int, dtype) -> KV:
    """`size` free slots of one attention layer."""
    shape = (batch, spec.n_kv_heads, size, spec.head_dim)
    return KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)).constrained()


def empty_segment(spec: ModelSpec, batch: int, size: int, dtype) -> Segment:
    """`size` free slots of all layers of a model without recurrent ones."""
    one = empty_kv(spec, batch, size, dtype)
    stacked = KV(
        *(jnp.broadcast_to(x, (spec.n_periods, *x.shape)) for x in (one.k_BHSK, one.v_BHSK))
    )
    return Segment(
        Entries((stacked,) * len(spec.period), (one,) * len(spec.rest)),
        jnp.zeros((batch, size), bool),
        jnp.zeros((batch, size), jnp.int32),
    ).constrained()


def empty_state(layer: DeltaLayer, batch: int, dtype) -> State:
    """The state of one recurrent layer before any position; windows are in `dtype`."""
    group = layer.value_heads // layer.key_heads
    wide = jnp.promote_types(dtype, jnp.float32)
    windows = (jnp.zeros((batch, layer.conv_width - 1, size), dtype) for size in layer.sizes)
    shape = (batch, layer.key_heads, group, layer.key_dim, layer.value_dim)
    return State(jnp.zeros(shape, wide), *windows).constrained()


def open_tail(spec: ModelSpec, prefix: Segment, size: int, dtype) -> tuple[Segment, Segment]:
    """Splits a cache after prefill into its prefix and a tail of `size` free slots.

    Recurrent states move from the prefix to the tail.
    """
    batch = len(prefix.valid_BS)

    def free(*lead: int) -> KV:
        kv = empty_kv(spec, batch, size, dtype)
        return KV(*(jnp.broadcast_to(x, (*lead, *x.shape)) for x in (kv.k_BHSK, kv.v_BHSK)))

    def split(entries: tuple[Entry | None, ...], *lead: int):
        kept = tuple(e if isinstance(e, KV) else None for e in entries)
        return kept, tuple(free(*lead) if isinstance(e, KV) else e for e in entries)

    kept_period, new_period = split(prefix.entries.period, spec.n_periods)
    kept_rest, new_rest = split(prefix.entries.rest)
    tail = Segment(
        Entries(new_period, new_rest),
        jnp.zeros((batch, size), bool),
        jnp.zeros((batch, size), jnp.int32),
    ).constrained()
    return dataclasses.replace(prefix, entries=Entries(kept_period, kept_rest)), tail


def write(tail: Segment, new: Entries, valid_BT: Array, pos_BT: Array) -> Segment:
    """Appends the valid ones of T new positions to each row of the tail.

    Rows may hold different numbers of positions. Invalid positions and those beyond the last slot
    are not written, so the tail of a row without valid positions does not change. Where T is 1, it
    has no gradient in reverse mode: see `append`.
    """
    size, T = tail.valid_BS.shape[1], valid_BT.shape[1]
    if T == 1:
        return _write_one(tail, new, valid_BT, pos_BT)
    start_B1 = jnp.sum(tail.valid_BS, axis=1, keepdims=True)
    slot_BT = start_B1 + jnp.cumsum(valid_BT, axis=1) - 1
    slot_BT = jnp.where(valid_BT, slot_BT, size + T + jnp.arange(T))
    return _written(tail, new, valid_BT, pos_BT, functools.partial(_put, slot_BT=slot_BT))


def _write_one(tail: Segment, new: Entries, valid_B1: Array, pos_B1: Array) -> Segment:
    """`write` of one position: in one go for all rows whose first free slot is the same."""
    # TPUs would lay out every layer's tail anew for a scatter, at each token. Most rows of a batch
    # write to one slot, so that the loop runs once.
    slot_B = jnp.sum(tail.valid_BS, axis=1, dtype=jnp.int32)
    size = tail.valid_BS.shape[1]
    own = _without_states(new)

    def waiting(carry: tuple[Array, Segment]) -> Array:
        return jnp.any(carry[0])

    def write_slot(carry: tuple[Array, Segment]) -> tuple[Array, Segment]:
        waits_B, tail = carry
        slot = jnp.min(jnp.where(waits_B, slot_B, size))
        here_B = waits_B & (slot_B == slot)

        def put(old: Array, new: Array, rows: int, slots: int) -> Array:
            here = jnp.expand_dims(here_B, _others(old.ndim, rows))
            was = lax.dynamic_slice_in_dim(old, slot, 1, slots)
            new = jnp.where(here, new.astype(old.dtype), was)
            return lax.dynamic_update_slice_in_dim(old, new, slot, slots)

        return waits_B & ~here_B, _written(tail, own, valid_B1, pos_B1, put)

    kvs = dataclasses.replace(tail, entries=_without_states(tail.entries))
    _, kvs = lax.while_loop(waiting, write_slot, (valid_B1[:, 0] & (slot_B < size), kvs))

    def whole(kv: Entry | None, new: Entry | None) -> Entry | None:
        return new if kv is None else kv

    period = tuple(map(whole, kvs.entries.period, new.period))
    rest = tuple(map(whole, kvs.entries.rest, new.rest))
    return dataclasses.replace(kvs, entries=Entries(period, rest))


def _without_states(entries: Entries) -> Entries:
    def kept(some: tuple[Entry | None, ...]) -> tuple[Entry | None, ...]:
        return tuple(e if isinstance(e, KV) else None for e in some)

    return Entries(kept(entries.period), kept(entries.rest))


def append(tail: Segment, new: Entries, pos_B1: Array, slot: Array) -> Segment:
    """Writes one new position of every row to one slot, which is the first free one of all rows.

    It is what `write` does there, without a scatter.
    """

    def put(old: Array, new: Array, rows: int, slots: int) -> Array:
        return lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, slots)

    return _written(tail, new, jnp.ones(pos_B1.shape, bool), pos_B1, put)


def _written(tail: Segment, new: Entries, valid_BT: Array, pos_BT: Array, put: "Put") -> Segment:
    def entry(old: Entry | None, new: Entry | None) -> Entry | None:
        if isinstance(old, KV) and isinstance(new, KV):
            return old.written(new, put)
        return new  # a recurrent state replaces the one before

    return Segment(
        Entries(
            tuple(map(entry, tail.entries.period, new.period)),
            tuple(map(entry, tail.entries.rest, new.rest)),
        ),
        valid_BS=put(tail.valid_BS, jnp.ones_like(valid_BT), rows=0, slots=1),
        pos_BS=put(tail.pos_BS, pos_BT, rows=0, slots=1),
    ).constrained()


ByRows = Callable[..., Array]
"""`function(axis, *arrays)` makes one array of arrays of one shape, whose rows are along `axis`."""


def map_rows(function: ByRows, *segments: Segment) -> Segment:
    """A segment of what a function makes of the arrays of segments, each with its axis of rows."""

    def along(axis: int) -> Callable[..., Array]:
        return lambda *arrays: function(axis, *arrays)

    entries = [s.entries for s in segments]
    return Segment(
        Entries(
            jax.tree.map(along(1), *(e.period for e in entries)),
            jax.tree.map(along(0), *(e.rest for e in entries)),
        ),
        along(0)(*(s.valid_BS for s in segments)),
        along(0)(*(s.pos_BS for s in segments)),
    ).constrained()


def pick_rows(rows_B: Array, axis: int, one: Array, other: Array) -> Array:
    """The rows of `one` where `rows_B` is true, else those of `other`."""
    return jnp.where(jnp.expand_dims(rows_B, _others(one.ndim, axis)), one, other)


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(ndim) if i != axis % ndim)


def widen(tail: Segment, size: int) -> Segment:
    """The tail enlarged to `size` slots; the new ones are free."""
    return _enlarged(tail, (0, size - tail.valid_BS.shape[1]))


def pad_left(prefix: Segment, size: int) -> Segment:
    """The prefix enlarged to `size` slots; the new ones, before the others, hold no position."""
    return _enlarged(prefix, (size - prefix.valid_BS.shape[1], 0))


def _enlarged(segment: Segment, more: tuple[int, int]) -> Segment:
    """The segment with so many more slots before and behind those it has."""
    if more == (0, 0):
        return segment

    def padded(x: Array, axis: int) -> Array:
        return jnp.pad(x, [more if i == axis % x.ndim else (0, 0) for i in range(x.ndim)])

    def wide(entry: Entry | None) -> Entry | None:
        if not isinstance(entry, KV):
            return entry
        return KV(padded(entry.k_BHSK, -2), padded(entry.v_BHSK, -2)).constrained()

    return Segment(
        Entries(tuple(map(wide, segment.entries.period)), tuple(map(wide, segment.entries.rest))),
        padded(segment.valid_BS, -1),
        padded(segment.pos_BS, -1),
    ).constrained()


class Put(Protocol):
    """Writes `new`, which has T instead of S slots, to some slots of `old`."""

    def __call__(self, old: Array, new: Array, rows: int, slots: int) -> Array:
        """`rows` and `slots` are the axes of B and S."""
        ...


def _put(old: Array, new: Array, rows: int, slots: int, slot_BT: Array) -> Array:
    """Writes to the slots `slot_BT` of each row.

    Slots beyond the last are dropped; those of a row must be different.
    """
    rows, slots = rows % old.ndim, slots % old.ndim
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(i for i in range(old.ndim) if i not in (rows, slots)),
        inserted_window_dims=(slots,),
        scatter_dims_to_operand_dims=(slots,),
        # Rows are a batch axis of the scatter: indexed, they would be gathered on a mesh.
        operand_batching_dims=(rows,),
        scatter_indices_batching_dims=(0,),
    )
    return lax.scatter(
        old,
        slot_BT[..., None],
        new.astype(old.dtype),
        numbers,
        unique_indices=True,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )
