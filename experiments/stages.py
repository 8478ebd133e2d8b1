"""The three stages of an experiment; each resumes in its own folder and leaves what is done."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.assembly import Assembly
from experiments.methods import asking_again, grading_task, limits, methods
from experiments.settings import InnerSettings, OuterSettings, Settings
from rmas.errors import InputError
from rmas.evaluation.report import summarise
from rmas.evaluation.runner import TIMINGS, Plan, by_length, run, seconds_of
from rmas.evaluation.tries import ROWS, Maker
from rmas.files import atomic_write_json, read_json
from rmas.parallel import is_first
from rmas.parallel.meters import machine
from rmas.shapes import Params
from rmas.system.answers import Answer, Question
from rmas.system.decode import Sampling
from rmas.system.run import Runner, Thoughts
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.grading import GRADERS
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.features import Reader, extract, visits
from rmas.training.initial import align_outer_links
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.objectives import parse_objective
from rmas.training.outer import train_outer
from rmas.training.stopping import end_at_once
from rmas.training.workdir import open_workdir

_log = logging.getLogger(__name__)

LINKS = "links"
_OFTEN = 2
"""States that are read so often, on average, are kept."""


def inner_stage(a: Assembly, agents: Sequence[str] = ()) -> None:
    """Trains the inner link of every agent (or of those named): `inner/<agent>/links`."""
    s = a.settings
    for agent in agents or a.system.topology.agents:
        if agent not in a.system.topology.agents:
            raise InputError(
                f"agent {agent!r} is unknown; known: {', '.join(a.system.topology.agents)}"
            )
        folder = a.workdir / "inner" / agent
        rounds = {"rounds": s.outer.rounds}  # rows are read at a round drawn from these
        open_workdir(folder, a.identity("links", "inner") | rounds)
        a.check_texts([agent])
        schedule, examples = _schedule(s, s.inner), a.examples(s.inner.max_length)
        done = (folder / LINKS).exists()  # then no states are needed any more
        links = train_inner(
            agent,
            folder=folder,
            context=a.context,
            params=a.system.agents[agent].params,
            links=a.initial_links(),
            examples=examples,
            source=a.split("train"),
            schedule=schedule,
            seed=s.seed,
            stored=None if done else _stored(a, agent, schedule, examples),
            validation=_validation(a, s.inner),
            facts=_facts(a, "inner"),
        )
        a.save(folder / LINKS, {"inner": {agent: links}})


def outer_stage(a: Assembly) -> None:
    """Trains the whole system from the inner links in the same workdir: `outer/links`."""
    s = a.settings
    template = a.initial_links()
    inner = {}
    for agent in a.system.topology.agents:
        folder = a.workdir / "inner" / agent / LINKS
        if not folder.exists():
            raise InputError(
                f"{folder} is missing; run experiments.train_inner with this --workdir first"
            )
        inner |= a.load(folder, {"inner": {agent: template["inner"][agent]}})["inner"]
    folder = a.workdir / "outer"
    open_workdir(folder, a.identity("latent_steps", "objective", "links", "inner", "outer"))
    a.check_texts(a.system.topology.agents)
    examples = a.examples(s.outer.max_length)

    def start() -> Params:
        links = {"inner": inner, "outer": a.initial_links()["outer"]}
        if s.links.init == "aligned":
            rows = a.split("train")[: s.links.aligned_rows]
            links = align_outer_links(
                a.context.spec, a.system.params(), links, examples, rows, s.seed, s.links.ridge
            )
        return {part: links[part] for part in s.outer.train}

    fixed = {} if "inner" in s.outer.train else {"inner": inner}
    links = train_outer(
        parse_objective(s.objective),
        folder=folder,
        context=a.context,
        params=a.system.params(),
        fixed=fixed,
        links=start,
        examples=examples,
        source=a.split("train"),
        schedule=_schedule(s, s.outer),
        seed=s.seed,
        validation=_validation(a, s.outer),
        facts=_facts(a, "objective", "outer"),
    )
    a.save(folder / LINKS, links)


def _stored(a: Assembly, agent: str, schedule: Schedule, examples: Examples) -> Reader | None:
    """The agent's states, where they are to be computed once and kept."""
    s, own, source = a.settings, a.system.agents[agent], a.split("train")
    dtype = s.inner.features
    if dtype == "auto":
        pairs = visits(schedule, examples, s.seed, len(source))
        often = schedule.optim.steps * schedule.batch_size >= _OFTEN * len(pairs)
        weights = jax.tree.leaves(own.params["embed"])[0].dtype.name
        dtype = ("bfloat16" if weights == "bfloat16" else "float32") if often else "none"
    if dtype == "none":
        return None
    lengths = {"message_tokens": s.inner.message_tokens, "max_length": s.inner.max_length}
    return extract(
        agent,
        folder=a.workdir / "features",
        model=own.model,
        params=own.params,
        examples=examples,
        source=source,
        schedule=schedule,
        seed=s.seed,
        dtype=dtype,
        key={**a.identity(), **lengths, "rounds": s.outer.rounds, "print": own.fingerprint},
    )


def _schedule(s: Settings, stage: InnerSettings | OuterSettings) -> Schedule:
    return Schedule(
        stage.optim,
        stage.batch_size,
        stage.save_every,
        stage.save_minutes,
        stage.accumulate,
        stage.validation_rows,
        stage.take,
        s.profile_steps,
    )


def _validation(a: Assembly, stage: InnerSettings | OuterSettings) -> Sequence[Row]:
    return a.split("validation") if stage.validation_rows else ()


def _facts(a: Assembly, *parts: str) -> dict[str, Any]:
    return {**a.facts(), "config": a.identity("latent_steps", "links", *parts)}


