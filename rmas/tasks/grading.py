"""A task: how an answer is read from a text, and how it is scored against the gold answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rmas.tasks import puzzle
from rmas.tasks.generated import PUZZLES
from rmas.tasks.rows import Row

Scores = dict[str, float]
"""`exact` is the honest score; `release_compatible` grades as the public release does."""


@dataclass(frozen=True)
class Task:
    """A kind of question; `score` takes None where no answer was found.

    `ceiling` gives the accuracy of a faultless system with so many rounds, where a task knows it.
    """

    name: str
    extract: Callable[[str], str | None]
    score: Callable[[str | None, str], Scores]
    ceiling: Callable[[Sequence[Row], int], float] | None = None

    def grade(self, text: str, gold: str) -> tuple[str | None, Scores]:
        """The answer in a text (None where there is none) and its scores, each from 0 to 1."""
        answer = self.extract(text)
        return answer, self.score(answer, gold)


def exact_match(answer: str | None, gold: str) -> Scores:
    """1 where the answer is the gold text itself; no answer scores 0. Both scores are the same."""
    hit = float(answer == gold)
    return {"exact": hit, "release_compatible": hit}


TASKS = {
    name: Task(name, puzzle.extract_answer, exact_match, ceiling=puzzle.ceiling) for name in PUZZLES
}
"""Tasks by the family of their prompts."""
