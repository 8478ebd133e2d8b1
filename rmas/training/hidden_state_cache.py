"""Cached hidden states of a frozen agent: inner training reads them from disk.

What an inner link learns from is constant: the agent's states before each token of its text, for
every row and round that the schedule reads. Those are computed a chunk at a time and written as
array_record files, each process its rows; an extraction that was killed continues with the next
chunk. The folder's name is a digest of all that the states depend on, so that states of something
else are never read.
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
from rmas.checksums import read_checked, write_checked
from rmas.console import Progress
from rmas.errors import InputError
from rmas.files import replacing, report_full_disk
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
from rmas.places import has_file
from rmas.shapes import Array, Params
from rmas.system.batch import bucket
from rmas.tasks.pipeline import batches
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text, on_host
from rmas.training.loop import Schedule

CHUNK_BATCHES = 16
_OFTEN = 2  # reads of a state, on average, from which on it is cached
_FACTS = "hidden_states.json"
_FORMAT = 2  # of the records
_HEAD = 12  # bytes before a record's ids
_TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

RowRound = tuple[int, int]
"""A row's index in its source, and the round at which it is read, from 0."""


@struct.dataclass
class HiddenStates:
    """States before each token of a text `[B, N, D]`, and the tokens; rows are right-padded.

    The states have the dtype in which they were stored, ids are int32, validity is bool.
    """

    h_BND: Array
    ids_BN: Array
    valid_BN: Array

    def count_tokens(self) -> int:
        """Tokens of the texts, padding left out: the agent reads no prompt for them."""
        return int(np.count_nonzero(self.valid_BN))


def draw_rounds(examples: Examples, schedule: Schedule, seed: int, step: int) -> list[int]:
    """The round of each row of a step's whole batch."""
    return examples.draw_rounds(np.random.default_rng([seed, step]), schedule.batch_size)


def scheduled(examples: Examples, schedule: Schedule, seed: int, n_rows: int) -> list[RowRound]:
    """Every row and round that the schedule reads from `n_rows` rows, each once, in order."""
    order = batches(range(n_rows), seed=seed, batch_size=schedule.batch_size)
    found: set[RowRound] = set()
    for step, rows in zip(range(schedule.optim.steps), order, strict=False):
        found |= set(zip(rows, draw_rounds(examples, schedule, seed, step), strict=True))
    return sorted(found)


def _pays(schedule: Schedule, pairs: Sequence[RowRound]) -> bool:
    """Whether the schedule reads each pair twice or more on average."""
    return schedule.optim.steps * schedule.batch_size >= _OFTEN * len(pairs)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """How the states of one agent lie in the files of one folder.

    Attributes:
      pairs: what there are states of, in the order of the files.
      width: D.
      dtype: `float32` or `bfloat16`.
      batch_size: rows that the agent runs at once.
      shares: among how many processes' files a batch's rows are divided.
    """

    folder: Path
    pairs: Sequence[RowRound]
    width: int
    dtype: str
    batch_size: int
    shares: int

    def file(self, chunk: int, share: int) -> Path:
        """The file of one share of a chunk."""
        return self.folder / f"{chunk:05d}-{share:04d}-of-{self.shares:04d}.array_record"

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-len(self.pairs) // (self.batch_size * CHUNK_BATCHES))

    @property
    def records(self) -> int:
        """The number of records in all files: chunks are filled up to whole batches."""
        return sum(len(self.groups(chunk)) for chunk in range(self.chunks)) * self.batch_size

    def groups(self, chunk: int) -> list[list[RowRound]]:
        """The batches of a chunk; the last pair fills up the last one."""
        size = self.batch_size * CHUNK_BATCHES
        pairs = list(self.pairs[chunk * size : (chunk + 1) * size])
        pairs += pairs[-1:] * (-len(pairs) % self.batch_size)
        return [pairs[at : at + self.batch_size] for at in range(0, len(pairs), self.batch_size)]

    def is_complete(self, chunk: int) -> bool:
        """Whether all files of a chunk exist; InputError where something else is in their place."""
        return all(has_file(self.file(chunk, share)) for share in range(self.shares))

    def encode(self, pair: RowRound, h_ND: np.ndarray, ids_N: np.ndarray) -> bytes:
        """One row as bytes: what it is of, the number of tokens, their ids, the states."""
        head = np.array([*pair, len(ids_N)], np.int32).tobytes()
        return head + ids_N.astype(np.int32).tobytes() + h_ND.astype(_TYPES[self.dtype]).tobytes()

    def decode(self, pair: RowRound, record: bytes) -> tuple[np.ndarray, np.ndarray]:
        """States `[N, D]` and ids `[N]`.

        Raises `InputError` for a record that is damaged, or of something else: the index of an
        array_record file has no checksum, unlike its records.
        """
        *of, n = np.frombuffer(record[:_HEAD].ljust(_HEAD, b"\xff"), np.int32).tolist()
        size = _TYPES[self.dtype].itemsize * self.width
        if tuple(of) != pair or n < 0 or len(record) != _HEAD + n * (4 + size):
            raise self.damaged()
        ids_N = np.frombuffer(record, np.int32, n, _HEAD)
        h_ND = np.frombuffer(record, _TYPES[self.dtype], n * self.width, _HEAD + 4 * n)
        return h_ND.reshape(n, self.width), ids_N

    def damaged(self, fault: object = "") -> InputError:
        """What to raise where the files are not what was written."""
        return InputError(
            f"cached hidden states in {self.folder} are damaged; delete it, and the same command "
            f"computes them again{f' ({str(fault)[:200]})' if fault else ''}"
        )


