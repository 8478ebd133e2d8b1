"""Hidden states of a frozen agent, computed once and kept: inner training reads them from disk.

What an inner link learns from is constant: the agent's states before each token of its text, for
every row and round that the schedule draws. Those are computed a chunk at a time and written as
array_record files, each process its rows; a killed extraction goes on with the next chunk. The
folder's name is a digest of all that the states depend on, so that no others are ever read.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import struct

from rmas import models
from rmas.console import Progress
from rmas.errors import InputError
from rmas.files import atomic_write_json, read_json, replacing, report_full_disk
from rmas.models import ModelSpec
from rmas.parallel import (
    Share,
    all_reduce_max,
    barrier,
    batch_share,
    broadcast_from_first,
    constrain,
    is_first,
    put_batch,
    to_host,
    use,
)
from rmas.shapes import Array, Params
from rmas.system.batch import bucket
from rmas.tasks.pipeline import batches
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text
from rmas.training.loop import Schedule

CHUNK_BATCHES = 16
_FACTS = "features.json"
_TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

Pair = tuple[int, int]
"""A row's place in its source, and the round at which it is read, from 0."""


@struct.dataclass
class Features:
    """States before each token of a text `[B, N, D]`, and the tokens; rows are padded behind."""

    h_BND: Array
    ids_BN: Array
    valid_BN: Array


def draws(schedule: Schedule, examples: Examples, seed: int, step: int) -> list[int]:
    """The round of each row of a step's whole batch."""
    return examples.draw(np.random.default_rng([seed, step]), schedule.batch_size)


