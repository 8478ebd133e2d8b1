"""Ways to answer, as the settings name them: latent recursion, text exchange, agents alone."""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.assembly import Assembly
from experiments.settings import Settings
from rmas.errors import InputError
from rmas.evaluation.runner import Method
from rmas.shapes import Params
from rmas.system.answers import Answer, Limits, Question
from rmas.system.decode import Sampling
from rmas.system.load import System
from rmas.system.run import Runner
from rmas.system.topology import single
from rmas.system.writing import Retry
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.grading import GRADERS

SINGLE = "single:"


def grading_task(a: Assembly) -> str:
    """The name of what grades; raises `InputError` if there is nothing that does."""
    s, e = a.settings, a.settings.evaluate
    own = BENCHMARKS[s.data.name].grader if s.data.name in BENCHMARKS else s.system.task_family
    task = e.task or own
    if task not in GRADERS:
        raise InputError(
            f"nothing grades task family {task!r}; name what does in evaluate.task "
            f"({', '.join(GRADERS)})"
        )
    return task


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
    sampling, retry = Sampling(e.temperature, e.top_p, e.top_k), asking_again(a)
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


def asking_again(a: Assembly) -> Retry | None:
    """What asks once more for an answer that is missing; None where nothing does."""
    task = GRADERS[grading_task(a)]
    if not a.settings.evaluate.retry or not task.opening:
        return None
    lacks = task.lacks or (lambda text: task.extract(text) is None)
    return Retry(lacks, task.opening, task.retry_tokens)


def _different(system: System) -> list[str]:
    """Agents that are not the same model as an earlier one: alone, those do the same."""
    first: dict[str, str] = {}
    for agent in system.topology.agents:
        first.setdefault(system.agents[agent].fingerprint, agent)
    return list(first.values())
