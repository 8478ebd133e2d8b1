"""What a trace of a run on CPU says: when programs ran, when none did, and what the host did."""

import dataclasses
import gzip
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.evaluation.runner import ANSWER
from rmas.files import open_file

_POOL = "tf_XLA"  # of threads that run programs on CPU
_RENDER = "render"  # a phase of `rmas.system.clock`


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """Something that went on from `start` to `end`, in seconds of the trace."""

    start: float
    end: float
    name: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def within(self, start: float, end: float) -> float:
        """Seconds of it between two times."""
        return max(0.0, min(self.end, end) - max(self.start, start))


@dataclasses.dataclass(frozen=True)
class Gap:
    """Time in which no program ran.

    Attributes:
      after, before: the programs that ended and began there.
      rendering: seconds of it in which the host rendered prompts.
      answer: the method whose group was being answered; empty between groups.
    """

    start: float
    end: float
    after: str
    before: str
    rendering: float
    answer: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a trace holds, sorted by start.

    Attributes:
      programs: each from its first operation to its last.
      rendering: when the host rendered prompts.
      answers: groups that were answered, by the names of methods with rounds.
    """

    programs: tuple[Span, ...]
    rendering: tuple[Span, ...]
    answers: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """From the first program to the end of the last."""
        return self.end - self.programs[0].start

    @property
    def end(self) -> float:
        """The end of the last program."""
        return max(span.end for span in self.programs)

    def answering(self, method: str) -> float:
        """Seconds between the first and the last program in which a method answers."""
        ends = self.programs[0].start, self.end
        return sum(own.within(*ends) for own in self.answers if own.name == method)

    def gaps(self) -> list[Gap]:
        """All gaps between programs, cut where answering begins and ends, the longest first."""
        found, last = [], self.programs[0]
        bounds = sorted({t for own in self.answers for t in (own.start, own.end)})
        for span in self.programs[1:]:
            if span.start > last.end:
                inside = [t for t in bounds if last.end < t < span.start]
                for ends in itertools.pairwise([last.end, *inside, span.start]):
                    rendering = sum(own.within(*ends) for own in self.rendering)
                    answer = self._answer(*ends)
                    found.append(Gap(*ends, last.name, span.name, rendering, answer))
            last = max(last, span, key=lambda one: one.end)
        return sorted(found, key=lambda gap: -gap.seconds)

    def of(self, program: str) -> list[Span]:
        """The runs of one program."""
        return [span for span in self.programs if span.name == program]

    def during(self, answer: str, program: str) -> list[Span]:
        """The runs of one program in groups that a method answers."""
        return [span for span in self.of(program) if self._answer(span.start, span.end) == answer]

    def _answer(self, start: float, end: float) -> str:
        """The method that answers in all this time; empty if none does."""
        found = (own.name for own in self.answers if own.start <= start and end <= own.end)
        return next(found, "")


def read_trace(folder: Path) -> Trace:
    """The newest trace below a folder that `profile_groups` or `profile_steps` has written.

    Raises `InputError` where there is none, or none of programs on CPU.
    """
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.parent.name)
    files = [path for path in files if path.name != "perfetto_trace.json.gz"]
    if not files:
        raise InputError(f"{folder} holds no trace; evaluate with profile_groups writes one")
    try:
        with open_file(files[-1]) as file:
            events = json.loads(gzip.decompress(file.read()))["traceEvents"]
        found = parse_trace(events)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{files[-1]} is not a trace: {error}") from None
    if not found.programs:
        raise InputError(f"{files[-1]} has no programs of a CPU; others are not read")
    return found


def parse_trace(events: Iterable[dict[str, Any]]) -> Trace:
    """A trace from its events: dicts of the Trace Event Format, times in microseconds."""
    events = list(events)
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event.get("ph") == "M" and event["name"] == "thread_name"
    }
    runs: dict[tuple[str, str], Span] = {}
    rendering, answers = [], []
    for event in events:
        if event.get("ph") != "X":
            continue
        start, name = event["ts"] / 1e6, event["name"]
        end = start + event.get("dur", 0) / 1e6
        if not threads.get((event["pid"], event["tid"]), "").startswith(_POOL):
            if name == _RENDER:
                rendering.append(Span(start, end, name))
            elif name.startswith(ANSWER):
                answers.append(Span(start, end, name.removeprefix(ANSWER)))
        elif program := event.get("args", {}).get("hlo_module"):
            key = program, event["args"].get("run_id", "")
            own = runs.get(key, Span(start, end, program))
            runs[key] = Span(min(own.start, start), max(own.end, end), program)
    return Trace(*(tuple(sorted(found)) for found in (runs.values(), rendering, answers)))
