"""An agent writes: its turn from a prefilled prompt to the finished texts, with tools.

A row that closes a tool's tag is parked while its tool runs in a worker thread, and the other rows
continue. The result is appended as `<result>...</result>`, and the row continues from its cache. A
row writes what it would write alone. Tool results are data: nothing in them is a control token,
or a tag.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import jax
import numpy as np

from rmas.system import decode
from rmas.system.batch import EMPTY, Line, bucket, stack
from rmas.system.decode import DecodeState
from rmas.system.load import Agent
from rmas.system.sampling import Sampling
from rmas.tools import Answer, Toolbox, find_call, find_unclosed, render

WORKERS = 8
"""Tools that run at the same time."""

Watch = Callable[[int, str], None]
"""`watch(row, text)` is called with each new piece of a row's text, tool results included."""


@dataclasses.dataclass(frozen=True)
class ToolUse:
    """A tool call.

    Attributes:
      tool: the tool's name.
      body: the text between its tags.
      result: what the agent read; if its context was full, a note that says so.
      failed: whether the tool failed.
    """

    tool: str
    body: str
    result: str
    failed: bool


@dataclasses.dataclass(frozen=True)
class Retry:
    """How a text without an answer is continued, once: from the opening of an answer.

    Attributes:
      lacks: whether a text holds no answer.
      opening: how an answer begins, such as `Final Answer: \\boxed{`.
      tokens: the most tokens after the opening.
    """

    lacks: Callable[[str], bool]
    opening: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Written:
    """What an agent wrote in one turn.

    Attributes:
      ids: its tokens, the stop token included.
      text: their text, with a new line in the place of each tool result.
      transcript: the same with the tool results where the agent read them.
      tools: its calls, in order.
      tokens_read: tokens of the tool results, and of a retry's opening.
      tokens_run: its own tokens that the model was run on: all but the last one of each ending.
      retried: whether it was continued from the opening of an answer.
    """

    ids: tuple[int, ...]
    text: str
    transcript: str
    tools: tuple[ToolUse, ...]
    tokens_read: int
    tokens_run: int
    retried: bool = False


def write(
    agent: Agent,
    state: DecodeState,
    sampling: Sampling,
    *,
    key_B: np.ndarray,
    limit: int,
    toolbox: Toolbox | None = None,
    watch: Watch | None = None,
    retry: Retry | None = None,
) -> list[Written]:
    """Decodes every row to its end.

    Args:
      state: after prefill of the prompts (`decode.start`).
      key_B: the rows' random keys (`decode.row_keys`).
      limit: the most tokens that a row writes, without those of a retry.
      toolbox: what the rows may call; None means no tools.
      watch: called with each new piece of text.
      retry: how texts without an answer are continued; None leaves them as they are.
    """
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="tools")
    loop = _ToolLoop(agent, toolbox, workers, limit, watch, [_Row() for _ in key_B])
    between = loop.between if toolbox or watch else None
    try:
        ids_of_rows, state = decode.generate(
            agent.model,
            agent.params,
            state,
            sampling,
            key_B=key_B,
            eos=agent.eos,
            limit=limit,
            between=between,
        )
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
    if between is None:
        wrote = [_plain(ids, agent.chat.decode(ids)) for ids in ids_of_rows]
    else:
        wrote = [row.written(agent, ids) for row, ids in zip(loop.rows, ids_of_rows, strict=True)]
    if retry is None:
        return wrote
    lacking = np.array(
        [
            bool(own.ids) and not row.full and retry.lacks(own.text)
            for own, row in zip(wrote, loop.rows, strict=True)
        ]
    )
    return _retried(agent, state, sampling, key_B, limit, retry, wrote=wrote, lacking=lacking)


def _plain(ids: Sequence[int], text: str) -> Written:
    """A turn without tools."""
    return Written(tuple(ids), text, text, tools=(), tokens_read=0, tokens_run=max(len(ids) - 1, 0))


