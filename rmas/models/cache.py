"""What a model remembers of past positions, in segments.

A cache is a tuple of segments. Attention reads their keys and values one after the other without
joining them: a *prefix* written once by prefill (a constant of any loop over it) and a *tail*
that later positions are written into, each row at its own length. A recurrent layer has a state
instead, of which only the last segment's counts.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from rmas.models.spec import AttentionLayer, LayerSpec, ModelSpec
from rmas.parallel import constrain
from rmas.shapes import Array


@struct.dataclass
class KV:
    """Keys (already rotated) and values of one attention layer, `[..., B, S, H, K]`."""

    k_BSHK: Array
    v_BSHK: Array

    def written(self, new: "KV", slot_BT: Array) -> "KV":
        """With new entries at the given slots; those beyond the last one are dropped."""
        put = functools.partial(_put, slot_BT=slot_BT, behind=2)
        return KV(put(self.k_BSHK, new.k_BSHK), put(self.v_BSHK, new.v_BSHK)).constrained()

    def constrained(self) -> "KV":
        """Rows over the batch axes of the mesh, heads over its tensor axis."""
        names = (*(None,) * (self.k_BSHK.ndim - 4), "batch", None, "kv_heads", None)
        return KV(constrain(self.k_BSHK, *names), constrain(self.v_BSHK, *names))


@struct.dataclass
class State:
    """Recurrent state of one gated delta-net layer, float32 at least.

    `s_BHGKU` maps keys to values; `q_BWC`, `k_BWC`, `v_BWC` are the last valid inputs of the
    short convolutions, one position fewer than their width.
    """

    s_BHGKU: Array
    q_BWC: Array
    k_BWC: Array
    v_BWC: Array

    def written(self, new: "State", slot_BT: Array) -> "State":
        """The new state: positions that are not valid left it as it was, bit by bit."""
        return new

    def constrained(self) -> "State":
        """Rows over the batch axes of the mesh, heads over its tensor axis (one layer's entry)."""
        H, G = self.s_BHGKU.shape[1:3]
        return State(
            constrain(self.s_BHGKU, "batch", "delta_heads", None, None, None),
            by_heads(self.q_BWC, "delta_heads", H),
            by_heads(self.k_BWC, "delta_heads", H),
            by_heads(self.v_BWC, "delta_value_heads", H * G),
        )


def by_heads(x_BTC: Array, meaning: str, heads: int) -> Array:
    """Constrains channels that hold so many heads: split by whole ones, or not at all."""
    x_BTHK = x_BTC.reshape(*x_BTC.shape[:2], heads, -1)
    return constrain(x_BTHK, "batch", None, meaning, None).reshape(x_BTC.shape)


Entry = KV | State


@struct.dataclass
class Entries:
    """One entry per layer: `period[j]` is stacked over periods `[L, ...]`, `rest[j]` is not.

    None stands for a recurrent state that a later segment goes on from.
    """

    period: tuple[Entry | None, ...]
    rest: tuple[Entry | None, ...]


@struct.dataclass
class Segment:
    """Entries with the facts that attention needs: which slots hold a position, and which one."""

    entries: Entries
    valid_BS: Array
    pos_BS: Array

    def constrained(self) -> "Segment":
        """With its facts split by rows, as its entries are."""
        valid_BS, pos_BS = (constrain(x, "batch", None) for x in (self.valid_BS, self.pos_BS))
        return Segment(self.entries, valid_BS, pos_BS)


def empty_entry(spec: ModelSpec, layer: LayerSpec, batch: int, size: int, dtype) -> Entry:
    """One layer's entry before any position: `size` free slots, or a state of zeros."""
    if isinstance(layer, AttentionLayer):
        shape = (batch, size, spec.n_kv_heads, spec.head_dim)
        return KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)).constrained()
    group = layer.value_heads // layer.key_heads
    wide = jnp.promote_types(dtype, jnp.float32)
    windows = (jnp.zeros((batch, layer.conv_width - 1, size), dtype) for size in layer.sizes)
    shape = (batch, layer.key_heads, group, layer.key_dim, layer.value_dim)
    return State(jnp.zeros(shape, wide), *windows).constrained()


