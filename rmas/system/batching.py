"""Continuous batching: texts enter and leave the rows of one compiled program between chunks.

The *running* batch is one `DecodeState`, whose rows write a text each. The texts come in batches
that are prefilled whole; of these at most one is *waiting*, prefilled while a chunk runs. A row
whose text has ended is freed, and takes the next waiting text, so that no text waits for the
slowest of its batch. What a text is does not depend on the row it is in, or on the others.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from rmas.models import ModelSpec
from rmas.parallel import row_blocks
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.batch import EMPTY, Line, bucket, stack
from rmas.system.clock import Clock
from rmas.system.decode import DecodeState
from rmas.system.sampling import Sampling


@dataclasses.dataclass(frozen=True, eq=False)
class Prefilled:
    """A batch of texts that begin.

    Attributes:
      state: after prefill of their prompts (`decode.start`); it may be donated later.
      key_B: the rows' random keys, `[B, 2]` uint32 (`decode.row_keys`).
      limit_B: the most tokens that each row writes, int32.
      texts: how many of the first rows are texts; the others only fill up the batch.
    """

    state: DecodeState
    key_B: np.ndarray
    limit_B: np.ndarray
    texts: int


@dataclasses.dataclass(frozen=True)
class Part:
    """What a row has written in a chunk.

    Attributes:
      row: of the running batch.
      ids: the new tokens, a stop token included.
      ended: whether the row has stopped, or written all its tokens.
      spent: whether it has written all its tokens.
    """

    row: int
    ids: list[int]
    ended: bool
    spent: bool


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a row reads before it goes on writing.

    Attributes:
      ids: the tokens.
      counted: what is added to the row's count of written tokens.
      limit: the most tokens that it writes from now on, those counted before included.
    """

    ids: Sequence[int]
    counted: int
    limit: int


@dataclasses.dataclass(frozen=True)
class Held:
    """Positions in a row's cache: of the prompt, and behind it; and its count of tokens."""

    prefix: int
    tail: int
    count: int


class _Waiting:
    """A prefilled batch, of which some texts have not begun.

    Attributes:
      key_B, limit_B, texts: as in `Prefilled`.
      state: the state, with rows where they are now.
      row_of: by text that has not begun its row in `state`; texts are numbered as in the batch.
      first: the number of the batch's first text among all.
    """

    def __init__(self, batch: Prefilled, first: int) -> None:
        self.key_B, self.limit_B, self.texts = batch.key_B, batch.limit_B, batch.texts
        self.state, self.first = batch.state, first
        self.row_of = {n: n for n in range(batch.texts)}
        self._block = len(self.key_B) // row_blocks(len(self.key_B))

    def rotate(self) -> None:
        """Each block of rows goes to the devices of the next one."""
        rows = len(self.key_B)
        self.state = decode.rotate(self.state)
        self.row_of = {n: (row + self._block) % rows for n, row in self.row_of.items()}

    def pairs(self, free: Sequence[int]) -> list[tuple[int, int]]:
        """Free rows of the running batch, each with a text of the same block."""
        found: list[tuple[int, int]] = []
        for first in range(0, len(self.key_B), self._block):
            block = range(first, first + self._block)
            texts = [n for n, row in self.row_of.items() if row in block]
            found += zip([b for b in free if b in block], texts, strict=False)
        return found