def _retried(
    agent: Agent,
    state: DecodeState,
    sampling: Sampling,
    key_B: np.ndarray,
    limit: int,
    retry: Retry,
    *,
    wrote: list[Written],
    lacking: np.ndarray,
) -> list[Written]:
    """Continues the rows of `lacking` from the opening; the others stay as they are."""
    opening = tuple(agent.chat.data_ids(retry.opening))
    tail = np.asarray(state.tail.valid_BS.sum(1))
    used = np.asarray(state.prefix.valid_BS.sum(1)) + tail
    most = 1 + len(opening) + retry.tokens
    # An answer whose context has no space for that stays as it is.
    again = lacking & (used + most <= agent.model.max_positions)
    if not again.any():
        return wrote
    lines, count = [EMPTY] * len(wrote), np.asarray(state.count_B)
    unread = [
        own.ids[-1:] if a and own.ids[-1] not in agent.eos else ()
        for a, own in zip(again, wrote, strict=True)
    ]
    for b in np.flatnonzero(again):
        lines[b] = Line.of_tokens((*unread[b], *opening))
    # All continue from the same count, so that each may write as many tokens.
    counted = np.where(again, limit - count, 0).astype(np.int32)
    state = _extended(agent, state, lines, counted, slots=int(tail.max()) + most)
    more, _ = decode.generate(
        agent.model,
        agent.params,
        state,
        sampling,
        key_B=key_B,
        eos=agent.eos,
        limit=limit + retry.tokens,
    )
    found = []
    for own, ids, first, a in zip(wrote, more, unread, again, strict=True):
        if a:
            end = f"\n{retry.opening}{agent.chat.decode(ids)}"
            own = Written(
                ids=own.ids + tuple(ids),
                text=own.text + end,
                transcript=own.transcript + end,
                tools=own.tools,
                tokens_read=own.tokens_read + len(opening),
                tokens_run=own.tokens_run + len(first) + max(len(ids) - 1, 0),
                retried=True,
            )
        found.append(own)
    return found


def _extended(
    agent: Agent, state: DecodeState, lines: list[Line], wrote_B: np.ndarray, slots: int
) -> DecodeState:
    """The state after the rows' lines were appended, with a tail of at least `slots` slots."""
    prompt = jax.tree.map(lambda x: x[0], stack([lines]))
    size = max(state.tail.valid_BS.shape[1], decode.tail_size(bucket(slots)))
    return decode.extend(
        agent.model,
        size,
        agent.params,
        state,
        ids_BT=prompt.ids_BT,
        valid_BT=prompt.valid_BT,
        wrote_B=wrote_B,
    )


@dataclasses.dataclass
class _Row:
    """A row's text so far: what is finished, and the ids since the last result.

    `full` marks a row that ended because its context had no space for a result.
    """

    text: str = ""
    transcript: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    tools: list[ToolUse] = dataclasses.field(default_factory=list)
    tokens_read: int = 0
    shown: int = 0
    full: bool = False

    def written(self, agent: Agent, ids: Sequence[int]) -> Written:
        """What the row wrote, once it has ended; `ids` are all its own tokens."""
        last = agent.chat.decode(self.ids)
        return Written(
            ids=tuple(ids),
            text=self.text + last,
            transcript=self.transcript + last,
            tools=tuple(self.tools),
            tokens_read=self.tokens_read,
            tokens_run=max(len(ids) - 1, 0),
        )


@dataclasses.dataclass(frozen=True)
class _PendingCall:
    """A call whose tool runs, and the tokens of the chunk that its row keeps."""

    kept: list[int]
    answer: Future[Answer]


