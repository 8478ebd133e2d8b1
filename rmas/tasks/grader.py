"""What a grader is: how an answer is read from a text, and how it is scored against a row."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rmas.errors import InputError
from rmas.tasks.rows import Row

Scores = dict[str, float]
"""`exact` is our score; where the public release has a rule, `release_compatible` is its score."""

RELEASE = "release_compatible"
"""The name of the release's score."""
RELEASE_GOLD = "release_gold"
"""The field of `Row.meta` with the gold answer of the release, where that differs from ours."""
BOX = "Final Answer: \\boxed{"
"""How a boxed answer begins."""
CHOICE_BOX = "Final Choice: \\boxed{"
"""How the boxed letter of an option begins."""
FENCE = "```python\n"
"""How a block of code begins."""


@dataclass(frozen=True)
class Grade:
    """The grade of a text.

    Attributes:
      answer: as found in the text; None where there is none.
      scores: each from 0 to 1; always `exact`; `release_compatible` where the release has a rule.
      note: why it was not graded as usual: `timeout`, `crashed`, or what failed.
    """

    answer: str | None
    scores: Mapping[str, float] = field(default_factory=lambda: {"exact": 0.0})
    note: str = ""


@dataclass(frozen=True)
class ReleaseRule:
    """How the public release scores an answer.

    Attributes:
      words: how its score differs from ours, as the end of a sentence of the report.
      right: `right(text, gold)` says whether a text is right, in no time.
    """

    words: str
    right: Callable[[str, str], bool]


@dataclass(frozen=True)
class Need:
    """What a grader needs of every row.

    Attributes:
      field: `answer`, or a field of `meta`.
      holds: whether a value of the field will do; a field that is not there has the value None.
      what: what the field must have, in words.
    """

    field: str
    holds: Callable[[Any], bool]
    what: str

    def is_met(self, row: Row) -> bool:
        """Whether a row has it."""
        return self.holds(row.answer if self.field == "answer" else row.meta.get(self.field))


@dataclass(frozen=True)
class Grader:
    """How answers to one kind of question are read and scored.

    Attributes:
      name: as in `evaluate.grader` and `grading.GRADERS`.
      extract: the answer in a text, or None; fast for every text.
      score: `score(text, row)` returns `(answer, scores)` or `(answer, scores, note)`. It may be
        slow (`isolation`). In the sandbox it is `score(text, row, sandbox, seconds)`, with the
        seconds that one test may run.
      isolation: where `score` runs: in this process, in a process of its own with a time limit, or
        in this process with programs in the sandbox.
      opening: how an answer begins; a text without an answer may continue once from it. Empty
        where this is not done.
      retry_tokens: length in tokens of such a continuation.
      lacks: whether a text has no answer and continues; None: where nothing is extracted.
      release_lacks: the same for released systems, as in the release; None: as `lacks`.
      ceiling: `ceiling(rows, rounds)` is the accuracy of a faultless system with so many rounds,
        or None for rows that it does not know; None for graders without.
      needs: what every row must have.
      release: the release's rule; None where it has none.
      without_release: why it has none, as a sentence of the report; empty: it has no such command.
    """

    name: str
    extract: Callable[[str], str | None]
    score: Callable[..., tuple[Any, ...]]
    isolation: Literal["none", "process", "sandbox"] = "none"
    opening: str = ""
    retry_tokens: int = 16
    lacks: Callable[[str], bool] | None = None
    release_lacks: Callable[[str], bool] | None = None
    ceiling: Callable[[Sequence[Row], int], float | None] | None = None
    needs: tuple[Need, ...] = ()
    release: ReleaseRule | None = None
    without_release: str = ""

    def grade(self, text: str, row: Row, *context: object) -> Grade:
        """The grade of a text; `context` are the further arguments of `score`."""
        answer, scores, *note = self.score(text, row, *context)
        return Grade(answer, self._with_release(text, row, scores), *note)

    def is_unanswered(self, text: str, released: bool = False) -> bool:
        """Whether a text continues from `opening`; `released`: of a released system."""
        own = self.lacks or (lambda text: self.extract(text) is None)
        return (self.release_lacks or own)(text) if released else own(text)

    def ungraded(self, text: str, row: Row, note: str) -> Grade:
        """The grade of a text whose scoring failed: wrong, except by the release's own rule."""
        return Grade(self.extract(text), self._with_release(text, row, {"exact": 0.0}), note)

    def check(self, rows: Iterable[Row], source: str) -> None:
        """Raises InputError, naming `source`, row and field, for a row that lacks what it needs."""
        for row in rows if self.needs else ():
            lacking = next((need for need in self.needs if not need.is_met(row)), None)
            if lacking:
                own = lacking.field == "answer"
                name = lacking.field if own else f"meta.{lacking.field}"
                value = repr(row.answer if own else row.meta.get(lacking.field))[:60]
                raise InputError(
                    f"{source}, row {row.id}: the grader {self.name} needs {lacking.what} in the "
                    f"field {name}, not {value}; change it, or name another grader in "
                    "evaluate.grader"
                )

    def _with_release(self, text: str, row: Row, scores: Mapping[str, float]) -> Scores:
        own = dict(scores)
        if self.release:
            gold = str(row.meta.get(RELEASE_GOLD, row.answer))
            own[RELEASE] = float(self.release.right(text, gold))
        return own


def is_text(value: object) -> bool:
    """Whether a value is a text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def exact_match(answer: str | None, gold: str) -> Scores:
    """The score is 1 where the answer is the gold text itself, else 0."""
    return {"exact": float(answer == gold)}
