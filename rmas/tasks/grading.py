"""A grader: how an answer is read from a text, and how it is scored against a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rmas.tasks import puzzle
from rmas.tasks.choice_answers import find_choice, lacks_choice, score_choice
from rmas.tasks.code_answers import find_code
from rmas.tasks.generated import PUZZLES
from rmas.tasks.livecodebench_answers import score_livecodebench
from rmas.tasks.math_answers import find_math, lacks_math, same_integer, score_integer, score_math
from rmas.tasks.mbpp_answers import score_mbpp
from rmas.tasks.qa_answers import find_fact, lacks_fact, score_fact
from rmas.tasks.rows import Row

Scores = dict[str, float]
"""`exact` is the honest score; `release_compatible` grades as the public release does."""


@dataclass(frozen=True)
class Grade:
    """What grading says of a text.

    Attributes:
      answer: as found in it; None where there is none.
      scores: each from 0 to 1; always `exact` and `release_compatible`.
      note: why it could not be graded as usual: `timeout`, `crashed`, or what failed.
    """

    answer: str | None
    scores: Mapping[str, float] = field(
        default_factory=lambda: {"exact": 0.0, "release_compatible": 0.0}
    )
    note: str = ""


@dataclass(frozen=True)
class Grader:
    """A kind of question.

    Attributes:
      extract: the answer in a text, or None; quick, whatever the text.
      score: `(answer, scores)` of a text for a row, or `(answer, scores, note)`; it may take long
        (`grader_pool.py`).
      where: `here`, `apart` (in a process of its own), or in the `sandbox`, which `score` is given
        with the seconds that a test may take.
      opening: how an answer begins that is asked for once more; empty for no retry.
      retry_tokens: how many tokens that may take.
      lacks: whether a text is asked once more; None: where nothing is extracted.
      ceiling: the accuracy of a faultless system with so many rounds, where a grader knows it;
        None for rows that do not tell.
      release: the release's rule for an answer and a gold one, where that alone is quick.
    """

    name: str
    extract: Callable[[str], str | None]
    score: Callable[..., tuple]
    where: Literal["here", "apart", "sandbox"] = "here"
    opening: str = ""
    retry_tokens: int = 16
    lacks: Callable[[str], bool] | None = None
    ceiling: Callable[[Sequence[Row], int], float | None] | None = None
    release: Callable[[str, str], bool] | None = None

    def grade(self, text: str, row: Row, *context: object) -> Grade:
        """The answer in a text and its scores; `context` is what `score` takes beside."""
        return Grade(*self.score(text, row, *context))

    def ungraded(self, text: str, row: Row, note: str) -> Grade:
        """A wrong answer whose grading failed; the release, with its quicker rule, may differ."""
        answer = self.extract(text)
        hit = answer is not None and self.release is not None and self.release(answer, row.answer)
        return Grade(answer, {"exact": 0.0, "release_compatible": float(hit)}, note)


def exact_match(answer: str | None, gold: str) -> Scores:
    """1 where the answer is the gold text itself; no answer scores 0. Both scores are the same."""
    hit = float(answer == gold)
    return {"exact": hit, "release_compatible": hit}


def _score_puzzle(text: str, row: Row) -> tuple[str | None, Scores]:
    answer = puzzle.extract_answer(text)
    return answer, exact_match(answer, row.answer)


_BOX = "Final Answer: \\boxed{"
_FENCE = "```python\n"
GRADERS = {
    name: Grader(name, puzzle.extract_answer, _score_puzzle, ceiling=puzzle.ceiling)
    for name in PUZZLES
} | {
    "math": Grader(
        "math", find_math, score_math, "apart", _BOX, 16, lacks_math, None, same_integer
    ),
    "integer": Grader(
        "integer", find_math, score_integer, "apart", _BOX, 16, lacks_math, None, same_integer
    ),
    "choice": Grader("choice", find_choice, score_choice, "apart", _BOX, 16, lacks_choice),
    "qa": Grader("qa", find_fact, score_fact, "apart", _BOX, 16, lacks_fact),
    "mbpp": Grader("mbpp", find_code, score_mbpp, "sandbox", _FENCE, 256),
    "livecodebench": Grader(
        "livecodebench", find_code, score_livecodebench, "sandbox", _FENCE, 256
    ),
}
"""Graders by name: the puzzles, and what the benchmarks name (`benchmarks.py`)."""
