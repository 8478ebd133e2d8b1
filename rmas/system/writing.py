"""An agent writes: its turn from a prefilled prompt to the finished texts, with tools.

A row that closes a tool's tag is parked while its tool runs on a worker, and the other rows go
on. The result is appended as `<result>...</result>`, and the row goes on from its cache. What a
row writes is what it would write alone. Tool results are data: nothing in them is a control
token, or a tag.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import jax
import numpy as np

from rmas.system import decode
from rmas.system.batch import Line, bucket, stack
from rmas.system.decode import DecodeState, Sampling
from rmas.system.load import Agent
from rmas.tools import Answer, Toolbox, find_call, find_unclosed, render

WORKERS = 8
"""Tools that run at a time."""

Watch = Callable[[int, str], None]
"""`watch(row, text)` is told each new piece of a row's text, results included, as it comes."""


@dataclasses.dataclass(frozen=True)
class ToolUse:
    """A call, and the result as the agent saw it, or why it did not: the context was full."""

    tool: str
    body: str
    result: str
    failed: bool


@dataclasses.dataclass(frozen=True)
class Retry:
    """What becomes of a text that holds no answer: it is given `opening` and goes on, once.

    Attributes:
      lacks: whether a text holds no answer.
      opening: how an answer begins, as `Final Answer: \\boxed{`.
      tokens: how many the text may go on for.
    """

    lacks: Callable[[str], bool]
    opening: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Written:
    """What an agent wrote in one turn.

    Attributes:
      ids: its tokens, the stop token included.
      text: their text, a new line where a result was read.
      whole: the same with the results of tools where the agent read them.
      tools: its calls, in order.
      read: tokens of the results, and of a retry's opening.
      ran: its own tokens that the model was run on: all but the last of each ending.
      retried: whether it went on from the opening of an answer.
    """

    ids: tuple[int, ...]
    text: str
    whole: str
    tools: tuple[ToolUse, ...]
    read: int
    ran: int
    retried: bool = False


def write(
    agent: Agent,
    state: DecodeState,
    sampling: Sampling,
    key_B: np.ndarray,
    limit: int,
    toolbox: Toolbox | None = None,
    watch: Watch | None = None,
    retry: Retry | None = None,
) -> list[Written]:
    """Decodes every row to its end, at most `limit` tokens of its own and those of a retry."""
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="tools")
    desk = _Desk(agent, toolbox, workers, limit, watch, [_Row() for _ in key_B])
    between = desk.between if toolbox or watch else None
    try:
        rows, state = decode.drain(
            agent.model, agent.params, state, sampling, key_B, agent.eos, limit, between
        )
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
    if between is None:
        texts = [agent.chat.decode(ids) for ids in rows]
        wrote = [_plain(ids, text) for ids, text in zip(rows, texts, strict=True)]
    else:
        wrote = [row.written(agent, ids) for row, ids in zip(desk.rows, rows, strict=True)]
    if retry is None:
        return wrote
    again = [
        bool(own.ids) and not row.full and retry.lacks(own.text)
        for own, row in zip(wrote, desk.rows, strict=True)
    ]
    return _retried(agent, state, sampling, key_B, limit, retry, wrote, again)


def _plain(ids: Sequence[int], text: str) -> Written:
    return Written(tuple(ids), text, text, (), 0, max(len(ids) - 1, 0))


