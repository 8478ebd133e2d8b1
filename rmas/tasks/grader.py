"""What a grader is: how an answer is read from a text, and how it is scored against a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rmas.tasks.rows import Row

Scores = dict[str, float]
"""`exact` is our score; `release_compatible` scores as the public release does."""

BOX = "Final Answer: \\boxed{"
"""How a boxed answer begins."""
FENCE = "```python\n"
"""How a block of code begins."""


@dataclass(frozen=True)
class Grade:
    """The grade of a text.

    Attributes:
      answer: as found in the text; None where there is none.
      scores: each from 0 to 1; always `exact` and `release_compatible`.
      note: why it was not graded as usual: `timeout`, `crashed`, or what failed.
    """

    answer: str | None
    scores: Mapping[str, float] = field(
        default_factory=lambda: {"exact": 0.0, "release_compatible": 0.0}
    )
    note: str = ""


@dataclass(frozen=True)
class Grader:
    """How answers to one kind of question are read and scored.

    Attributes:
      name: as in `evaluate.task` and `grading.GRADERS`.
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
      ceiling: `ceiling(rows, rounds)` is the accuracy of a faultless system with so many rounds,
        or None for rows that it does not know; None for graders without.
      release: the release's rule for an answer and the gold answer, where that rule is fast.
      release_rule: how the release's score differs, as the end of a sentence of the report.
    """

    name: str
    extract: Callable[[str], str | None]
    score: Callable[..., tuple[Any, ...]]
    isolation: Literal["none", "process", "sandbox"] = "none"
    opening: str = ""
    retry_tokens: int = 16
    lacks: Callable[[str], bool] | None = None
    ceiling: Callable[[Sequence[Row], int], float | None] | None = None
    release: Callable[[str, str], bool] | None = None
    release_rule: str = ""

    def grade(self, text: str, row: Row, *context: object) -> Grade:
        """The grade of a text; `context` are the further arguments of `score`."""
        return Grade(*self.score(text, row, *context))

    def ungraded(self, text: str, row: Row, note: str) -> Grade:
        """The grade of a text whose scoring failed: wrong, except by the release's fast rule."""
        answer = self.extract(text)
        hit = answer is not None and self.release is not None and self.release(answer, row.answer)
        return Grade(answer, {"exact": 0.0, "release_compatible": float(hit)}, note)


def exact_match(answer: str | None, gold: str) -> Scores:
    """Both scores are 1 where the answer is the gold text itself, else 0."""
    hit = float(answer == gold)
    return {"exact": hit, "release_compatible": hit}