def visits(schedule: Schedule, examples: Examples, seed: int, rows: int) -> list[Pair]:
    """Every pair that the schedule reads, once and in order."""
    stream = iter(batches(range(rows), seed=seed, batch_size=schedule.batch_size))
    found: set[Pair] = set()
    for step in range(schedule.optim.steps):
        found |= set(zip(next(stream), draws(schedule, examples, seed, step), strict=True))
    return sorted(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """The states of `pairs` of one agent in one folder.

    Attributes:
      dtype: `float32` or `bfloat16`.
      batch: rows that are run at once.
      shares: among how many processes' files a batch's rows are divided.
    """

    folder: Path
    pairs: Sequence[Pair]
    width: int
    dtype: str
    batch: int
    shares: int

    def file(self, chunk: int, share: int) -> Path:
        """The file of one share of a chunk."""
        return self.folder / f"{chunk:05d}-{share:04d}-of-{self.shares:04d}.array_record"

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-len(self.pairs) // (self.batch * CHUNK_BATCHES))

    def groups(self, chunk: int) -> list[list[Pair]]:
        """The batches of a chunk; the last pair fills up the last one."""
        size = self.batch * CHUNK_BATCHES
        pairs = list(self.pairs[chunk * size : (chunk + 1) * size])
        pairs += pairs[-1:] * (-len(pairs) % self.batch)
        return [pairs[at : at + self.batch] for at in range(0, len(pairs), self.batch)]

    def complete(self, chunk: int) -> bool:
        """Whether all files of a chunk are there."""
        return all(self.file(chunk, share).is_file() for share in range(self.shares))

    def encode(self, h_ND: np.ndarray, ids_N: np.ndarray) -> bytes:
        """One row as bytes: the number of tokens, their ids, the states."""
        head = np.int32([len(ids_N)]).tobytes()
        return head + ids_N.astype(np.int32).tobytes() + h_ND.astype(_TYPES[self.dtype]).tobytes()

    def decode(self, record: bytes) -> tuple[np.ndarray, np.ndarray]:
        """States `[N, D]` and ids `[N]`; raises `InputError` for a record that is damaged."""
        n = int.from_bytes(record[:4], "little", signed=True)
        size = _TYPES[self.dtype].itemsize * self.width
        if n < 0 or len(record) != 4 + n * (4 + size):
            raise InputError(f"stored states in {self.folder} are damaged; delete the folder")
        ids_N = np.frombuffer(record, np.int32, n, 4)
        h_ND = np.frombuffer(record, _TYPES[self.dtype], n * self.width, 4 + 4 * n)
        return h_ND.reshape(n, self.width), ids_N


class Reader:
    """Random access to a complete store."""

    def __init__(self, store: Store) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._store = store
        names = [(c, s) for c in range(store.chunks) for s in range(store.shares)]
        self._source = ArrayRecordDataSource([str(store.file(*name)) for name in names])
        block = store.batch // store.shares
        self._place: dict[Pair, int] = {}
        first = 0
        for chunk in range(store.chunks):
            groups = store.groups(chunk)
            own = len(groups) * block  # records of one file
            for n, group in enumerate(groups):
                for row, pair in enumerate(group):
                    share, rest = divmod(row, block)
                    self._place.setdefault(pair, first + share * own + n * block + rest)
            first += own * store.shares

    def features(self, pairs: Sequence[Pair]) -> Features:
        """The states of these pairs as arrays; all processes call it together."""
        records = self._source.__getitems__([self._place[pair] for pair in pairs])
        rows = [self._store.decode(record) for record in records]
        N = bucket(all_reduce_max(max(len(ids) for _, ids in rows)))
        h_BND = np.zeros((len(rows), N, self._store.width), _TYPES[self._store.dtype])
        ids_BN, valid_BN = np.zeros((len(rows), N), np.int32), np.zeros((len(rows), N), bool)
        for b, (h_ND, ids_N) in enumerate(rows):
            n = len(ids_N)
            h_BND[b, :n], ids_BN[b, :n], valid_BN[b, :n] = h_ND, ids_N, True
        return Features(h_BND, ids_BN, valid_BN)


def extract(
    agent: str,
    *,
    folder: Path,
    model: ModelSpec,
    params: Params,
    examples: Examples,
    source: Sequence[Row],
    schedule: Schedule,
    seed: int,
    dtype: str,
    key: Mapping[str, Any],
) -> Reader:
    """Computes what is missing of an agent's states, and opens them.

    Args:
      folder: holds one folder per digest.
      key: what the states depend on, for JSON: model, prompts, data, lengths.
      dtype: `float32` or `bfloat16`, in which they are stored.

    Raises `InputError` where the folder cannot be written.
    """
    mesh = examples.renderer.system.mesh
    share, pairs = batch_share(mesh), visits(schedule, examples, seed, len(source))
    chunks = [schedule.batch_size, CHUNK_BATCHES]  # what the files are cut by
    facts = {**key, "agent": agent, "dtype": dtype, "pairs": _digest(pairs), "chunks": chunks}
    at = folder / f"{agent}-{_digest(facts)}"
    # Another number of processes reads what an earlier one has finished.
    shares = read_json(at / _FACTS)["shares"] if (at / _FACTS).is_file() else share.count
    store = Store(at, pairs, model.d_model, dtype, schedule.batch_size, shares)
    if not broadcast_from_first((at / _FACTS).is_file()):
        try:
            at.mkdir(parents=True, exist_ok=True)
            _fill(store, agent, model, params, examples, source, share)
            if is_first():
                atomic_write_json(at / _FACTS, {**facts, "shares": shares, "rows": len(pairs)})
        except OSError as error:
            raise InputError(f"states cannot be stored in {at}: {error.strerror}") from None
        barrier(f"states of {agent}")
    return Reader(store)


def _fill(
    store: Store,
    agent: str,
    model: ModelSpec,
    params: Params,
    examples: Examples,
    source: Sequence[Row],
    share: Share,
) -> None:
    mesh = examples.renderer.system.mesh
    with Progress(len(store.pairs), label=f"states {agent}", unit="row") as progress:
        for chunk in range(store.chunks):
            if not broadcast_from_first(store.complete(chunk)):
                records = []
                for group in store.groups(chunk):
                    own = group[share.of(store.batch)]
                    rounds = [k for _, k in own]
                    text = examples.inner(agent, [source[i] for i, _ in own], rounds)
                    with use(mesh):
                        h_BTD = _states(model, params, put_batch(mesh, text, 0, share))
                    rows = to_host(h_BTD)[share.of(store.batch)]
                    records += _records(store, text, rows)
                if share.count > 1 or is_first():
                    _write(store.file(chunk, share.index), records)
                barrier(f"chunk {chunk} of {agent}")
            progress.update(min((chunk + 1) * CHUNK_BATCHES * store.batch, len(store.pairs)))


def _records(store: Store, text: Text, h_BTD: np.ndarray) -> list[bytes]:
    mask_BT = text.text_BT[:, 1:] & text.prompt.valid_BT[:, :-1]
    ids_BT = text.prompt.ids_BT[:, 1:]
    return [
        store.encode(h_TD[:-1][mask_T], ids_T[mask_T])
        for h_TD, ids_T, mask_T in zip(h_BTD, ids_BT, mask_BT, strict=True)
    ]


def _write(path: Path, records: Sequence[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    with report_full_disk(f"{path}"), replacing(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()


@functools.partial(jax.jit, static_argnums=0)
def _states(model: ModelSpec, params: Params, text: Text) -> Array:
    valid_BT = text.prompt.valid_BT
    x_BTD = models.embed(model, params, text.prompt.ids_BT)
    h_BTD, _ = models.run(model, params, x_BTD, valid_BT, models.positions(valid_BT))
    return constrain(h_BTD, "batch", None, None)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
