"""The three stages of an experiment; each resumes in its own folder and leaves what is done."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.assembly import Assembly
from experiments.settings import InnerSettings, OuterSettings, Settings
from rmas.errors import InputError
from rmas.evaluation.report import summarise
from rmas.evaluation.runner import TIMINGS, Method, Plan, by_length, run, seconds_of
from rmas.evaluation.tries import ROWS, Maker
from rmas.files import atomic_write_json
from rmas.parallel import is_first
from rmas.shapes import Params
from rmas.system.answers import Answer, Limits, Question
from rmas.system.decode import Sampling
from rmas.system.load import System
from rmas.system.run import Runner, Thoughts
from rmas.system.topology import single
from rmas.system.writing import Retry
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.graders import Graders
from rmas.tasks.grading import TASKS
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

LINKS = "links"
_OFTEN = 2
"""States that are read so often, on average, are kept."""
SINGLE = "single:"


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
        links = train_inner(
            agent,
            folder=folder,
            game=a.game,
            params=a.system.agents[agent].params,
            links=a.initial_links(),
            examples=examples,
            source=a.split("train"),
            schedule=schedule,
            stored=_stored(a, agent, schedule, examples),
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
                a.game.spec, a.system.params(), links, examples, rows, s.seed, s.links.ridge
            )
        return {part: links[part] for part in s.outer.train}

    fixed = {} if "inner" in s.outer.train else {"inner": inner}
    links = train_outer(
        parse_objective(s.objective),
        folder=folder,
        game=a.game,
        params=a.system.params(),
        fixed=fixed,
        links=start,
        examples=examples,
        source=a.split("train"),
        schedule=_schedule(s, s.outer),
        validation=_validation(a, s.outer),
        facts=_facts(a, "objective", "outer"),
    )
    a.save(folder / LINKS, links)


def _stored(a: Assembly, agent: str, schedule: Schedule, examples: Examples) -> Reader | None:
    """The agent's states, where they are to be computed once and kept."""
    s, own, source = a.settings, a.system.agents[agent], a.split("train")
    dtype = s.inner.features
    if dtype == "auto":
        pairs = visits(schedule, examples, len(source))
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
        dtype=dtype,
        key={**a.identity(), **lengths, "rounds": s.outer.rounds, "print": own.fingerprint},
    )


