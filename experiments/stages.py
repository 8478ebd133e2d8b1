"""The three stages of an experiment; each resumes in its own folder and leaves what is done."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.assembly import Assembly
from rmas.errors import InputError
from rmas.evaluation.report import summarise
from rmas.evaluation.runner import Method, Plan, run
from rmas.files import atomic_write_json
from rmas.links import parse_form
from rmas.shapes import Params
from rmas.system.answers import Answer, Limits, Question
from rmas.system.decode import Sampling
from rmas.system.load import System
from rmas.system.run import Runner, Thoughts
from rmas.system.topology import single
from rmas.tasks.grading import TASKS, Task
from rmas.tasks.rows import Row
from rmas.training.initial import align_outer_links
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.objectives import parse_objective
from rmas.training.outer import train_outer
from rmas.training.workdir import open_workdir

LINKS = "links"


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
        links = train_inner(
            agent,
            folder=folder,
            game=a.game,
            params=a.system.agents[agent].params,
            links=a.initial_links(),
            examples=a.examples(s.inner.max_length),
            source=a.split("train"),
            schedule=Schedule(s.inner.optim, s.inner.batch_size, s.seed, s.inner.save_every),
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
        schedule=Schedule(s.outer.optim, s.outer.batch_size, s.seed, s.outer.save_every),
    )
    a.save(folder / LINKS, links)


def questions(a: Assembly) -> tuple[Task, list[Row]]:
    """What evaluation asks, and how it grades. Raises `InputError` if it can do neither."""
    s, e = a.settings, a.settings.evaluate
    if s.system.family not in TASKS:
        raise InputError(
            f"no grading for task family {s.system.family!r}; known: {', '.join(TASKS)}"
        )
    rows = a.split(e.split)
    return TASKS[s.system.family], rows[: e.limit] if e.limit else rows[:]


def evaluate_stage(a: Assembly, links_folder: Path | None = None) -> list[dict]:
    """Runs all methods: `evaluate/{records,timings}.jsonl`, `evaluate/summary.json`.

    Returns the rows of the final table.
    """
    s, e = a.settings, a.settings.evaluate
    task, rows = questions(a)
    links = trained_links(a, links_folder) if "latent" in e.methods else a.untrained_links()
    folder = a.workdir / "evaluate"
    identity = a.identity("latent_steps", "links", "evaluate")
    if a.system.tools:
        identity["tools"] = s.tools.facts()
    identity["trained_links"] = _digest(links) if "latent" in e.methods else "none"
    open_workdir(folder, identity)
    plan = Plan(s.system.family, methods(a, links), rows, e.batch_size, s.seed)
    records, seconds = run(plan, task, folder)
    ceilings = {}
    if task.ceiling:
        ceilings = {r: task.ceiling(rows, r) for r in e.rounds}
    summary = summarise(records, ceilings=ceilings, seconds=seconds)
    atomic_write_json(folder / "summary.json", {"rows": summary})
    return summary


def trained_links(a: Assembly, folder: Path | None = None) -> Params:
    """The links of a folder (`outer/links` of the workdir), checked against the system."""
    folder = folder or a.workdir / "outer" / LINKS
    if not folder.exists():
        raise InputError(
            f"{folder} is missing; run experiments.train_outer with this --workdir first, "
            "name another folder with --links, or leave the method latent out"
        )
    return a.load(folder, a.untrained_links())


def think(
    a: Assembly, links: Params, asked: Sequence[Question], rounds: int
) -> tuple[list[Answer], dict[str, Thoughts]]:
    """Greedy answers and all thoughts, a batch at a time."""
    s, e = a.settings, a.settings.evaluate
    runner = Runner(a.system, limits(a, e.message_tokens, e.own_tokens), Sampling(), s.seed)
    batch, form = min(e.batch_size, len(asked)), parse_form(s.links.form)
    answers, parts = [], []
    for start in range(0, len(asked), batch):
        group = asked[start : start + batch]
        own, thoughts = runner.recorded(links, form, group, rounds, batch)
        answers += own
        parts.append(thoughts)
    joined = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)
    return answers, {agent: joined[agent] for agent in a.system.topology.agents if agent in joined}


def limits(a: Assembly, message_tokens: int, own_tokens: Mapping[str, int]) -> Limits:
    """Lengths of a method: the answer's are the same for all."""
    s, e = a.settings, a.settings.evaluate
    answer = e.own_tokens.get(a.system.topology.output, e.max_new_tokens)
    return Limits(s.latent_steps, answer, message_tokens, own_tokens)


def methods(a: Assembly, links: Params) -> tuple[Method, ...]:
    """The methods of the settings, in the order of the table."""
    s, e = a.settings, a.settings.evaluate
    form = parse_form(s.links.form)
    sampling = Sampling(e.temperature, e.top_p, e.top_k)

    def runner(system: System, message_tokens: int, own: Mapping[str, int]) -> Runner:
        return Runner(system, limits(a, message_tokens, own), sampling, s.seed)

    def latent(links: Params, rounds: int):
        whole = runner(a.system, e.message_tokens, e.own_tokens)
        return lambda questions, batch: whole.latent(links, form, questions, rounds, batch)

    def text(system: System, rounds: int, message_tokens: int, own: Mapping[str, int]):
        whole = runner(system, message_tokens, own)
        return lambda questions, batch: whole.text(questions, rounds, batch)

    # Tools act for real, and may cost: with them no batch is run twice to compile beforehand.
    warm = not a.system.tools
    found: list[Method] = []
    for name in e.methods:
        if name == "single":
            for agent in _different(a.system):
                alone = dataclasses.replace(a.system, topology=single(agent))
                # An agent alone has no rounds to repeat.
                answer = text(alone, 1, e.max_new_tokens, {})
                found.append(Method(f"single:{agent}", 1, answer, warm))
            continue
        for rounds in e.rounds:
            answer = {
                "latent": lambda r=rounds: latent(links, r),
                "untrained": lambda r=rounds: latent(a.untrained_links(), r),
                "text": lambda r=rounds: text(a.system, r, e.message_tokens, e.own_tokens),
                "text_terse": lambda r=rounds: text(a.system, r, e.terse_tokens, {}),
            }[name]()
            found.append(Method(name, rounds, answer, warm))
    return tuple(found)


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