def _retried(
    agent: Agent,
    state: DecodeState,
    sampling: Sampling,
    key_B: np.ndarray,
    limit: int,
    retry: Retry,
    wrote: list[Written],
    again: Sequence[bool],
) -> list[Written]:
    """The rows of `again` go on from the opening; the others stay as they are."""
    opening = tuple(agent.chat.data_ids(retry.opening))
    used = np.asarray(state.prefix.valid_BS.sum(1) + state.tail.valid_BS.sum(1))
    most = 1 + len(opening) + retry.tokens
    # Without room in its context an answer stays as it is.
    again = np.asarray(again) & (used + most <= agent.model.max_positions)
    if not again.any():
        return wrote
    lines, count = [Line((), ())] * len(wrote), np.asarray(state.count_B)
    unread = [
        own.ids[-1:] if a and own.ids[-1] not in agent.eos else ()
        for a, own in zip(again, wrote, strict=True)
    ]
    for b in np.flatnonzero(again):
        given = (*unread[b], *opening)
        lines[b] = Line(given, (-1,) * len(given))
    prompt = jax.tree.map(lambda x: x[0], stack([lines]))
    tail = np.asarray(state.tail.valid_BS.sum(1))
    need = int(tail.max()) + most
    size = max(state.tail.valid_BS.shape[1], decode.room(bucket(need)))
    # All go on from the same count, so that each may write as many tokens.
    ahead = np.where(again, limit - count, 0).astype(np.int32)
    state = decode.read_on(
        agent.model, size, agent.params, state, prompt.ids_BT, prompt.valid_BT, ahead
    )
    more, _ = decode.drain(
        agent.model, agent.params, state, sampling, key_B, agent.eos, limit + retry.tokens
    )
    found = []
    for own, ids, first, a in zip(wrote, more, unread, again, strict=True):
        if a:
            end = f"\n{retry.opening}{agent.chat.decode(ids)}"
            own = Written(
                own.ids + tuple(ids),
                own.text + end,
                own.whole + end,
                own.tools,
                own.read + len(opening),
                own.ran + len(first) + max(len(ids) - 1, 0),
                retried=True,
            )
        found.append(own)
    return found


@dataclasses.dataclass
class _Row:
    """A row's text so far: what is finished, and the ids since the last result.

    `full` marks one that ended because its context had no room for a result.
    """

    text: str = ""
    whole: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    tools: list[ToolUse] = dataclasses.field(default_factory=list)
    read: int = 0
    shown: int = 0
    full: bool = False

    def written(self, agent: Agent, ids: Sequence[int]) -> Written:
        last = agent.chat.decode(self.ids)
        ran = max(len(ids) - 1, 0)
        return Written(
            tuple(ids), self.text + last, self.whole + last, tuple(self.tools), self.read, ran
        )


@dataclasses.dataclass(frozen=True)
class _Errand:
    """A call under way, and the tokens of the chunk that its row keeps."""

    kept: list[int]
    answer: Future[Answer]


