"""The evaluation stage, and making training rows: from settings to files in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmas.evaluation.report import summarise
from rmas.evaluation.runner import TIMINGS, Method, Plan, by_length, run, seconds_of
from rmas.evaluation.tries import ROWS, Maker
from rmas.experiment.methods import grader_of, retry_of
from rmas.experiment.settings import Settings
from rmas.files import atomic_write_json
from rmas.parallel import is_first
from rmas.parallel.meters import machine
from rmas.system.load import System
from rmas.system.run import Runner
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row
from rmas.tasks.sources import RowSource


def grader_pool(settings: Settings) -> GraderPool:
    """What scores answers, as the settings ask.

    Raises `InputError` if nothing does, or this machine cannot run it.
    """
    pool = GraderPool(seconds=settings.evaluate.grade_seconds, unsafe=settings.tools.unsafe)
    pool.check(grader_of(settings))
    return pool


def evaluate(
    settings: Settings,
    system: System,
    methods: Sequence[Method],
    rows: RowSource,
    asked: Sequence[Row],
    pool: GraderPool,
    folder: Path,
) -> list[dict[str, Any]]:
    """Runs what is missing of the methods over `asked`, the part of `rows` that counts.

    Returns the rows of the table, which are in `summary.json`, too.
    """
    grader, evaluate = grader_of(settings), settings.evaluate
    chat = system.agents[system.topology.output].chat
    plan = Plan(
        benchmark=_short(settings.questions_name),
        grader=grader,
        methods=tuple(methods),
        asked=by_length(asked, lambda row: len(chat.data_ids(row.question))),
        batch=evaluate.batch_size,
        seed=settings.seed,
        rollouts=evaluate.rollouts,
        machine=machine(system.mesh),
    )
    with pool:
        records = run(plan, pool, folder)
    ceiling = GRADERS[grader].ceiling
    found = {r: ceiling(asked, r) for r in evaluate.rounds} if ceiling else {}
    ceilings = {r: value for r, value in found.items() if value is not None}
    seconds = seconds_of(folder / TIMINGS, len(asked))
    summary = summarise(records, ceilings=ceilings, seconds=seconds)
    if is_first():
        data = {"version": rows.version, "origin": rows.origin, "split": rows.split}
        whole = {"data": data | {"asked": len(asked)}, "records": len(records), "rows": summary}
        atomic_write_json(folder / "summary.json", whole)
    return summary


def make_rows(
    settings: Settings,
    system: System,
    asked: Sequence[Row],
    pool: GraderPool,
    folder: Path,
) -> tuple[int, int, Path]:
    """Training rows from the texts of agents whose answers were right."""
    grader, rounds = grader_of(settings), settings.outer.rounds
    limits = settings.limits.answered_by(system.topology.output)
    retry = retry_of(settings)
    runner = Runner(system, limits, settings.sampling, settings.seed, retry=retry)
    with pool:
        maker = Maker(
            system.topology,
            lambda questions, batch, n: runner.text(questions, rounds, batch, n),
            lambda texts, group: pool.grade(grader, texts, group),
            settings.evaluate.rollouts,
            settings.evaluate.batch_size,
        )
        return maker.make(asked, folder), len(asked), folder / ROWS


def _short(name: str) -> str:
    """The name of a benchmark or generated task; of a file without its folder and ending."""
    return Path(name).stem if name.endswith((".json", ".jsonl", ".parquet")) else name
