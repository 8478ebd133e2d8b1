"""Tools by name: their interface, their descriptions for prompts, and calls that never raise.

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
"""Calls of a function that may hang before further calls of it fail at once."""


class ToolError(Exception):
    """A call failed; the message is for the agent that made it."""


class Tool(Protocol):
    """A tool that an agent may call. Calls come from worker threads, several at the same time."""

    @property
    def name(self) -> str:
        """The tag in lower case."""

    @property
    def description(self) -> str:
        """What to write between the tags and what is returned, in a sentence or two for prompts."""

    def __call__(self, body: str) -> str:
        """The output for the text between the tags; raises `ToolError` if the call fails."""


@dataclasses.dataclass(frozen=True)
class FunctionTool:
    """A Python function as a tool.

    The function's result is converted by `str`; its exceptions become `ToolError`s. A call that
    takes longer than `timeout` seconds fails. Its thread cannot be stopped and continues; while
    `MAX_HANGING` threads do, further calls fail at once.

    Raises `InputError` for a function that cannot be called or a timeout that is not positive.
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
        """Calls the function in another thread."""
        with self._lock:
            self._hanging[:] = [thread for thread in self._hanging if thread.is_alive()]
            if len(self._hanging) >= MAX_HANGING:
                raise ToolError(f"{self.name} hangs in earlier calls")
        outcome: list[tuple[bool, str]] = []

        def work() -> None:
            try:
                outcome.append((True, str(self.function(body))))
            except BaseException as error:  # also SystemExit, which would end the thread silently
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
    """The answer to a call.

    Attributes:
      call: the call.
      text: the tool's output or an error message, not escaped; see `results.render`.
      failed: whether the call failed.
    """

    call: Call
    text: str
    failed: bool


class Toolbox:
    """The tools of a run.

    Attributes:
      names: their tags.
      calls: the number of calls that an agent may make in one text.
      characters: the number of characters of a result that it sees.

    Raises:
      InputError: the name of a tool is not a valid tag, `result`, or used twice; a description is
        empty; or a limit is too small.
    """

    def __init__(self, tools: Iterable[Tool], calls: int = 5, characters: int = LIMIT):
        if calls < 1:
            raise InputError(f"tools.calls is {calls}; it must be at least 1")
        if characters < 100:
            raise InputError(f"tools.characters is {characters}; it must be at least 100")
        self.calls, self.characters = calls, characters
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if not NAME.fullmatch(tool.name) or tool.name == RESULT:
                raise InputError(
                    f"tool name {tool.name!r} cannot be a tag; use a letter and then up to 31 of "
                    f"a-z, 0-9, _ and -, but not {RESULT!r}"
                )
            if tool.name in self._tools:
                raise InputError(f"two tools are named {tool.name!r}; names must differ")
            if not tool.description.strip():
                raise InputError(f"tool {tool.name} has no description, which prompts need")
            self._tools[tool.name] = tool
        self.names = frozenset(self._tools)

    def describe(self, prompt: str = "") -> str:
        """A line for a system prompt for each tool whose tag is not already in `prompt`."""
        return "\n".join(
            f"<{name}>...</{name}>: {' '.join(tool.description.split())}"
            for name, tool in self._tools.items()
            if f"<{name}>" not in prompt
        )

    def run(self, call: Call) -> Answer:
        """Runs a call; a call that fails has an answer with the error message."""
        tool = self._tools.get(call.tool)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return _failure(call, f"there is no tool {call.tool}; the tools are: {known}")
        if not call.body.strip():
            return _failure(call, f"there is nothing between the tags of {call.tool}")
        try:
            text = tool(call.body)
        except ToolError as error:
            return _failure(call, str(error))
        except Exception as error:  # an error in a tool must not end a run of many questions
            return _failure(call, f"{call.tool} failed: {type(error).__name__}: {error}")
        return Answer(call, text if text.strip() else "(no output)", failed=False)

    def spent(self, call: Call) -> Answer:
        """The answer to a call after the last one that is allowed."""
        return _failure(call, f"all {self.calls} calls are used up; answer without tools")

    def unclosed(self, name: str, end: int) -> Answer:
        """The answer to a text that ends, at `end`, within a call of the tool `name`."""
        reason = f"the tag {name} was not closed, so nothing was run; write the whole call again"
        return _failure(Call(name, "", end), reason)


def _failure(call: Call, reason: str) -> Answer:
    return Answer(call, f"error: {reason}", failed=True)
