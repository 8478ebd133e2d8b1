"""The evaluation stage, and making training rows: from settings to files in one folder."""

from collections.abc import Sequence
from pathlib import Path

from rmas.evaluation.json_lines import name_field
from rmas.evaluation.layout import FOLDER
from rmas.evaluation.plan import Method, Plan, by_length
from rmas.evaluation.reporting import write_summary
from rmas.evaluation.results import ResultRow
from rmas.evaluation.row_maker import ROWS, RowMaker
from rmas.evaluation.runner import run
from rmas.evaluation.summary import summarise_workdir
from rmas.experiment.data import Data
from rmas.experiment.methods import grader_of, retry_of
from rmas.experiment.settings import Settings
from rmas.parallel import is_first
from rmas.parallel.meters import machine
from rmas.system.load import System
from rmas.system.run import Runner
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row
from rmas.tasks.sources import RowSource
from rmas.tasks.tables import SUFFIXES


def grader_pool(settings: Settings, data: Data) -> GraderPool:
    """What scores answers, as the settings ask.

    Raises `InputError` if nothing does, this machine cannot run it, or a question that is asked
    lacks what it needs.
    """
    name = grader_of(settings)
    pool = GraderPool(seconds=settings.evaluate.grade_seconds, unsafe=settings.tools.unsafe)
    pool.check(name)
    if not _is_own(data.name, name):  # the reader of a benchmark's columns sees to its own
        GRADERS[name].check(data.asked, data.name)
    return pool


def _is_own(data: str, grader: str) -> bool:
    """Whether the data is a benchmark and its own grader scores it."""
    return data in BENCHMARKS and BENCHMARKS[data].grader.name == grader


def evaluate(
    settings: Settings,
    system: System,
    methods: Sequence[Method],
    *,
    rows: RowSource,
    asked: Sequence[Row],
    pool: GraderPool,
    workdir: Path,
) -> list[ResultRow]:
    """Runs what is missing of the methods over `asked`, the part of `rows` that counts.

    Returns the rows of the table, which are in `summary.json`, too.
    """
    evaluate = settings.evaluate
    chat = system.agents[system.topology.output].chat
    plan = Plan(
        benchmark=_short(settings.questions_name),
        grader=grader_of(settings),
        methods=tuple(methods),
        asked=by_length(asked, lambda row: len(chat.data_ids(row.question))),
        batch=evaluate.batch_size,
        seed=settings.seed,
        rollouts=evaluate.rollouts,
        group_batches=evaluate.group_batches,
        profile_groups=evaluate.profile_groups,
        machine=machine(system.mesh),
        accelerator=system.mesh.devices.flat[0].platform != "cpu",
        by_release=_is_own(settings.questions_name, grader_of(settings)),
    )
    with pool:
        run(plan, pool, workdir / FOLDER)
    if not is_first():
        return summarise_workdir(workdir)
    data = {"version": rows.version, "origin": rows.origin, "split": rows.split}
    return write_summary(workdir, data | {"asked": len(asked)})


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
        maker = RowMaker(
            topology=system.topology,
            answer=lambda questions, batch, n: runner.text(questions, rounds, batch, n),
            grade=lambda texts, group: pool.grade(grader, texts, group),
            attempts=settings.evaluate.rollouts,
            batch=settings.evaluate.batch_size,
            group_batches=settings.evaluate.group_batches,
        )
        return maker.make(asked, folder), len(asked), folder / ROWS


def _short(name: str) -> str:
    """The name of a benchmark or generated task; of a file without its folder and ending.

    Raises `InputError` for a name that no report could print.
    """
    short = Path(name).stem if name.endswith(SUFFIXES) else name
    return name_field({"evaluate.data": short}, "evaluate.data", "settings")
