"""Tools by name: what they are, what the system prompt says of them, and calls that never raise.

tools = Toolbox([PythonTool(Sandbox.detect()), FunctionTool("double", "Doubles a number.", f)])
call = find_call(text, tools.names)
text += render(tools.run(call).text)
"""

import dataclasses
import math
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from rmas.errors import InputError
from rmas.tools.results import LIMIT
from rmas.tools.tags import NAME, RESULT, Call

MAX_HANGING = 4
"""Calls of one function that may be past their time until it is not called any more."""


class ToolError(Exception):
    """What went wrong in a call, in words for the agent that made it."""


class Tool(Protocol):
    """What an agent may call. Calls come from worker threads, several at a time."""

    @property
    def name(self) -> str:
        """The tag, in lower case."""

    @property
    def description(self) -> str:
        """What stands between the tags and what comes back, in a sentence or two for prompts."""

    def __call__(self, body: str) -> str:
        """The output for what stands between the tags; raises ToolError where there is none."""


@dataclasses.dataclass(frozen=True)
class FunctionTool:
    """A plain Python function as a tool.

    A call that takes longer than `timeout` seconds fails. Its thread cannot be ended and goes on;
    with `MAX_HANGING` of them further calls fail at once. What the function returns is made a
    text by `str`, and its exceptions become `ToolError`s.
    """

    name: str
    description: str
    function: Callable[[str], object]
    timeout: float = 10.0
    _hanging: list[threading.Thread] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )
    _lock: threading.Lock = dataclasses.field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        if not callable(self.function):
            raise InputError(f"tool {self.name}: {self.function!r} cannot be called")
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise InputError(f"tool {self.name}: timeout is {self.timeout}; it must be positive")

    def __call__(self, body: str) -> str:
        with self._lock:
            self._hanging[:] = [thread for thread in self._hanging if thread.is_alive()]
            if len(self._hanging) >= MAX_HANGING:
                raise ToolError(f"{self.name} hangs in earlier calls")
        outcome: list[tuple[bool, str]] = []

        def work() -> None:
            try:
                outcome.append((True, str(self.function(body))))
            except BaseException as error:  # SystemExit too: it must not end a thread in silence
                outcome.append((False, f"{type(error).__name__}: {error}"))

        thread = threading.Thread(target=work, name=f"tool {self.name}", daemon=True)
        thread.start()
        thread.join(self.timeout)
        if not outcome:
            with self._lock:
                self._hanging.append(thread)
            raise ToolError(f"{self.name} took longer than {self.timeout:g} s")
        good, text = outcome[0]
        if not good:
            raise ToolError(text)
        return text


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
      call: the call.
      text: the tool's output as it is, or what went wrong; `results.render` makes a result of it.
      failed: whether something went wrong.
    """

    call: Call
    text: str
    failed: bool


class Toolbox:
    """The tools of a run.

    Attributes:
      names: their tags.
      calls: how many calls an agent may make in one text.
      characters: how much of a result it sees.

    Raises InputError for a name that is no tag, `result`, or taken, for an empty description, and
    for limits that leave nothing.
    """

    def __init__(self, tools: Iterable[Tool], calls: int = 5, characters: int = LIMIT):
        if calls < 1:
            raise InputError(f"tools.calls is {calls}; it must be 1 or more")
        if characters < 100:
            raise InputError(f"tools.characters is {characters}; it must be 100 or more")
        self.calls, self.characters = calls, characters
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if not NAME.fullmatch(tool.name) or tool.name == RESULT:
                raise InputError(
                    f"tool name {tool.name!r} cannot be a tag; use up to 32 of a-z, 0-9, _ and -, "
                    f"a letter first, and not {RESULT!r}"
                )
            if tool.name in self._tools:
                raise InputError(f"two tools are named {tool.name!r}; names must differ")
            if not tool.description.strip():
                raise InputError(f"tool {tool.name} has no description; prompts tell agents of it")
            self._tools[tool.name] = tool
        self.names = frozenset(self._tools)

    def describe(self, told: str = "") -> str:
        """A line for each tool whose tag is not in the text `told`, for a system prompt."""
        return "\n".join(
            f"<{name}>...</{name}>: {' '.join(tool.description.split())}"
            for name, tool in self._tools.items()
            if f"<{name}>" not in told
        )

    def run(self, call: Call) -> Answer:
        """Runs a call, which takes as long as its tool allows; whatever fails is an answer too."""
        tool = self._tools.get(call.tool)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return _failure(call, f"there is no tool {call.tool}; the tools are: {known}")
        if not call.body.strip():
            return _failure(call, f"nothing stands between the tags of {call.tool}")
        try:
            text = tool(call.body)
        except ToolError as error:
            return _failure(call, str(error))
        except Exception as error:  # a fault of the tool must not end a run of many questions
            return _failure(call, f"{call.tool} broke: {type(error).__name__}: {error}")
        return Answer(call, text if text.strip() else "(no output)", failed=False)

    def spent(self, call: Call) -> Answer:
        """The answer to a call beyond the last that is allowed."""
        return _failure(call, f"all {self.calls} calls are used up; answer without tools")

    def unclosed(self, name: str, end: int) -> Answer:
        """The answer to a text that ends, at `end`, within the tags of a tool."""
        reason = f"the tag {name} was not closed, so nothing was run; write the whole call again"
        return _failure(Call(name, "", end), reason)


def _failure(call: Call, reason: str) -> Answer:
    return Answer(call, f"error: {reason}", failed=True)