class HiddenStateCache:
    """Random access to the states of a folder, all of whose files must exist.

    Raises `InputError` where they do not, or are damaged.
    """

    def __init__(self, layout: Layout) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._layout = layout
        names = [(c, s) for c in range(layout.chunks) for s in range(layout.shares)]
        if missing := [
            layout.file(*name).name for name in names if not has_file(layout.file(*name))
        ]:
            raise layout.damaged(f"{missing[0]} is missing")
        try:
            self._records = ArrayRecordDataSource([str(layout.file(*name)) for name in names])
            n_records = len(self._records)
        except Exception as error:  # the library's own, of several types
            raise layout.damaged(error) from None
        if n_records != layout.records:
            raise layout.damaged(f"{n_records} records, not {layout.records}")
        block = layout.batch_size // layout.shares
        self._place: dict[RowRound, int] = {}
        first = 0
        for chunk in range(layout.chunks):
            groups = layout.groups(chunk)
            own = len(groups) * block  # records of one file
            for n, group in enumerate(groups):
                for row, pair in enumerate(group):
                    share, rest = divmod(row, block)
                    self._place.setdefault(pair, first + share * own + n * block + rest)
            first += own * layout.shares

    def read(self, pairs: Sequence[RowRound]) -> HiddenStates:
        """The states of these pairs as arrays; all processes call it together.

        Raises `KeyError` for a pair that the schedule does not read, and `InputError` for a record
        that is damaged.
        """
        places = [self._place[pair] for pair in pairs]
        try:
            records = self._records.__getitems__(places)
        except Exception as error:  # the library's own, of several types
            raise self._layout.damaged(error) from None
        rows = [self._layout.decode(*own) for own in zip(pairs, records, strict=True)]
        N = bucket(all_reduce_max(max(len(ids) for _, ids in rows)))
        h_BND = np.zeros((len(rows), N, self._layout.width), _TYPES[self._layout.dtype])
        ids_BN, valid_BN = np.zeros((len(rows), N), np.int32), np.zeros((len(rows), N), bool)
        for b, (h_ND, ids_N) in enumerate(rows):
            n = len(ids_N)
            h_BND[b, :n], ids_BN[b, :n], valid_BN[b, :n] = h_ND, ids_N, True
        return HiddenStates(on_host(h_BND), on_host(ids_BN), on_host(valid_BN))


