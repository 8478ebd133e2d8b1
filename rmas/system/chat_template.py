"""Chat templates, rendered in a process of its own.

The template of a checkpoint is a program that a stranger wrote: it may fail in any way, never
end, or grow without end. Jinja's sandbox keeps it away from the system; the process
(`rmas.workers`) has limited memory and is killed after seconds. All templates of a run share one
such process, which starts with the first chat. It imports neither JAX nor transformers: the
environment of `transformers`' `apply_chat_template` is made here again, with a fixed date.
"""

import atexit
import dataclasses
import datetime
import functools
import json
import os
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from rmas.errors import InputError
from rmas.workers import NoReplyError, Worker
from rmas.workers import serve as serve_jobs

SECONDS = 10.0
"""How long a template may render one chat."""
MEMORY = 1 << 30
"""Bytes of address space of the process that renders."""
LARGEST = 1 << 20
"""The most characters that a template may write besides its messages."""
DATES = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%b %d, %Y", "%B %d, %Y")
"""How a date may be written for templates that format it themselves."""

Message = Mapping[str, str | list[dict[str, str]]]
"""A message of a chat: its `role`, and its `content` as text or as a list of parts."""


class TemplateError(Exception):
    """An error inside a template; another form of the same chat may render."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template with what it may read.

    Attributes:
      text: its Jinja source.
      variables: further names in it: special tokens, `enable_thinking`, ...
      date: what `date_string` and `strftime_now` give.
      where: the agent and its folder, for errors.
      file: the name of the template's file, for errors; may be empty.
    """

    text: str
    variables: Mapping[str, Any]
    date: str
    where: str
    file: str = ""

    def render(self, messages: Sequence[Message], opened: bool) -> str:
        """The chat as text; `opened` says whether the assistant's turn is begun.

        Raises `TemplateError` for an error inside the template, and `InputError` for a template
        that does not end, or writes more than `LARGEST` besides twice its messages.
        """
        given = {"date_string": self.date, "tools": None, "documents": None}
        chat = {"messages": messages, "add_generation_prompt": opened}
        largest = LARGEST + 2 * len(json.dumps(messages))
        job = {
            "template": self.text,
            "date": self.date,
            "variables": {**self.variables, **given, **chat},
            "largest": largest,
        }
        try:
            # A character has at most 12 bytes in JSON.
            reply = _process.ask(job, SECONDS, longest=12 * largest + 1000)
        except NoReplyError as error:
            slow = str(error) == "timeout"
            why = f"it does not end within {SECONDS:g} s" if slow else f"its process {error}"
            raise self.failure(why) from error
        if "text" in reply:
            return reply["text"]
        failure = self.failure(reply["error"], reply["line"])
        raise failure if reply["ended"] else TemplateError(failure)

    def failure(self, why: str, line: int | None = None) -> InputError:
        """The error that names agent, template and reason, in one line."""
        at = ", ".join([*[self.file] * bool(self.file), *[f"line {line}"] * bool(line)])
        return InputError(f"{self.where}: the chat template fails: {why}{f' ({at})' * bool(at)}")


class _SharedProcess:
    """The process that renders; another one starts where it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._owner = 0

    def ask(self, job: dict[str, Any], seconds: float, longest: int) -> dict[str, Any]:
        """The reply to a job; see `Worker.ask`."""
        with self._lock:
            worker = self._running()
            try:
                return worker.ask(job, seconds, longest)
            except NoReplyError as error:
                if str(error) != "crashed":
                    raise
            # Something else may have killed it: the fault is the template's if that happens again.
            return self._running().ask(job, seconds, longest)

    def _running(self) -> Worker:
        if self._worker is None or self._worker.stopped or self._owner != os.getpid():
            self._worker = Worker("from rmas.system.chat_template import main; main()")
            self._owner = os.getpid()
        return self._worker

    def close(self) -> None:
        """Stops the process; a later `ask` starts another one."""
        if self._worker is not None and self._owner == os.getpid():
            self._worker.stop()
        self._worker = None


_process = _SharedProcess()
atexit.register(_process.close)


def main() -> None:
    """The main function of the process that renders."""
    serve_jobs(_rendered, MEMORY)


def _rendered(job: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a job: the text, or the error with its line in the template."""
    pieces, size = [], 0
    try:
        for piece in _compiled(job["template"], job["date"]).generate(job["variables"]):
            pieces.append(piece)
            size += len(piece)
            if size > job["largest"]:
                why = f"it writes more than {job['largest']} characters"
                return {"error": why, "line": None, "ended": True}
        return {"text": "".join(pieces)}
    except Exception as error:  # a template raises whatever it likes
        return {"error": _reason(error), "line": _line(error), "ended": False}


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", None) or error).split())[:200]
    if type(error) is jinja2.TemplateError:  # the template's own words
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def _line(error: Exception) -> int | None:
    """The line of the template that an error comes from, if it is known."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else None


@functools.lru_cache(maxsize=64)
def _compiled(text: str, date: str) -> jinja2.Template:
    """A template in the environment that `transformers` gives to chat templates."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: _day(date).strftime(form)
    return environment.from_string(text)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks an assistant's words for training; what is in it stays as it is."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _day(date: str) -> datetime.datetime:
    for form in DATES:
        try:
            return datetime.datetime.strptime(date, form)
        except ValueError:
            continue
    raise jinja2.TemplateError(
        f"it formats a date, and {date!r} is none that is known; write system.date as in "
        "'26 Jul 2024' or '2024-07-26'"
    )