def questions(a: Assembly) -> tuple[str, Sequence[Row]]:
    """The name of what grades, and what is asked. Raises `InputError` if there is neither."""
    s, task = a.settings, grading_task(a)
    split = s.evaluate.split
    rows = a.split(split)
    if s.data.name in BENCHMARKS:
        public = BENCHMARKS[s.data.name].source.rows.get(split, 0)
        if len(rows) < public:
            _log.warning(
                "the files of %s hold %d of the %d public questions: figures are of those alone",
                s.data.name,
                len(rows),
                public,
            )
    return task, rows[: s.num_questions] if 0 < s.num_questions < len(rows) else rows


def evaluate_stage(a: Assembly, links_folder: Path | None = None) -> list[dict]:
    """Runs all methods: `evaluate/{records,timings}.jsonl`, `evaluate/summary.json`.

    Returns the rows of the final table. Each process of a run answers its share of the questions
    on its own devices.
    """
    a = a.on_own_devices()
    if jax.process_count() > 1:
        end_at_once()
    s, e = a.settings, a.settings.evaluate
    name, rows = questions(a)
    task, graders = GRADERS[name], GraderPool(seconds=e.grade_seconds, unsafe=s.tools.unsafe)
    graders.check(name)
    links = trained_links(a, links_folder) if "latent" in e.methods else a.untrained_links()
    folder = a.workdir / "evaluate"
    identity = a.identity("latent_steps", "links", "evaluate", "num_questions")
    if a.system.tools:
        identity["tools"] = s.tools.facts()
    identity["trained_links"] = _digest(links) if "latent" in e.methods else "none"
    open_workdir(folder, identity)
    if e.split == "train" and _trained_on(a) == json.loads(json.dumps(identity["data"])):
        _log.warning("evaluate.split is train: links were trained on these very rows")
    chat = a.system.agents[a.system.topology.output].chat
    plan = Plan(
        benchmark=s.data.name if s.data.name in BENCHMARKS else s.system.task_family,
        grader=name,
        methods=methods(a, links),
        asked=by_length(rows, lambda row: len(chat.data_ids(row.question))),
        batch=e.batch_size,
        seed=s.seed,
        rollouts=e.rollouts,
        machine=machine(a.system.mesh),
    )
    with graders:
        records = run(plan, graders, folder)
    ceilings = {}
    if task.ceiling:
        told = {r: task.ceiling(rows, r) for r in e.rounds}
        ceilings = {r: ceiling for r, ceiling in told.items() if ceiling is not None}
    seconds, whole = seconds_of(folder / TIMINGS, len(rows)), a.split(e.split)
    summary = summarise(records, ceilings=ceilings, seconds=seconds)
    data = {"version": whole.version, "origin": whole.origin, "split": e.split, "asked": len(rows)}
    if is_first():
        summed = {"data": data, "records": len(records), "rows": summary}
        atomic_write_json(folder / "summary.json", summed)
    return summary


def _trained_on(a: Assembly) -> Any:
    """The data of the outer training in the workdir; None where there was none."""
    path = a.workdir / "outer" / "config.json"
    return read_json(path).get("data") if path.is_file() else None


def rows_stage(a: Assembly) -> tuple[int, int, Path]:
    """Makes training rows in `rows/` of the workdir: how many, of how many questions, and where."""
    s, e = a.settings, a.settings.evaluate
    task, rows = questions(a)
    graders = GraderPool(seconds=e.grade_seconds, unsafe=s.tools.unsafe)
    graders.check(task)
    folder = a.workdir / "rows"
    identity = a.identity("evaluate", "num_questions") | {"rounds": s.outer.rounds}
    if a.system.tools:
        identity["tools"] = s.tools.facts()
    open_workdir(folder, identity)
    lengths = limits(a, e.message_tokens, e.own_tokens)
    sampling = Sampling(e.temperature, e.top_p, e.top_k)
    runner = Runner(a.system, lengths, sampling, s.seed, retry=asking_again(a))
    with graders:
        maker = Maker(
            a.system.topology,
            lambda asked, batch, n: runner.text(asked, s.outer.rounds, batch, n),
            lambda texts, group: graders.grade(task, texts, group),
            e.rollouts,
            e.batch_size,
        )
        return maker.make(rows, folder), len(rows), folder / ROWS


def trained_links(a: Assembly, folder: Path | None = None) -> Params:
    """The links of a folder (`outer/links` of the workdir), checked against the system.

    A released system's own are taken where no others are named or lie in the workdir.
    """
    own = a.workdir / "outer" / LINKS
    if a.settings.system.released and folder is None and not own.exists():
        return a.released.links
    folder = folder or own
    if not folder.exists():
        raise InputError(
            f"{folder} is missing; run experiments.train_outer with this --workdir first, name "
            "another folder with --links, or do without the method latent"
        )
    return a.load(folder, a.untrained_links())


def think(
    a: Assembly, links: Params, asked: Sequence[Question], rounds: int
) -> tuple[list[Answer], dict[str, Thoughts]]:
    """Greedy answers and all thoughts, a batch at a time."""
    s, e = a.settings, a.settings.evaluate
    runner = Runner(a.system, limits(a, e.message_tokens, e.own_tokens), Sampling(), s.seed)
    batch, form = min(e.batch_size, len(asked)), a.form
    answers, parts = [], []
    for start in range(0, len(asked), batch):
        group = asked[start : start + batch]
        own, thoughts = runner.recorded(links, form, group, rounds, batch)
        answers += own
        parts.append(thoughts)
    joined = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)
    return answers, {agent: joined[agent] for agent in a.system.topology.agents if agent in joined}


def _digest(links: Params) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(links):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
