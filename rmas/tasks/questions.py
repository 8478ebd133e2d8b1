"""From the row of a dataset to the question that agents are asked."""

from collections.abc import Mapping

from rmas.system.answers import Question
from rmas.system.prompts import PROGRAM, Interface
from rmas.tasks.rows import Row


def question_of(row: Row) -> Question:
    """The question of a row, with the interface that its code must have.

    The interface is `meta["interface"]` of benchmarks, or follows from the columns `type` and
    `fn_name` of the public training sets, where every type but `function` and `functional` asks
    for a program.
    """
    return Question(row.id, row.question, _interface(row.meta))


def _interface(meta: Mapping[str, object]) -> Interface:
    given = meta.get("interface")
    if isinstance(given, Mapping) and "kind" in given:
        return Interface(str(given["kind"]), str(given.get("name", "")))
    if meta.get("type") in ("function", "functional"):
        name = str(meta.get("fn_name") or "")
        return Interface("function", name) if name else Interface("unnamed_function")
    return PROGRAM