@dataclasses.dataclass(eq=False)
class _Desk:
    """Between two chunks: finds calls, parks their rows, and hands results back."""

    agent: Agent
    toolbox: Toolbox | None
    workers: ThreadPoolExecutor
    limit: int
    watch: Watch | None
    rows: list[_Row]
    errands: dict[int, _Errand] = dataclasses.field(default_factory=dict)

    def between(self, before: DecodeState, after: DecodeState, new: list[list[int]]) -> DecodeState:
        """See `decode.Between`."""
        done, count = jax.device_get((after.done_B, after.count_B))
        parked = np.zeros(len(new), bool)
        for b, own in enumerate(new):
            if own:
                self.rows[b].ids += own
                parked[b] = self._calls(b, own, ended=done[b], spent=count[b] >= self.limit)
                self._show(b)
        if parked.any():
            after = decode.park(before, after, parked)
        idle = bool((done | parked).all())
        while self.errands:
            if idle:
                wait([e.answer for e in self.errands.values()], return_when=FIRST_COMPLETED)
            back = [b for b, errand in self.errands.items() if errand.answer.done()]
            after, active = self._resume(after, back)
            if active or not idle:
                break  # else all that came back has ended, and the others are waited for
        return after

    def _calls(self, b: int, own: list[int], ended: bool, spent: bool) -> bool:
        """Sends a row's call on its way; its ids are cut to what it wrote until then."""
        row, box = self.rows[b], self.toolbox
        if box is None or len(row.tools) > box.calls:
            return False
        text = self.agent.chat.decode(row.ids)
        call = find_call(text, box.names)
        if call is not None:
            extra = self._extra(row.ids, len(own), box)
            if spent and extra == 0:
                return False  # it may write no more, so nobody would read the result
        elif ended and not spent and (name := find_unclosed(text, box.names)):
            extra = 1  # the stop token
        else:
            return False
        del row.ids[len(row.ids) - extra :], own[len(own) - extra :]
        if call is None:
            answer = _now(box.unclosed(name, len(text)))
        elif len(row.tools) == box.calls:
            answer = _now(box.spent(call))
        else:
            answer = self.workers.submit(box.run, call)
        self.errands[b] = _Errand(list(own), answer)
        return True

    def _extra(self, ids: list[int], most: int, box: Toolbox) -> int:
        """How many of the last ids come after the one that closed the call."""
        extra = 0
        while extra < most - 1 and find_call(
            self.agent.chat.decode(ids[: len(ids) - extra - 1]), box.names
        ):
            extra += 1
        return extra

    def _resume(self, state: DecodeState, back: list[int]) -> tuple[DecodeState, bool]:
        """Rows whose results are in read them, and go on; says whether any does."""
        if not back:
            return state, False
        held = jax.device_get(
            (state.prefix.valid_BS.sum(1), state.tail.valid_BS.sum(1), state.count_B)
        )
        lines, wrote, need = [Line((), ())] * len(self.rows), np.zeros(len(self.rows), np.int32), 0
        for b in back:
            errand, row = self.errands.pop(b), self.rows[b]
            prefix, tail, count = (int(x[b]) for x in held)
            kept = errand.kept
            left = self.limit - count - len(kept)
            room = self.agent.model.max_positions - prefix - tail - len(kept) - left
            answer = errand.answer.result()
            result, ids = self._result(answer, room)
            use = ToolUse(answer.call.tool, answer.call.body, result.strip("\n"), answer.failed)
            row.tools.append(use)
            if self.watch:
                self.watch(b, result)
            if not ids:
                row.full = True  # the text ends with its call
                continue
            own = self.agent.chat.decode(row.ids)
            row.text += own + "\n"
            row.whole += own + result
            row.read += len(ids)
            row.ids, row.shown = [], 0
            given = (*kept, *ids)
            lines[b] = Line(given, (-1,) * len(given))
            wrote[b] = len(kept)
            need = max(need, tail + len(given) + left)
        if not need:
            return state, False
        prompt = jax.tree.map(lambda x: x[0], stack([lines]))
        size = max(state.tail.valid_BS.shape[1], decode.room(bucket(need)))
        own = self.agent
        state = decode.read_on(
            own.model, size, own.params, state, prompt.ids_BT, prompt.valid_BT, wrote
        )
        return state, True

    def _result(self, answer: Answer, room: int) -> tuple[str, Sequence[int]]:
        """The result as a text and as ids, shortened to `room` ids; no ids where none fit."""
        characters = self.toolbox.characters
        while True:
            text = f"\n{render(answer.text, characters)}\n"
            ids = self.agent.chat.data_ids(text)
            if len(ids) <= room:
                return text, ids
            if characters == 100:
                return "\n[no room in the context for the result]\n", ()
            characters = max(100, min(characters // 2, len(answer.text)))

    def _show(self, b: int) -> None:
        """Tells the watcher what is new of a row; characters that are not whole yet wait."""
        if self.watch is None:
            return
        row = self.rows[b]
        text = self.agent.chat.decode(row.ids).rstrip("\ufffd")
        if len(text) > row.shown:
            self.watch(b, text[row.shown :])
            row.shown = len(text)


def _now(answer: Answer) -> Future[Answer]:
    future: Future[Answer] = Future()
    future.set_result(answer)
    return future
