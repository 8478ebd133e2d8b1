"""Ways to answer, as the settings name them: latent recursion, text exchange, agents alone."""

import dataclasses
from collections.abc import Sequence

from rmas.errors import InputError
from rmas.evaluation.plan import Method
from rmas.experiment.settings import Settings
from rmas.links import Form
from rmas.shapes import Params
from rmas.system.answers import Answer, Limits, Question
from rmas.system.load import System
from rmas.system.memory import check_memory
from rmas.system.outline import Outline
from rmas.system.preamble_cache import PreambleCache
from rmas.system.run import Runner
from rmas.system.topology import single
from rmas.system.writing import Retry
from rmas.tasks.grading import GRADERS

SINGLE = "single:"
MEMORY = "latent_memory"
WITH_LINKS = frozenset({"latent", MEMORY})
"""Methods that read trained links."""


def grader_of(settings: Settings) -> str:
    """The name of what scores answers; raises `InputError` if nothing does."""
    if not settings.evaluate.grader:
        raise InputError(
            f"nothing scores answers of task family {settings.system.task_family!r}; name what "
            f"does in evaluate.grader ({', '.join(GRADERS)})"
        )
    return settings.evaluate.grader


def check_methods(settings: Settings, outline: Outline) -> None:
    """Raises `InputError` for methods that these agents cannot be asked by."""
    if MEMORY in settings.evaluate.methods:
        check_memory(outline.topology, outline.owners)


def variants(settings: Settings, alone: Sequence[str]) -> list[tuple[str, int, int | None]]:
    """Name, rounds and latent length (None: no latents) of each method, in the table's order.

    `alone` are the agents that the method `single` runs.
    """
    evaluate = settings.evaluate
    found: list[tuple[str, int, int | None]] = []
    lengths = evaluate.latent_lengths or (settings.limits.latent_steps,)
    for name in evaluate.methods:
        if name == "single":  # an agent alone has no rounds to repeat
            found += [(f"{SINGLE}{agent}", 1, None) for agent in alone]
            continue
        latents: Sequence[int | None] = (None,) if name.startswith("text") else lengths
        least, shown = (2, "text") if name == "text_recursive" else (1, str(name))
        rounds = [r for r in evaluate.rounds if r >= least]
        found += [(shown, r, steps) for r in rounds for steps in latents]
    return list(dict.fromkeys(found))


def methods(
    settings: Settings, system: System, form: Form, links: Params | None, untrained: Params | None
) -> tuple[Method, ...]:
    """The methods of the settings, in the order of the table.

    Args:
      links: trained links, for `latent` and `latent_memory`.
      untrained: random links, for the control `untrained`.
    """
    limits, retry = settings.limits.answered_by(system.topology.output), retry_of(settings)
    # Tools act for real, and may cost: with them no batch is run twice to compile beforehand.
    warm = not system.tools
    preambles = PreambleCache(shared=True)

    def runner(system: System, limits: Limits) -> Runner:
        return Runner(
            system, limits, settings.sampling, settings.seed, retry=retry, preambles=preambles
        )

    def latent(name: str, links: Params, rounds: int, steps: int) -> Method:
        own = runner(system, dataclasses.replace(limits, latent_steps=steps))

        think = own.latent_memory if name == MEMORY else own.latent

        def answer(asked: Sequence[Question], batch: int, rollout: int) -> list[Answer]:
            return think(links, form, asked, rounds, batch, rollout)

        return Method(name, rounds, answer, warm, steps, own.clock)

    def text(name: str, system: System, rounds: int, limits: Limits) -> Method:
        own = runner(system, limits)

        def answer(asked: Sequence[Question], batch: int, rollout: int) -> list[Answer]:
            return own.text(asked, rounds, batch, rollout)

        return Method(name, rounds, answer, warm, None, own.clock)

    terse = dataclasses.replace(
        limits, message_tokens=settings.evaluate.terse_tokens, own_tokens={}
    )
    found = []
    for name, rounds, steps in variants(settings, distinct_agents(system)):
        if steps is not None:
            given = untrained if name == "untrained" else links
            if given is None:
                raise AssertionError(f"method {name} without links")
            found.append(latent(name, given, rounds, steps))
        elif name.startswith(SINGLE):
            alone = single(name.removeprefix(SINGLE))
            prompts = system.prompts.alone(system.task_family)
            one = dataclasses.replace(system, topology=alone, prompts=prompts)
            found.append(text(name, one, rounds, limits))
        else:
            found.append(text(name, system, rounds, limits if name == "text" else terse))
    return tuple(found)


def retry_of(settings: Settings) -> Retry | None:
    """What asks once more for an answer that is missing; None where nothing does."""
    grader = GRADERS[grader_of(settings)]
    if not settings.evaluate.retry or not grader.opening:
        return None
    released = bool(settings.system.style)

    def lacks(text: str) -> bool:
        return grader.is_unanswered(text, released)

    return Retry(lacks, grader.opening, grader.retry_tokens)


def distinct_agents(system: System) -> list[str]:
    """Agents that are not the same model as an earlier one: alone, those do the same."""
    first: dict[str, str] = {}
    for agent in system.topology.agents:
        first.setdefault(system.agents[agent].fingerprint, agent)
    return list(first.values())
