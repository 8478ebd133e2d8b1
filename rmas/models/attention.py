"""Attention of new positions to segments of keys: one softmax over all of them.

Few queries (a latent step, a decoded token, a short prompt) take the dense form, which holds a
score for every query and key. Longer prompts go through blocks of queries and keys with a running
softmax (Rabe and Staats 2021; Dao et al. 2022): memory is linear in the prompt, and so it is in
reverse mode, which stores the logarithm of each softmax's sum and computes scores again.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rmas.models.ops import PRECISION, at_least_float32
from rmas.shapes import Array

DENSE_SCORES = 512 * 512
"""Up to so many pairs of a query and a key per head, the dense form is used.

With blocks (this constant at 0) `experiments.benchmarks.compiled --parts=prefill` estimates 8 %
more for 8 prompts of 512 tokens of Qwen3-1.7B on a v5e; with longer prompts less.
"""
BLOCK = 256
"""The most queries, and the most keys, of a block; 128 and 512 are slower by this estimate."""
_MASKED = -1e30
_LEAST = -1e29  # starts a running maximum: exp(_MASKED - _LEAST) is zero, not one


@struct.dataclass
class Visible:
    """Which keys of a segment the queries may attend to: the mask `[B, T, S]`, not yet made.

    Attributes:
      pos_BT, pos_BS: positions of queries and keys, int32.
      valid_BS: which keys are real.
      window: if given, a query sees keys less than so many positions before it.
      own: whether keys are the queries' own positions, of which each sees those up to itself.
      left_padded: a promise on own positions: the valid ones of each row are its last ones.
    """

    pos_BT: Array
    pos_BS: Array
    valid_BS: Array
    window: int | None = struct.field(pytree_node=False)
    own: bool = struct.field(pytree_node=False, default=False)
    left_padded: bool = struct.field(pytree_node=False, default=False)

    def mask(self, first_query: Array | int = 0, first_key: Array | int = 0) -> Array:
        """The mask `[B, T, S]`; of a block, its first query and key within the segment's own."""
        mask_BTS = self.valid_BS[:, None, :]
        if self.own:
            query_T = first_query + jnp.arange(self.pos_BT.shape[1], dtype=jnp.int32)
            key_S = first_key + jnp.arange(self.pos_BS.shape[1], dtype=jnp.int32)
            mask_BTS = mask_BTS & (query_T[:, None] >= key_S)
        if self.window is not None:
            near_BTS = self.pos_BT[:, :, None] - self.pos_BS[:, None, :] < self.window
            mask_BTS = mask_BTS & near_BTS
        return jnp.broadcast_to(mask_BTS, (*self.pos_BT.shape, self.pos_BS.shape[1]))


Mask = Array | Visible
"""A mask `[B, T, S]`, true where a query attends to a key, or what it is made from."""


def masks(visible: Sequence[Visible]) -> tuple[Mask, ...]:
    """The masks of all segments: made for the dense form, left to be made for blocks."""
    queries = visible[0].pos_BT.shape[1]
    if _is_dense(queries, sum(v.pos_BS.shape[1] for v in visible)):
        return tuple(v.mask() for v in visible)
    return tuple(visible)


def _is_dense(queries: int, keys: int) -> bool:
    return queries == 1 or queries * keys <= DENSE_SCORES


def scores_at_once(positions: int) -> int:
    """How many numbers the scores of one row and head take in the prefill of so many positions.

    Programs hold scores, exponents and weights of the dense form, but one of them of a block.
    """
    if _is_dense(positions, positions):
        return 3 * positions * positions
    return _Blocks.of(positions, BLOCK).size ** 2


def attend(q_BTHGK: Array, segments: list[tuple[Array, Array, Mask]], scale: float) -> Array:
    """Attention over the concatenation of several segments of keys, without concatenating them.

    Args:
      segments: `(k_BSHK, v_BSHK, mask)`, with masks that are all made or all not (see `masks`).
      scale: factor on scores.

    Returns:
      `[B, T, H, G, K]` in the dtype of the queries; zeros for a query that may attend to nothing.
    """
    kept = [segment for segment in segments if segment[0].shape[1]]  # not a tail without slots
    visible = tuple(mask for _, _, mask in kept if isinstance(mask, Visible))
    if visible:
        return blocked(scale, BLOCK, q_BTHGK, tuple((k, v) for k, v, _ in kept), visible)
    made = [(k, v, mask) for k, v, mask in kept if not isinstance(mask, Visible)]
    return dense(q_BTHGK, made, scale)


