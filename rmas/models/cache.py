"""Keys and values of past positions, in segments.

A cache is a tuple of segments that attention reads one after the other without joining them:
a *prefix* written once by prefill (a constant of any loop over it) and a *tail* that later
positions are written into, each row at its own length.
"""

import jax.numpy as jnp
from flax import struct

from rmas.models.spec import ModelSpec
from rmas.shapes import Array


@struct.dataclass
class KV:
    """Keys (already rotated) and values of one attention layer, `[..., B, S, H, K]`."""

    k_BSHK: Array
    v_BSHK: Array


@struct.dataclass
class Entries:
    """One entry per layer: `period[j]` is stacked over periods `[L, ...]`, `rest[j]` is not."""

    period: tuple[KV, ...]
    rest: tuple[KV, ...]


@struct.dataclass
class Segment:
    """Entries with the facts that attention needs: which slots hold a position, and which one."""

    entries: Entries
    valid_BS: Array
    pos_BS: Array


def empty_tail(spec: ModelSpec, batch: int, size: int, dtype) -> Segment:
    """A tail of `size` free slots."""

    def kv(*lead: int) -> KV:
        shape = (*lead, batch, size, spec.n_kv_heads, spec.head_dim)
        return KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    entries = Entries(
        period=tuple(kv(spec.n_periods) for _ in spec.period),
        rest=tuple(kv() for _ in spec.rest),
    )
    return Segment(entries, jnp.zeros((batch, size), bool), jnp.zeros((batch, size), jnp.int32))


def write(tail: Segment, new: Entries, valid_BT: Array, pos_BT: Array) -> Segment:
    """Appends the valid ones of T new positions to each row, after what the row already holds.

    Invalid positions, and positions beyond the last slot, are not written: a parked row keeps
    its tail bit by bit. Rows may hold different numbers of positions.
    """
    size = tail.valid_BS.shape[1]
    start_B1 = jnp.sum(tail.valid_BS, axis=1, keepdims=True)
    slot_BT = start_B1 + jnp.cumsum(valid_BT, axis=1) - 1
    slot_BT = jnp.where(valid_BT, slot_BT, size)
    row_B1 = jnp.arange(slot_BT.shape[0])[:, None]

    def put(old: KV, kv: KV, lead: tuple) -> KV:
        at = (*lead, row_B1, slot_BT)
        return KV(
            old.k_BSHK.at[at].set(kv.k_BSHK.astype(old.k_BSHK.dtype), mode="drop"),
            old.v_BSHK.at[at].set(kv.v_BSHK.astype(old.v_BSHK.dtype), mode="drop"),
        )

    old = tail.entries
    return Segment(
        entries=Entries(
            tuple(put(o, n, (slice(None),)) for o, n in zip(old.period, new.period, strict=True)),
            tuple(put(o, n, ()) for o, n in zip(old.rest, new.rest, strict=True)),
        ),
        valid_BS=tail.valid_BS.at[row_B1, slot_BT].set(True, mode="drop"),
        pos_BS=tail.pos_BS.at[row_B1, slot_BT].set(pos_BT, mode="drop"),
    )
