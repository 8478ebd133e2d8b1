"""All graders by name: of the generated tasks, and of the benchmarks."""

from collections.abc import Mapping

from rmas.tasks import puzzle
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.generated import PUZZLES
from rmas.tasks.grader import Grader, Need, Scores, exact_match, is_text
from rmas.tasks.rows import Row


def _score_puzzle(text: str, row: Row) -> tuple[str | None, Scores]:
    answer = puzzle.extract_answer(text)
    return answer, exact_match(answer, row.answer)


GRADERS: Mapping[str, Grader] = {
    name: Grader(
        name,
        puzzle.extract_answer,
        _score_puzzle,
        ceiling=puzzle.ceiling,
        needs=(Need("answer", is_text, "a gold answer"),),
    )
    for name in PUZZLES
} | {benchmark.grader.name: benchmark.grader for benchmark in BENCHMARKS.values()}
"""Graders by name."""