def dense(q_BTHGK: Array, segments: list[tuple[Array, Array, Array]], scale: float) -> Array:
    """`attend` with all scores at once, with float32 sums at least.

    Each segment gives partial sums that share one maximum, so that keys and values are never
    copied and key/value heads never repeated.
    """
    scores = []
    for k_BSHK, _, mask_BTS in segments:
        s_BHGTS = _product("BTHGK,BSHK->BHGTS", q_BTHGK, k_BSHK) * scale
        scores.append(jnp.where(mask_BTS[:, None, None], s_BHGTS, _MASKED))
    top = jnp.max(jnp.stack([jnp.max(s, axis=-1) for s in scores]), axis=0)[..., None]
    top = lax.stop_gradient(top)
    total: Array | float = 0.0
    out: Array | float = 0.0
    for s_BHGTS, (_, v_BSHK, mask_BTS) in zip(scores, segments, strict=True):
        # Masked again: where every key of a query is masked, exp(s - top) is one.
        w_BHGTS = jnp.where(mask_BTS[:, None, None], jnp.exp(s_BHGTS - top), 0.0)
        total = total + jnp.sum(w_BHGTS, axis=-1, keepdims=True)
        out = out + _product("BHGTS,BSHK->BHGTK", w_BHGTS.astype(v_BSHK.dtype), v_BSHK)
    out = out / jnp.where(total > 0, total, 1.0)
    return jnp.moveaxis(out, 3, 1).astype(q_BTHGK.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def blocked(
    scale: float,
    size: int,
    q_BTHGK: Array,
    kvs: tuple[tuple[Array, Array], ...],
    visible: tuple[Visible, ...],
) -> Array:
    """`attend` in blocks of at most `size` queries and keys, with float32 sums at least.

    It has gradients in reverse mode alone.

    Args:
      kvs: `(k_BSHK, v_BSHK)` of each segment.
      visible: what the queries see of each segment.
    """
    return _forward(scale, size, q_BTHGK, kvs, visible)[0]


def _forward(scale, size, q_BTHGK, kvs, visible):
    queries = _Blocks.of(q_BTHGK.shape[1], size)
    q_NBHGTK = queries.split_heads(q_BTHGK)
    wide = jnp.promote_types(q_BTHGK.dtype, jnp.float32)
    dtype = q_BTHGK.dtype if len(kvs) == 1 else wide
    parts = []
    for (k_BSHK, v_BSHK), seen in zip(kvs, visible, strict=True):
        keys = _Blocks.of(k_BSHK.shape[1], size)
        k_NBHSK, v_NBHSK = keys.split_heads(k_BSHK), keys.split_heads(v_BSHK)
        mask_of = _masks(seen, queries, keys)

        def step(carry, pair, k_NBHSK=k_NBHSK, v_NBHSK=v_NBHSK, mask_of=mask_of):
            (old_BHGT, total_BHGT, sum_BHGTK), out_NBHGTK, log_NBHGT = carry
            i, j, first = pair  # the sums are those of query block i, if j is not its first
            old_BHGT = jnp.where(first, _LEAST, old_BHGT)
            s_BHGTS = _scores(q_NBHGTK[i], k_NBHSK[j], mask_of(i, j), scale)
            top_BHGT = jnp.maximum(old_BHGT, jnp.max(s_BHGTS, axis=-1))
            w_BHGTS = jnp.exp(s_BHGTS - top_BHGT[..., None])
            fade_BHGT = jnp.where(first, 0.0, jnp.exp(old_BHGT - top_BHGT))
            total_BHGT = fade_BHGT * total_BHGT + jnp.sum(w_BHGTS, axis=-1)
            more_BHGTK = _product("BHGTS,BHSK->BHGTK", w_BHGTS.astype(v_NBHSK.dtype), v_NBHSK[j])
            sum_BHGTK = fade_BHGT[..., None] * sum_BHGTK + more_BHGTK
            some_BHGT = total_BHGT > 0
            share_BHGT = jnp.where(some_BHGT, 1 / jnp.where(some_BHGT, total_BHGT, 1.0), 0.0)
            out_BHGTK = (sum_BHGTK * share_BHGT[..., None]).astype(dtype)
            log_BHGT = top_BHGT - jnp.log(jnp.where(some_BHGT, share_BHGT, 1.0))
            sums = (top_BHGT, total_BHGT, sum_BHGTK)
            return (sums, out_NBHGTK.at[i].set(out_BHGTK), log_NBHGT.at[i].set(log_BHGT)), None

        out_NBHGTK = q_NBHGTK.astype(dtype)  # overwritten: zeros would have to be filled in
        sum_BHGTK = jnp.zeros(q_NBHGTK.shape[1:], wide)
        zero_NBHGT = jnp.zeros(q_NBHGTK.shape[:-1], wide)
        zeros = ((zero_NBHGT[0], zero_NBHGT[0], sum_BHGTK), out_NBHGTK, zero_NBHGT)
        (_, out_NBHGTK, log_NBHGT), _ = lax.scan(step, zeros, _pairs(seen, queries, keys))
        parts.append((out_NBHGTK, log_NBHGT))
    if len(parts) > 1:
        out_NBHGTK, log_NBHGT = _joined(parts)
    out_BTHGK = queries.join_heads(out_NBHGTK.astype(q_BTHGK.dtype))
    return out_BTHGK, (q_BTHGK, kvs, visible, out_BTHGK, log_NBHGT)


def _joined(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """One softmax of those over each segment: results, and logarithms of the sums."""
    logs = jnp.stack([log_NBHGT for _, log_NBHGT in parts])
    log_NBHGT = jax.nn.logsumexp(logs, axis=0)
    shares = jnp.exp(logs - log_NBHGT)[..., None]
    return sum(share * out for share, (out, _) in zip(shares, parts, strict=True)), log_NBHGT


def _backward(scale, size, stored, dout_BTHGK):
    q_BTHGK, kvs, visible, out_BTHGK, log_NBHGT = stored
    queries = _Blocks.of(q_BTHGK.shape[1], size)
    q_NBHGTK, dout_NBHGTK = queries.split_heads(q_BTHGK), queries.split_heads(dout_BTHGK)
    out_NBHGTK = queries.split_heads(out_BTHGK)
    # The sum over keys of weight times its gradient is that of the result times its gradient.
    along_NBHGT = jnp.sum(at_least_float32(out_NBHGTK) * at_least_float32(dout_NBHGTK), axis=-1)
    dq_NBHGTK = jnp.zeros(q_NBHGTK.shape, along_NBHGT.dtype)
    dkvs = []
    for (k_BSHK, v_BSHK), seen in zip(kvs, visible, strict=True):
        keys = _Blocks.of(k_BSHK.shape[1], size)
        k_NBHSK, v_NBHSK = keys.split_heads(k_BSHK), keys.split_heads(v_BSHK)
        mask_of = _masks(seen, queries, keys)

        def step(sums, pair, k_NBHSK=k_NBHSK, v_NBHSK=v_NBHSK, mask_of=mask_of):
            i, j, _ = pair
            dq_NBHGTK, dk_NBHGSK, dv_NBHGSK = sums
            q_BHGTK, dout_BHGTK, k_BHSK = q_NBHGTK[i], dout_NBHGTK[i], k_NBHSK[j]
            s_BHGTS = _scores(q_BHGTK, k_BHSK, mask_of(i, j), scale)
            w_BHGTS = jnp.exp(s_BHGTS - log_NBHGT[i][..., None])
            dw_BHGTS = _product("BHGTK,BHSK->BHGTS", dout_BHGTK, v_NBHSK[j])
            ds_BHGTS = w_BHGTS * (dw_BHGTS - along_NBHGT[i][..., None]) * scale
            w_BHGTS, ds_BHGTS = (x.astype(q_BHGTK.dtype) for x in (w_BHGTS, ds_BHGTS))
            dq_BHGTK = _product("BHGTS,BHSK->BHGTK", ds_BHGTS, k_BHSK)
            dk_BHGSK = _product("BHGTS,BHGTK->BHGSK", ds_BHGTS, q_BHGTK)
            dv_BHGSK = _product("BHGTS,BHGTK->BHGSK", w_BHGTS, dout_BHGTK)
            added = dq_NBHGTK.at[i].add(dq_BHGTK)
            return (added, dk_NBHGSK.at[j].add(dk_BHGSK), dv_NBHGSK.at[j].add(dv_BHGSK)), None

        # Summed over G at the end: where a mesh splits G, each block would be exchanged.
        N, B, H, S, K = k_NBHSK.shape
        none_NBHGSK = jnp.zeros((N, B, H, q_BTHGK.shape[3], S, K), dq_NBHGTK.dtype)
        zeros = (dq_NBHGTK, none_NBHGSK, none_NBHGSK)
        sums, _ = lax.scan(step, zeros, _pairs(seen, queries, keys))
        dq_NBHGTK, dk_NBHGSK, dv_NBHGSK = sums
        dk_BSHK, dv_BSHK = (keys.join_heads(jnp.sum(x, axis=3)) for x in (dk_NBHGSK, dv_NBHGSK))
        dkvs.append((dk_BSHK.astype(k_BSHK.dtype), dv_BSHK.astype(v_BSHK.dtype)))
    return queries.join_heads(dq_NBHGTK).astype(q_BTHGK.dtype), tuple(dkvs), None


blocked.defvjp(_forward, _backward)


def _product(axes: str, x: Array, y: Array) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(axes, x, y, precision=PRECISION, preferred_element_type=wide)


def _scores(q_BHGTK: Array, k_BHSK: Array, mask_BTS: Array, scale: float) -> Array:
    s_BHGTS = _product("BHGTK,BHSK->BHGTS", q_BHGTK, k_BHSK) * scale
    return jnp.where(mask_BTS[:, None, None], s_BHGTS, _MASKED)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """How `length` positions are split: `count` blocks of `size`, the last filled with zeros."""

    length: int
    count: int
    size: int

    @classmethod
    def of(cls, length: int, most: int) -> "_Blocks":
        """Equal blocks of a multiple of 16 positions."""
        count = -(-length // most)
        size = -(-length // (16 * count)) * 16
        return cls(length, count, size)

    def split(self, x_BT: Array) -> Array:
        """`[N, B, T, ...]`, T those of one block, of `[B, T, ...]`."""
        more = self.count * self.size - self.length
        x_BT = jnp.pad(x_BT, [(0, more if axis == 1 else 0) for axis in range(x_BT.ndim)])
        x_BNT = x_BT.reshape(x_BT.shape[0], self.count, self.size, *x_BT.shape[2:])
        return jnp.moveaxis(x_BNT, 1, 0)

    def split_heads(self, x_BTHK: Array) -> Array:
        """`[N, B, H, ..., T, K]` of `[B, T, H, ..., K]`."""
        B, T, *heads, K = x_BTHK.shape
        # One axis of all heads: TPUs would fill up a small last but one axis to eight.
        x_NBTHK = self.split(x_BTHK.reshape(B, T, -1, K))
        return jnp.swapaxes(x_NBTHK, 2, 3).reshape(self.count, B, *heads, self.size, K)

    def join_heads(self, x_NBHTK: Array) -> Array:
        """`[B, T, H, ..., K]` again."""
        _, B, *heads, _, K = x_NBHTK.shape
        x_NBHTK = x_NBHTK.reshape(self.count, B, -1, self.size, K)
        x_BTHK = jnp.transpose(x_NBHTK, (1, 0, 3, 2, 4)).reshape(B, -1, *heads, K)
        return x_BTHK[:, : self.length]


def _masks(seen: Visible, queries: _Blocks, keys: _Blocks):
    """The function from the numbers of two blocks to their mask."""
    query_NBT = queries.split(seen.pos_BT)
    key_NBS, valid_NBS = keys.split(seen.pos_BS), keys.split(seen.valid_BS)

    def of(i: Array, j: Array) -> Array:
        part = dataclasses.replace(
            seen, pos_BT=query_NBT[i], pos_BS=key_NBS[j], valid_BS=valid_NBS[j]
        )
        return part.mask(i * queries.size, j * keys.size)

    return of


def _pairs(seen: Visible, queries: _Blocks, keys: _Blocks) -> tuple[np.ndarray, ...]:
    """The pairs of blocks in which a query may see a key, as far as is known before a run.

    Returns the numbers of query and key blocks, and whether a pair is the first of its query
    block; every query block has one.
    """

    def kept(i: int, j: int) -> bool:
        ahead = i * queries.size - (j + 1) * keys.size + 1  # least distance of a query and a key
        if seen.own and ahead + queries.size + keys.size - 2 < 0:
            return False
        return not (seen.own and seen.left_padded and seen.window and ahead >= seen.window)

    found = [(i, j) for i in range(queries.count) for j in range(keys.count) if kept(i, j)]
    i_P, j_P = np.array(found, np.int32).T
    return i_P, j_P, np.diff(i_P, prepend=-1) > 0