def open_tail(spec: ModelSpec, prefix: Segment, size: int, dtype) -> tuple[Segment, Segment]:
    """The prefix, and a tail of `size` free slots behind it, into which recurrent states move."""
    batch = len(prefix.valid_BS)

    def free(layer: LayerSpec, lead: tuple[int, ...]) -> Entry:
        entry = empty_entry(spec, layer, batch, size, dtype)
        return KV(*(jnp.broadcast_to(x, (*lead, *x.shape)) for x in (entry.k_BSHK, entry.v_BSHK)))

    def split(entries, layers, lead):
        kept = tuple(e if isinstance(e, KV) else None for e in entries)
        moved = (
            free(layer, lead) if isinstance(e, KV) else e
            for e, layer in zip(entries, layers, strict=True)
        )
        return kept, tuple(moved)

    period, rest = prefix.entries.period, prefix.entries.rest
    kept_period, new_period = split(period, spec.period, (spec.n_periods,))
    kept_rest, new_rest = split(rest, spec.rest, ())
    tail = Segment(
        Entries(new_period, new_rest),
        jnp.zeros((batch, size), bool),
        jnp.zeros((batch, size), jnp.int32),
    ).constrained()
    return dataclasses.replace(prefix, entries=Entries(kept_period, kept_rest)), tail


def write(tail: Segment, new: Entries, valid_BT: Array, pos_BT: Array) -> Segment:
    """Appends the valid ones of T new positions to each row, after what the row already holds.

    Invalid positions, and positions beyond the last slot, are not written: a parked row keeps
    its tail bit by bit. Rows may hold different numbers of positions.
    """
    size, T = tail.valid_BS.shape[1], valid_BT.shape[1]
    start_B1 = jnp.sum(tail.valid_BS, axis=1, keepdims=True)
    slot_BT = start_B1 + jnp.cumsum(valid_BT, axis=1) - 1
    slot_BT = jnp.where(valid_BT, slot_BT, size + T + jnp.arange(T))

    def put(old: tuple[Entry, ...], new: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(o.written(n, slot_BT) for o, n in zip(old, new, strict=True))

    return Segment(
        Entries(put(tail.entries.period, new.period), put(tail.entries.rest, new.rest)),
        valid_BS=_put(tail.valid_BS, jnp.ones_like(valid_BT), slot_BT),
        pos_BS=_put(tail.pos_BS, pos_BT, slot_BT),
    ).constrained()


def pick_rows(rows_B: Array, one: Segment, other: Segment) -> Segment:
    """The rows `rows_B` of one segment, the others of another one of the same shapes."""

    def pick(axis: int):
        def at(x: Array, y: Array) -> Array:
            return jnp.where(jnp.expand_dims(rows_B, _others(x.ndim, axis)), x, y)

        return at

    stacked, single = pick(1), pick(0)
    return Segment(
        Entries(
            jax.tree.map(stacked, one.entries.period, other.entries.period),
            jax.tree.map(single, one.entries.rest, other.entries.rest),
        ),
        single(one.valid_BS, other.valid_BS),
        single(one.pos_BS, other.pos_BS),
    ).constrained()


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(ndim) if i != axis)


def widen(tail: Segment, size: int) -> Segment:
    """The tail with `size` slots, the new ones free."""
    more = size - tail.valid_BS.shape[1]

    def wide(entry: Entry) -> Entry:
        if isinstance(entry, State):
            return entry
        return KV(*(_padded(x, -3, more) for x in (entry.k_BSHK, entry.v_BSHK))).constrained()

    return Segment(
        Entries(tuple(map(wide, tail.entries.period)), tuple(map(wide, tail.entries.rest))),
        _padded(tail.valid_BS, -1, more),
        _padded(tail.pos_BS, -1, more),
    ).constrained()


def _padded(x: Array, axis: int, more: int) -> Array:
    return jnp.pad(x, [(0, more if i == axis % x.ndim else 0) for i in range(x.ndim)])


def _put(old: Array, new: Array, slot_BT: Array, behind: int = 0) -> Array:
    """`old [..., B, S, *]` with `new [..., B, T, *]` at the slots, `behind` axes in `*`.

    Slots beyond the last are dropped; no two of a row are equal. Mapped over rows, so that those
    of a mesh stay where they are: one scatter over all of them would gather the batch.
    """
    axis, rest = -2 - behind, (slice(None),) * behind

    def row(old: Array, new: Array, slot_T: Array) -> Array:
        at = old.at[(..., slot_T, *rest)]
        return at.set(new.astype(old.dtype), mode="drop", unique_indices=True)

    return jax.vmap(row, in_axes=(axis, axis, 0), out_axes=axis)(old, new, slot_BT)
