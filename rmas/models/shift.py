"""A segment of the cache at other positions."""

import jax.numpy as jnp

from rmas.models import ops
from rmas.models.cache import KV, Entries, Entry, Segment
from rmas.models.spec import AttentionLayer, LayerSpec, ModelSpec
from rmas.shapes import Array


def start_at(spec: ModelSpec, segment: Segment, start_B: Array | int) -> Segment:
    """A segment whose first position in each row is `start_B`, and the others as far behind it.

    Keys are rotated by the difference, since rotary angles are linear in the position: they are
    those that the same vectors would have there. Values, and what keys were computed from, do not
    depend on positions. For models without recurrent layers.
    """
    most = jnp.iinfo(jnp.int32).max
    first_B = jnp.min(jnp.where(segment.valid_BS, segment.pos_BS, most), axis=1)
    by_B1 = jnp.where(jnp.any(segment.valid_BS, axis=1), start_B - first_B, 0)[:, None]

    def moved(layer: LayerSpec, entry: Entry | None) -> Entry:
        assert isinstance(layer, AttentionLayer) and isinstance(entry, KV)
        angles = ops.rope_angles(layer.rope, by_B1, entry.k_BHSK.dtype)
        return KV(ops.apply_rope(entry.k_BHSK, *angles), entry.v_BHSK).constrained()

    entries = Entries(
        tuple(map(moved, spec.period, segment.entries.period)),
        tuple(map(moved, spec.rest, segment.entries.rest)),
    )
    pos_BS = jnp.where(segment.valid_BS, segment.pos_BS + by_B1, 0)
    return Segment(entries, segment.valid_BS, pos_BS).constrained()
