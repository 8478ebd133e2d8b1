"""Rows -> shuffled, sharded, resumable batches (Grain)."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rmas.errors import InputError

if TYPE_CHECKING:
    import grain

T = TypeVar("T")
_FEW = 1024
"""Fewer rows are shuffled by numpy, since Grain needs more time per row the fewer rows there are:
0.05 ms with a thousand rows, 7 ms with four."""


def batches(
    source: Sequence[T],
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.IterDataset[list[T]]":
    """An endless stream of this process's share of each global batch, as lists of rows.

    Rows are shuffled again in each epoch. The stream is cut into batches after shuffling and
    repeating: a global batch has the same rows in the same order for every number of processes
    (each process gets one block of it), and may span epochs, so that `batch_size` may exceed the
    dataset. An iterator has `get_state()` and `set_state()`; the state's `next_index` is the number
    of batches so far, for every number of processes.

    Args:
        source: rows by index, such as a `RowSource`, or what stands for them.
        seed: 0 to 2**32 - 1.
        batch_size: rows of a global batch, a multiple of `process_count`.
        process_index: which process this is, from 0.
        process_count: the number of processes.

    Raises:
        InputError: an empty source, or a setting that is out of range.
    """
    import grain  # late: with what it imports, a fifth of all imports, and only training needs it

    if len(source) == 0:
        raise InputError("empty dataset: no rows to make batches of; it needs at least one")
    if not 0 <= seed < 2**32:
        raise InputError(f"data seed is {seed}; it must lie in 0 .. 2**32 - 1")
    if not 0 <= process_index < process_count:
        raise InputError(f"process_index is {process_index} of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"batch_size is {batch_size}; it must be a positive multiple of the {process_count} "
            f"process(es) that share a batch"
        )
    stream = _shuffled(source, seed)
    share = batch_size // process_count
    blocks = stream.batch(share, drop_remainder=True, batch_fn=list)
    # Rows are small: a few batches of read-ahead hide the disk's latency (Grain's default is 500).
    ahead = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
    return blocks[process_index::process_count].to_iter_dataset(ahead)


def _shuffled(source: Sequence[T], seed: int) -> "grain.MapDataset[T]":
    """The rows in endless epochs, each in an order of its own."""
    import grain

    count = len(source)
    if count >= _FEW:
        return grain.MapDataset.source(source).seed(seed).shuffle().repeat()

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(count)

    def row(index: int, _: int) -> T:
        epoch, place = divmod(index, count)
        return source[int(order(epoch)[place])]

    return grain.MapDataset.range(count).repeat().map_with_index(row)