def _schedule(s: Settings, stage: InnerSettings | OuterSettings) -> Schedule:
    return Schedule(
        stage.optim,
        stage.batch_size,
        s.seed,
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
    rows = a.split(s.evaluate.split)
    return task, rows[: s.num_questions] if 0 < s.num_questions < len(rows) else rows


def grading_task(a: Assembly) -> str:
    """The name of what grades; raises `InputError` if there is nothing that does."""
    s, e = a.settings, a.settings.evaluate
    own = BENCHMARKS[s.data.name].task if s.data.name in BENCHMARKS else s.system.family
    task = e.task or own
    if task not in TASKS:
        raise InputError(
            f"nothing grades task family {task!r}; name what does in evaluate.task "
            f"({', '.join(TASKS)})"
        )
    return task


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
    task = TASKS[name]
    links = trained_links(a, links_folder) if "latent" in e.methods else a.untrained_links()
    folder = a.workdir / "evaluate"
    identity = a.identity("latent_steps", "links", "evaluate", "num_questions")
    if a.system.tools:
        identity["tools"] = s.tools.facts()
    identity["trained_links"] = _digest(links) if "latent" in e.methods else "none"
    open_workdir(folder, identity)
    chat = a.system.agents[a.system.topology.output].chat
    plan = Plan(
        benchmark=s.data.name if s.data.name in BENCHMARKS else s.system.family,
        task=name,
        methods=methods(a, links),
        asked=by_length(rows, lambda row: len(chat.data_ids(row.question))),
        batch=e.batch_size,
        seed=s.seed,
        rollouts=e.rollouts,
    )
    with Graders(seconds=e.grade_seconds, unsafe=s.tools.unsafe) as graders:
        graders.check(name)
        records = run(plan, graders, folder)
    ceilings = {}
    if task.ceiling:
        ceilings = {r: task.ceiling(rows, r) for r in e.rounds}
    seconds = seconds_of(folder / TIMINGS, len(rows))
    summary = summarise(records, ceilings=ceilings, seconds=seconds)
    if is_first():
        atomic_write_json(folder / "summary.json", {"rows": summary})
    return summary


def rows_stage(a: Assembly) -> tuple[int, int, Path]:
    """Makes training rows in `rows/` of the workdir: how many, of how many questions, and where."""
    s, e = a.settings, a.settings.evaluate
    task, rows = questions(a)
    folder = a.workdir / "rows"
    identity = a.identity("evaluate", "num_questions") | {"rounds": s.outer.rounds}
    if a.system.tools:
        identity["tools"] = s.tools.facts()
    open_workdir(folder, identity)
    lengths = limits(a, e.message_tokens, e.own_tokens)
    sampling = Sampling(e.temperature, e.top_p, e.top_k)
    runner = Runner(a.system, lengths, sampling, s.seed, retry=_retry(a))
    with Graders(seconds=e.grade_seconds, unsafe=s.tools.unsafe) as graders:
        graders.check(task)
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


def limits(
    a: Assembly, message_tokens: int, own_tokens: Mapping[str, int], latent_steps: int = 0
) -> Limits:
    """Lengths of a method: the answer's are the same for all."""
    s, e = a.settings, a.settings.evaluate
    answer = e.own_tokens.get(a.system.topology.output, e.max_new_tokens)
    return Limits(latent_steps or s.latent_steps, answer, message_tokens, own_tokens)


def methods(a: Assembly, links: Params) -> tuple[Method, ...]:
    """The methods of the settings, in the order of the table."""
    s, e = a.settings, a.settings.evaluate
    sampling, retry = Sampling(e.temperature, e.top_p, e.top_k), _retry(a)
    # Tools act for real, and may cost: with them no batch is run twice to compile beforehand.
    warm = not a.system.tools

    def runner(system: System, lengths: Limits) -> Runner:
        return Runner(system, lengths, sampling, s.seed, retry=retry)

    def latent(name: str, links: Params, rounds: int, steps: int) -> Method:
        own = runner(a.system, limits(a, e.message_tokens, e.own_tokens, steps))

        def answer(asked: Sequence[Question], batch: int, rollout: int) -> list[Answer]:
            return own.latent(links, a.form, asked, rounds, batch, rollout)

        return Method(name, rounds, answer, warm, steps, own.clock.take)

    def text(name: str, system: System, rounds: int, lengths: Limits) -> Method:
        own = runner(system, lengths)

        def answer(asked: Sequence[Question], batch: int, rollout: int) -> list[Answer]:
            return own.text(asked, rounds, batch, rollout)

        return Method(name, rounds, answer, warm, None, own.clock.take)

    found = []
    for name, rounds, steps in variants(s, _different(a.system)):
        if steps is not None:
            taken = links if name == "latent" else a.untrained_links()
            found.append(latent(name, taken, rounds, steps))
        elif name.startswith(SINGLE):
            alone = single(name.removeprefix(SINGLE))
            prompts = a.system.prompts.alone()
            system = dataclasses.replace(a.system, topology=alone, prompts=prompts)
            found.append(text(name, system, rounds, limits(a, e.max_new_tokens, {})))
        else:
            whole = limits(a, e.message_tokens, e.own_tokens)
            terse = limits(a, e.terse_tokens, {})
            found.append(text(name, a.system, rounds, whole if name == "text" else terse))
    return tuple(found)


def variants(s: Settings, agents: Sequence[str]) -> list[tuple[str, int, int | None]]:
    """Name, rounds and latent length (None: no latents) of each method, in the table's order.

    `agents` are those that are run alone.
    """
    e, found = s.evaluate, []
    for name in e.methods:
        if name == "single":  # which has no rounds to repeat
            found += [(f"{SINGLE}{agent}", 1, None) for agent in agents]
            continue
        latents = (None,) if name.startswith("text") else e.latent_lengths or (s.latent_steps,)
        least, name = (2, "text") if name == "text_recursive" else (1, name)
        found += [(name, r, steps) for r in e.rounds if r >= least for steps in latents]
    return list(dict.fromkeys(found))


def _retry(a: Assembly) -> Retry | None:
    task = TASKS[grading_task(a)]
    if not a.settings.evaluate.retry or not task.opening:
        return None
    return Retry(lambda text: task.extract(text) is None, task.opening, task.retry_tokens)


def _different(system: System) -> list[str]:
    """Agents that are not the same model as an earlier one: alone, those do the same."""
    first: dict[str, str] = {}
    for agent in system.topology.agents:
        first.setdefault(system.agents[agent].fingerprint, agent)
    return list(first.values())


def _digest(links: Params) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(links):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
