"""The best accuracy that any system can reach on the questions of an evaluation.

Generated tasks know it: a system of r rounds cannot answer a question that needs more rounds.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmas.checksums import read_checked, write_checked
from rmas.console import printable
from rmas.errors import InputError
from rmas.places import has_file
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ceilings:
    """Ceilings on one set of questions.

    Attributes:
      questions: how many questions there are.
      by_rounds: number of rounds -> accuracy, from 0 to 1.
    """

    questions: int
    by_rounds: Mapping[int, float]


def write_ceilings(path: Path, grader: str, rows: Sequence[Row], rounds: Iterable[int]) -> None:
    """Writes the ceilings on `rows`, unless they are there or the grader does not know them.

    `grader` is a name in `GRADERS`. Raises InputError where something else is in the file's place.
    """
    ceiling = GRADERS[grader].ceiling
    if ceiling is None:
        return
    there = has_file(path)
    try:
        if there and read_ceilings(path) is not None:
            return
    except InputError as error:
        _log.warning("%s: it is written anew", error)
    known = {r: ceiling(rows, r) for r in sorted(set(rounds))}
    by_rounds = {r: accuracy for r, accuracy in known.items() if accuracy is not None}
    if by_rounds:
        write_checked(path, {"questions": len(rows), "by_rounds": by_rounds})


def read_ceilings(path: Path) -> Ceilings | None:
    """What `write_ceilings` wrote; None where there is no such file.

    Raises InputError, naming the file, for other content.
    """
    if not has_file(path):
        return None
    value = read_checked(path)
    try:
        questions = value["questions"]
        by_rounds = {int(rounds): float(x) for rounds, x in value["by_rounds"].items()}
        valid = isinstance(questions, int) and questions > 0
        valid = valid and all(math.isfinite(x) and 0 <= x <= 1 for x in by_rounds.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        valid = False
    if not valid:
        raise InputError(
            f"{printable(str(path))} does not hold ceilings (questions, and accuracies from 0 to 1 "
            "by rounds); delete it and give the command of the evaluation again"
        )
    return Ceilings(questions, by_rounds)