@dataclasses.dataclass(eq=False)
class _ToolLoop:
    """What happens between two chunks: calls are found, their rows parked, results appended."""

    agent: Agent
    toolbox: Toolbox | None
    workers: ThreadPoolExecutor
    limit: int
    watch: Watch | None
    rows: list[_Row]
    pending: dict[int, _PendingCall] = dataclasses.field(default_factory=dict)

    def between(self, before: DecodeState, after: DecodeState, new: list[list[int]]) -> DecodeState:
        """See `decode.BetweenChunks`."""
        done, count = jax.device_get((after.done_B, after.count_B))
        parked = np.zeros(len(new), bool)
        for b, ids in enumerate(new):
            if ids:
                self.rows[b].ids += ids
                if self.toolbox:
                    spent = bool(count[b] >= self.limit)
                    parked[b] = self._start_call(self.toolbox, b, ids, bool(done[b]), spent)
                self._show(b)
        if self.toolbox is None:
            return after
        if parked.any():
            after = decode.park(before, after, parked)
        idle = bool((done | parked).all())
        while self.pending:
            if idle:
                wait([c.answer for c in self.pending.values()], return_when=FIRST_COMPLETED)
            ready = [b for b, call in self.pending.items() if call.answer.done()]
            after, active = self._resume(self.toolbox, after, ready)
            if active or not idle:
                break  # else every row that got its result has ended: wait for the others
        return after

    def _start_call(
        self, toolbox: Toolbox, b: int, new: list[int], ended: bool, spent: bool
    ) -> bool:
        """Starts the call that a row has written; cuts `new` and the row's ids at its end.

        Says whether there is a call. `spent` marks rows that have written all their tokens.
        """
        row = self.rows[b]
        if len(row.tools) > toolbox.calls:
            return False
        text = self.agent.chat.decode(row.ids)
        if call := find_call(text, toolbox.names):
            extra = self._after_call(row.ids, len(new), toolbox)
            if spent and extra == 0:
                return False  # it may write no more, so nobody would read the result
            if len(row.tools) == toolbox.calls:
                answer = _finished(toolbox.spent(call))
            else:
                answer = self.workers.submit(toolbox.run, call)
        elif ended and not spent and (name := find_unclosed(text, toolbox.names)):
            extra = 1  # the stop token
            answer = _finished(toolbox.unclosed(name, len(text)))
        else:
            return False
        del row.ids[len(row.ids) - extra :], new[len(new) - extra :]
        self.pending[b] = _PendingCall(list(new), answer)
        return True

    def _after_call(self, ids: list[int], most: int, toolbox: Toolbox) -> int:
        """How many of the last ids come after the one that closed the call."""
        extra = 0
        while extra < most - 1 and find_call(
            self.agent.chat.decode(ids[: len(ids) - extra - 1]), toolbox.names
        ):
            extra += 1
        return extra

    def _resume(
        self, toolbox: Toolbox, state: DecodeState, ready: list[int]
    ) -> tuple[DecodeState, bool]:
        """Appends the results of rows `ready`; says whether any of them writes again."""
        if not ready:
            return state, False
        held = jax.device_get(
            (state.prefix.valid_BS.sum(1), state.tail.valid_BS.sum(1), state.count_B)
        )
        lines, wrote, slots = [EMPTY] * len(self.rows), np.zeros(len(self.rows), np.int32), 0
        for b in ready:
            call, row = self.pending.pop(b), self.rows[b]
            prefix, tail, count = (int(x[b]) for x in held)
            kept = call.kept
            left = self.limit - count - len(kept)
            space = self.agent.model.max_positions - prefix - tail - len(kept) - left
            answer = call.answer.result()
            result, ids = self._result(answer, space, toolbox.characters)
            use = ToolUse(answer.call.tool, answer.call.body, result.strip("\n"), answer.failed)
            row.tools.append(use)
            if self.watch:
                self.watch(b, result)
            if not ids:
                row.full = True  # the text ends with its call
                continue
            text = self.agent.chat.decode(row.ids)
            row.text += text + "\n"
            row.transcript += text + result
            row.tokens_read += len(ids)
            row.ids, row.shown = [], 0
            lines[b] = Line.of_tokens((*kept, *ids))
            wrote[b] = len(kept)
            slots = max(slots, tail + len(lines[b]) + left)
        if not slots:
            return state, False
        return _extended(self.agent, state, lines, wrote, slots), True

    def _result(self, answer: Answer, space: int, characters: int) -> tuple[str, Sequence[int]]:
        """The result as text and as ids, shortened to `space` ids; no ids where none fit."""
        while True:
            text = f"\n{render(answer.text, characters)}\n"
            ids = self.agent.chat.data_ids(text)
            if len(ids) <= space:
                return text, ids
            if characters == 100:
                return "\n[no room in the context for the result]\n", ()
            characters = max(100, min(characters // 2, len(answer.text)))

    def _show(self, b: int) -> None:
        """Gives `watch` what is new of a row; characters that are not complete yet wait."""
        if self.watch is None:
            return
        row = self.rows[b]
        text = self.agent.chat.decode(row.ids).rstrip("\ufffd")
        if len(text) > row.shown:
            self.watch(b, text[row.shown :])
            row.shown = len(text)


def _finished(answer: Answer) -> Future[Answer]:
    """The answer of a call that no tool runs for."""
    future: Future[Answer] = Future()
    future.set_result(answer)
    return future