def cache_hidden_states(
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
) -> HiddenStateCache | None:
    """Computes the agent's states that are not on disk yet, and opens them.

    None where they are not to be cached.

    Args:
      folder: holds one folder per digest.
      schedule, seed: decide which rows are read at which rounds.
      dtype: in which the states are stored: `float32` or `bfloat16`; `none` stores none; `auto`
        stores them where the schedule reads each twice or more on average, in bfloat16 where that
        is the type of the weights, else in float32.
      key: what the states depend on besides `examples`, for JSON: model, prompts, data.

    Raises `InputError` where the folder cannot be written.
    """
    if dtype == "none" or not schedule.optim.steps:
        return None
    pairs = scheduled(examples, schedule, seed, len(source))
    if dtype == "auto":
        if not _pays(schedule, pairs):
            return None
        weights = jax.tree.leaves(params["embed"])[0].dtype.name
        dtype = "bfloat16" if weights == "bfloat16" else "float32"
    share = batch_share(examples.renderer.system.mesh)
    chunks = [schedule.batch_size, CHUNK_BATCHES]  # what the files are cut by
    facts = {
        **key,
        **examples.inner_facts(),
        "format": _FORMAT,
        "agent": agent,
        "dtype": dtype,
        "pairs": _digest(pairs),
        "chunks": chunks,
    }
    at = folder / f"{agent}-{_digest(facts)}"
    complete = has_file(at / _FACTS)
    layout = Layout(at, pairs, model.d_model, dtype, schedule.batch_size, share.count)
    if complete:  # by any number of processes
        layout = dataclasses.replace(layout, shares=_read_shares(layout, facts))
    if not broadcast_from_first(complete):
        try:
            at.mkdir(parents=True, exist_ok=True)
            _fill(
                layout,
                agent,
                model=model,
                params=params,
                examples=examples,
                source=source,
                share=share,
            )
            if is_first():
                write_checked(at / _FACTS, {**facts, "shares": share.count, "rows": len(pairs)})
        except OSError as error:
            raise InputError(f"hidden states cannot be written to {at}: {error.strerror}") from None
        barrier(f"hidden states of {agent}")
    return HiddenStateCache(layout)


def _read_shares(layout: Layout, facts: Mapping[str, Any]) -> int:
    """Among how many files each chunk is divided, from a file that must have these facts."""
    try:
        found = read_checked(layout.folder / _FACTS)
    except InputError as error:
        raise layout.damaged(error) from None
    shares = found.get("shares") if isinstance(found, dict) else None
    wanted = json.loads(json.dumps({**facts, "shares": shares, "rows": len(layout.pairs)}))
    if found != wanted or type(shares) is not int or not 1 <= shares <= layout.batch_size:
        raise layout.damaged(f"{_FACTS} has other facts")
    return shares


def _fill(
    layout: Layout,
    agent: str,
    *,
    model: ModelSpec,
    params: Params,
    examples: Examples,
    source: Sequence[Row],
    share: Share,
) -> None:
    """Writes the chunks that are not complete."""
    mesh, own = examples.renderer.system.mesh, share.of(layout.batch_size)
    with Progress(len(layout.pairs), label=f"hidden states {agent}", unit="row") as progress:
        computed = False
        for chunk in range(layout.chunks):
            if not broadcast_from_first(layout.is_complete(chunk)):
                if not computed:
                    progress.compiling()
                    computed = True
                records = []
                for group in layout.groups(chunk):
                    rows = [source[i] for i, _ in group[own]]
                    text = examples.inner(agent, rows, [k for _, k in group[own]])
                    with use(mesh):
                        h_BTD = _states(model, params, put_batch(mesh, text, 0, share))
                    records += _records(layout, group[own], text, to_host(h_BTD)[own])
                if share.count > 1 or is_first():
                    _write(layout.file(chunk, share.index), records)
                barrier(f"chunk {chunk} of {agent}")
            done = (chunk + 1) * CHUNK_BATCHES * layout.batch_size
            progress.update(min(done, len(layout.pairs)))


def _records(
    layout: Layout, pairs: Sequence[RowRound], text: Text, h_BTD: np.ndarray
) -> list[bytes]:
    mask_BT = text.predicted()
    ids_BT = np.asarray(text.prompt.ids_BT)[:, 1:]
    rows = zip(pairs, h_BTD, ids_BT, np.asarray(mask_BT), strict=True)
    return [layout.encode(pair, h_TD[:-1][mask], ids_T[mask]) for pair, h_TD, ids_T, mask in rows]


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
    pos_BT = models.positions(valid_BT)
    h_BTD, _ = models.run(model, params, x_BTD, valid_BT, pos_BT, left_padded=True)
    return constrain(h_BTD, "batch", None, None)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
