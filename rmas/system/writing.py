"""An agent writes: its turn from prefilled prompts to the finished texts, with tools.

A text that closes a tool's tag is parked while its tool runs in a worker thread, and the others
continue. The result is appended as `<result>...</result>`, and the text continues from its cache. A
text without an answer may be continued once more, from the opening of one. A text that has ended
leaves its row of the batch to the next one (`rmas.system.batching`). Each is what it would be
alone. Tool results are data: nothing in them is a control token, or a tag.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from rmas.system.batching import Held, Part, Prefilled, Reading, RunningBatch
from rmas.system.clock import Clock
from rmas.system.load import Agent
from rmas.system.sampling import Sampling
from rmas.tools import Answer, Toolbox, find_call, find_unclosed, render

WORKERS = 8
"""Tools that run at the same time."""

Watch = Callable[[int, str], None]
"""`watch(n, text)` is called with each new piece of text `n`, tool results included."""


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
    batches: Iterable[Prefilled],
    sampling: Sampling,
    *,
    toolbox: Toolbox | None = None,
    watch: Watch | None = None,
    retry: Retry | None = None,
    clock: Clock | None = None,
) -> list[Written]:
    """Writes the texts of all batches to their ends; returns them in the order of the batches.

    Args:
      batches: each is taken when it is to be prefilled, while those before it are being written.
        They have the same number of rows.
      toolbox: what the texts may call; None means no tools.
      watch: called with each new piece of text.
      retry: how texts without an answer are continued; None leaves them as they are.
      clock: gets the seconds of the phase `write`.
    """
    clock = clock or Clock()
    running = RunningBatch(agent.model, agent.params, sampling, batches, eos=agent.eos, clock=clock)
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="tools")
    try:
        found = _Turn(agent, running, toolbox, workers, watch, retry).written()
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
    clock.lap("write")
    return found


@dataclasses.dataclass
class _Text:
    """A text so far: what is finished, and the ids since the last result.

    Attributes:
      own: all its own tokens.
      unread: stop tokens among them, but for the last one: the model was not run on them.
    """

    own: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    transcript: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    tools: list[ToolUse] = dataclasses.field(default_factory=list)
    tokens_read: int = 0
    unread: int = 0
    shown: int = 0
    retried: bool = False

    def take(self, ids: Sequence[int]) -> None:
        """Adds new tokens."""
        self.own += ids
        self.ids += ids

    def drop(self, n: int) -> None:
        """Takes the last `n` tokens away again."""
        del self.own[len(self.own) - n :], self.ids[len(self.ids) - n :]

    def read(self, agent: Agent, ids: Sequence[int], text: str, transcript: str) -> None:
        """Adds what the agent reads; of it, `text` belongs to the text itself."""
        own = agent.chat.decode(self.ids)
        self.text += own + text
        self.transcript += own + transcript
        self.tokens_read += len(ids)
        self.ids, self.shown = [], 0

    def written(self, agent: Agent) -> Written:
        """What it is once it has ended."""
        last = agent.chat.decode(self.ids)
        return Written(
            ids=tuple(self.own),
            text=self.text + last,
            transcript=self.transcript + last,
            tools=tuple(self.tools),
            tokens_read=self.tokens_read,
            tokens_run=max(len(self.own) - 1, 0) - self.unread,
            retried=self.retried,
        )


@dataclasses.dataclass(frozen=True)
class _PendingCall:
    """A call whose tool runs, and the tokens of the chunk that its text keeps."""

    kept: list[int]
    answer: Future[Answer]


class _Turn:
    """One agent's turn over all texts."""

    def __init__(
        self,
        agent: Agent,
        running: RunningBatch,
        toolbox: Toolbox | None,
        workers: ThreadPoolExecutor,
        watch: Watch | None,
        retry: Retry | None,
    ) -> None:
        self.agent, self.running, self.toolbox = agent, running, toolbox
        self.workers, self.watch, self.retry = workers, watch, retry
        self.opening = tuple(agent.chat.data_ids(retry.opening)) if retry else ()
        self.texts: dict[int, _Text] = {}
        self.pending: dict[int, _PendingCall] = {}
        self.done: dict[int, Written] = {}

    def written(self) -> list[Written]:
        """Runs the turn: see `write`."""
        running = self.running
        while running.refill():
            ended: list[int] = []
            if running.writes:
                ended = self._take(running.chunk())
            else:
                wait([c.answer for c in self.pending.values()], return_when=FIRST_COMPLETED)
            ready = [row for row, call in self.pending.items() if call.answer.done()]
            again = [row for row in ended if self._lacks(row)]
            readings: dict[int, Reading] = {}
            if ready or again:
                held = running.held()
                readings |= {row: own for row in ready if (own := self._result(row, held[row]))}
                readings |= {row: own for row in again if (own := self._opening(row, held[row]))}
            if readings:
                running.read(readings)
            for row in (*ended, *ready):
                if row not in readings:
                    self._finish(row)
        return [self.done[n] for n in sorted(self.done)]

    def _text(self, row: int) -> _Text:
        return self.texts.setdefault(self.running.text(row), _Text())

    def _finish(self, row: int) -> None:
        """The text in a row is what it is; the row is free."""
        n = self.running.text(row)
        self.done[n] = self.texts.pop(n).written(self.agent)
        self.running.free(row)

    def _take(self, parts: Sequence[Part]) -> list[int]:
        """Takes what a chunk has written; returns the rows whose texts have ended.

        Those that call a tool are parked.
        """
        ended, parked = [], []
        for part in parts:
            text = self._text(part.row)
            text.take(part.ids)
            if self.toolbox and self._start_call(self.toolbox, text, part):
                parked.append(part.row)
            elif part.ended:
                ended.append(part.row)
            self._show(part.row)
        if parked:
            self.running.park(parked)
        return ended

    def _start_call(self, toolbox: Toolbox, text: _Text, part: Part) -> bool:
        """Starts the call that a text has written, and cuts the text at the call's end.

        Says whether there is a call.
        """
        if not part.ids or text.retried or len(text.tools) > toolbox.calls:
            return False
        seen = self.agent.chat.decode(text.ids)
        if call := find_call(seen, toolbox.names):
            extra = self._after_call(text.ids, len(part.ids), toolbox)
            if part.spent and extra == 0:
                return False  # it may write no more, so nobody would read the result
            if len(text.tools) == toolbox.calls:
                answer = _finished(toolbox.spent(call))
            else:
                answer = self.workers.submit(toolbox.run, call)
        elif part.ended and not part.spent and (name := find_unclosed(seen, toolbox.names)):
            extra = 1  # the stop token
            answer = _finished(toolbox.unclosed(name, len(seen)))
        else:
            return False
        text.drop(extra)
        self.pending[part.row] = _PendingCall(part.ids[: len(part.ids) - extra], answer)
        return True

    def _after_call(self, ids: list[int], most: int, toolbox: Toolbox) -> int:
        """How many of the last ids come after the one that closed the call."""
        extra = 0
        while extra < most - 1 and find_call(
            self.agent.chat.decode(ids[: len(ids) - extra - 1]), toolbox.names
        ):
            extra += 1
        return extra

    def _result(self, row: int, held: Held) -> Reading | None:
        """What a row reads of the result of its call; None where its context has no space."""
        assert self.toolbox is not None
        call, text = self.pending.pop(row), self._text(row)
        answer, limit = call.answer.result(), self.running.limit(row)
        left = limit - held.count - len(call.kept)
        space = self.agent.model.max_positions - held.prefix - held.tail - len(call.kept) - left
        result, ids = self._shortened(answer, space, self.toolbox.characters)
        use = ToolUse(answer.call.tool, answer.call.body, result.strip("\n"), answer.failed)
        text.tools.append(use)
        self._tell(row, result)
        if not ids:
            return None  # the text ends with its call
        text.read(self.agent, ids, "\n", result)
        return Reading((*call.kept, *ids), counted=len(call.kept), limit=limit)

    def _shortened(self, answer: Answer, space: int, characters: int) -> tuple[str, Sequence[int]]:
        """The result as text and as ids, shortened to `space` ids; no ids where none fit."""
        while True:
            text = f"\n{render(answer.text, characters)}\n"
            ids = self.agent.chat.data_ids(text)
            if len(ids) <= space:
                return text, ids
            if characters == 100:
                return "\n[no room in the context for the result]\n", ()
            characters = max(100, min(characters // 2, len(answer.text)))

    def _lacks(self, row: int) -> bool:
        """Whether a text that has ended is to be continued for want of an answer."""
        text = self._text(row)
        if self.retry is None or text.retried or not text.own:
            return False
        return self.retry.lacks(text.written(self.agent).text)

    def _opening(self, row: int, held: Held) -> Reading | None:
        """What a row reads to begin an answer; None where its context has no space for one."""
        assert self.retry is not None
        text, tokens = self._text(row), self.retry.tokens
        most = 1 + len(self.opening) + tokens
        if held.prefix + held.tail + most > self.agent.model.max_positions:
            return None
        last, limit = text.own[-1], self.running.limit(row)
        stopped = last in self.agent.eos
        text.retried, text.unread = True, int(stopped)
        opening = f"\n{self.retry.opening}"
        text.read(self.agent, self.opening, opening, opening)
        self._tell(row, opening)
        # All continue from the same count, so that each may write as many tokens.
        return Reading(
            self.opening if stopped else (last, *self.opening),
            counted=limit - held.count,
            limit=limit + tokens,
        )

    def _show(self, row: int) -> None:
        """Gives `watch` what is new of a text; characters that are not complete yet wait."""
        if self.watch is None:
            return
        text = self._text(row)
        seen = self.agent.chat.decode(text.ids).rstrip("\ufffd")
        if len(seen) > text.shown:
            self._tell(row, seen[text.shown :])
            text.shown = len(seen)

    def _tell(self, row: int, text: str) -> None:
        if self.watch:
            self.watch(self.running.text(row), text)


def _finished(answer: Answer) -> Future[Answer]:
    """The answer of a call that no tool runs for."""
    future: Future[Answer] = Future()
    future.set_result(answer)
    return future