class RunningBatch:
    """The rows that write, and the texts in them.

    Texts are numbered in the order in which they come.

    Attributes:
      texts: by row the number of its text; None where the row is free.
      state: of the rows, as it is before the next chunk.
      chunks: how many chunks have run.
      steps: how many tokens deep they were, in all: the row that wrote most counts.
    """

    def __init__(
        self,
        model: ModelSpec,
        params: Params,
        sampling: Sampling,
        batches: Iterable[Prefilled],
        *,
        eos: Sequence[int],
        clock: Clock | None = None,
    ) -> None:
        """Takes the batches one by one, each when it is to be prefilled."""
        self.texts: list[int | None] = []
        self.chunks = self.steps = 0
        self._model, self._params, self._sampling = model, params, sampling
        self._batches, self._clock = iter(batches), clock or Clock()
        self._eos_E = np.asarray(eos, np.int32)
        self._waiting: _Waiting | None = None
        self._come = 0  # texts of all batches so far
        self.state: DecodeState
        self._before: DecodeState | None = None
        self._key_B: np.ndarray
        self._limit_B: np.ndarray
        self._done_B = np.zeros(0, bool)

    def run(self) -> list[list[int]]:
        """Writes every text to its end, without tools; returns their ids, stop tokens included."""
        ids: dict[int, list[int]] = {}
        while self.refill():
            for part in self.chunk():
                ids.setdefault(self.text(part.row), []).extend(part.ids)
                if part.ended:
                    self.free(part.row)
        return [ids[n] for n in sorted(ids)]

    def text(self, row: int) -> int:
        """The number of the text in a row that is not free."""
        n = self.texts[row]
        assert n is not None
        return n

    def limit(self, row: int) -> int:
        """The most tokens that a row writes."""
        return int(self._limit_B[row])

    @property
    def writes(self) -> bool:
        """Whether a row would write in the next chunk."""
        return not self._done_B.all()

    def refill(self) -> bool:
        """Gives waiting texts to the free rows; says whether any row has a text."""
        self._before = None
        if self._waiting is None:
            self._prefill()
        if (waiting := self._waiting) is not None:
            untouched = len(waiting.row_of) == waiting.texts
            if untouched and len(self._free) == len(self.texts):
                self._begin(waiting)
            else:
                self._admit(waiting)
            if not waiting.row_of:
                self._waiting = None
        return any(text is not None for text in self.texts)

    def chunk(self) -> list[Part]:
        """The next tokens of every row that writes.

        The next batch is rendered and prefilled while the chunk runs, if none is waiting.
        """
        self._before, active = self.state, ~self._done_B
        self.state, ids_BC, wrote_BC = decode.chunk(
            self._model,
            self._sampling,
            self._params,
            self.state,
            self._key_B,
            self._eos_E,
            self._limit_B,
        )
        self._clock.settle()  # what was queued before the chunk
        runs = self._clock.queue("write", ids_BC)
        if self._waiting is None:
            self._prefill()
        self._clock.settle(runs)
        got = (ids_BC, wrote_BC, self.state.done_B, self.state.count_B)
        ids, wrote, done, count = jax.device_get(got)
        self._done_B = np.array(done)
        self.chunks += 1
        self.steps += int(wrote.sum(1).max())
        return [
            Part(
                row=int(b),
                ids=ids[b][wrote[b]].tolist(),
                ended=bool(self._done_B[b]),
                spent=bool(count[b] >= self._limit_B[b]),
            )
            for b in np.flatnonzero(active)
        ]

    def held(self) -> list[Held]:
        """What the caches of the rows hold."""
        numbers = jax.device_get(decode.held(self.state))
        return [Held(*(int(n) for n in row)) for row in zip(*numbers, strict=True)]

    def park(self, rows: Sequence[int]) -> None:
        """Undoes the last chunk of some rows, which write no more until they `read`."""
        assert self._before is not None, "only what the last chunk wrote can be undone"
        parked = np.isin(np.arange(len(self.texts)), rows)
        self.state = decode.park(self._before, self.state, parked)
        self._done_B |= parked

    def read(self, readings: Mapping[int, Reading]) -> None:
        """Appends to the caches of some rows, which then write again."""
        held, rows = self.held(), len(self.texts)
        lines, counted = [EMPTY] * rows, np.zeros(rows, np.int32)
        slots = 0
        for b, reading in readings.items():
            lines[b], counted[b] = Line.of_tokens(reading.ids), reading.counted
            self._limit_B[b], self._done_B[b] = reading.limit, False
            left = reading.limit - held[b].count - reading.counted
            slots = max(slots, held[b].tail + len(reading.ids) + left)
        prompt = jax.tree.map(lambda x: x[0], stack([lines]))
        self.state = decode.extend(
            self._model,
            max(self._slots, decode.tail_size(bucket(slots))),
            self._params,
            self.state,
            ids_BT=prompt.ids_BT,
            valid_BT=prompt.valid_BT,
            wrote_B=counted,
        )

    def free(self, row: int) -> None:
        """The row's text has ended; its place goes to a waiting one."""
        assert self._done_B[row]
        self.texts[row] = None

    @property
    def _slots(self) -> int:
        return self.state.tail.valid_BS.shape[1]

    def _prefill(self) -> None:
        """Takes the next batch, if there is one: it is rendered and given to the devices."""
        batch = next(self._batches, None)
        if batch is not None:
            self._waiting = _Waiting(batch, self._come)
            self._come += batch.texts

    @property
    def _free(self) -> list[int]:
        return [b for b, text in enumerate(self.texts) if text is None]

    def _begin(self, waiting: _Waiting) -> None:
        """All texts of the batch, in their own rows: nothing else is running."""
        rows, texts = len(waiting.key_B), waiting.texts
        # Copies: they are changed row by row.
        self._key_B, self._limit_B = waiting.key_B.copy(), waiting.limit_B.astype(np.int32)
        self._done_B = np.arange(rows) >= texts
        self.texts = [waiting.first + b if b < texts else None for b in range(rows)]
        waiting.row_of = {}
        self.state = self._widened(waiting.state, 0, self._limit_B[:texts])

    def _admit(self, waiting: _Waiting) -> None:
        """Texts of the batch in the free rows: those on the same devices, then those on others."""
        for step in range(row_blocks(len(self.texts))):
            if not self._free or not waiting.row_of:
                break
            if step:
                waiting.rotate()
            if pairs := waiting.pairs(self._free):
                self._move(waiting, pairs)

    def _move(self, waiting: _Waiting, pairs: Sequence[tuple[int, int]]) -> None:
        """Puts texts of a batch into rows of their blocks."""
        from_B = np.full(len(self.texts), -1, np.int32)
        for b, n in pairs:
            from_B[b] = waiting.row_of.pop(n)
            self.texts[b] = waiting.first + n
            self._key_B[b], self._limit_B[b] = waiting.key_B[n], waiting.limit_B[n]
            self._done_B[b] = False
        positions = waiting.state.prefix.valid_BS.shape[1]
        limits = self._limit_B[[b for b, _ in pairs]]
        state = self._widened(self.state, positions, limits)
        self.state = decode.admit(state, waiting.state, from_B)

    def _widened(self, state: DecodeState, positions: int, limits: np.ndarray) -> DecodeState:
        """The state with space for prompts of so many positions, and texts of these limits."""
        has = state.prefix.valid_BS.shape[1], state.tail.valid_BS.shape[1]
        wanted = max(has[0], positions), max(has[1], decode.tail_size(int(limits.max())))
        return state if wanted == has else decode.widen(*wanted, state)
