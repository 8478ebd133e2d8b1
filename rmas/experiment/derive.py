"""What settings leave open, and what follows for it from the agents, the data and the devices."""

import dataclasses
from typing import Any

import jax

from rmas.errors import InputError
from rmas.experiment.data import Data
from rmas.experiment.settings import Settings
from rmas.parallel import Rows
from rmas.system.load import System
from rmas.system.outline import Outline
from rmas.system.rendered import Renderer
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.generated import PUZZLES
from rmas.tasks.grading import GRADERS
from rmas.tasks.questions import question_of
from rmas.weights.placement import weight_dtype

LONGEST_ANSWER = 2000
"""Tokens of an answer, as the release allows on most benchmarks."""
_GRADER_OF = {"gpqa": "choice", "reasoning": "qa"}
LONGEST_ROW = {"inner": 2048, "outer": 4096}
"""Tokens of a training row, as in the release."""


@dataclasses.dataclass(frozen=True)
class Derived:
    """One value that was left open: the field, its value, and why."""

    field: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value}: {self.why}"


def names(settings: Settings) -> tuple[Settings, list[Derived]]:
    """Settles which prompts, task family, split and grader are meant; needs no agent."""
    system, evaluate, found = settings.system, settings.evaluate, []
    asked = settings.questions_name
    task = next((name for name in (asked, settings.data.name) if name in PUZZLES), "")
    if not system.task_family:
        if asked in BENCHMARKS:
            family, why = BENCHMARKS[asked].task_family, f"that of {asked}"
        elif task:
            family, why = task, "the generated task's own"
        else:
            family, why = "math", "the default"
        system = dataclasses.replace(system, task_family=family)
        found.append(Derived("system.task_family", family, why))
    if not system.prompts:
        own = task if task and not system.style else ""
        why = "the generated task's own" if own else "the packaged prompt set"
        system = dataclasses.replace(system, prompts=own or "default")
        found.append(Derived("system.prompts", system.prompts, why))
    if asked and not evaluate.split and asked in {*PUZZLES, *BENCHMARKS}:
        split = BENCHMARKS[asked].split if asked in BENCHMARKS else "test"
        evaluate = dataclasses.replace(evaluate, split=split)
        found.append(Derived("evaluate.split", split, f"that of {asked}"))
    if not evaluate.grader:
        family = system.task_family
        grader = (
            BENCHMARKS[asked].grader.name if asked in BENCHMARKS else _GRADER_OF.get(family, family)
        )
        why = f"that of {asked}" if asked in BENCHMARKS else f"that of task family {family}"
        if grader in GRADERS:  # else `evaluate` asks for one, training needs none
            evaluate = dataclasses.replace(evaluate, grader=grader)
            found.append(Derived("evaluate.grader", grader, why))
    return dataclasses.replace(settings, system=system, evaluate=evaluate), found


def dtype(settings: Settings) -> Derived:
    """The type of the frozen weights on the devices of this process; starts JAX's backend."""
    asked = settings.system.dtype
    if asked != "auto":
        return Derived("system.dtype", asked, "as set")
    platform = jax.default_backend()
    return Derived("system.dtype", weight_dtype(None).name, f"devices of platform {platform}")


def rows(settings: Settings, stage: str) -> Rows:
    """The rows that the devices get at a time in a stage: `inner`, `outer` or `evaluate`."""
    if stage == "evaluate":
        return Rows(settings.evaluate.batch_size)
    schedule = settings.inner if stage == "inner" else settings.outer
    return Rows(schedule.batch_size // schedule.accumulate, exact=True)


def lengths(
    settings: Settings, outline: Outline, longest: int | None = None
) -> tuple[Settings, list[Derived]]:
    """Settles lengths that are left open, from the agents' contexts and the questions.

    Args:
      longest: positions of the longest prompt of the agent that answers, where it is known.

    Raises:
      InputError: its context leaves no position for an answer.
    """
    limits, found = settings.limits, []
    output, methods = outline.topology.output, settings.evaluate.methods
    if not limits.max_new_tokens:
        # An agent alone answers as long as the system does.
        answering = outline.topology.agents if "single" in methods else (output,)
        agent = min(answering, key=outline.context)
        context = outline.context(agent)
        tokens, why = min(
            (LONGEST_ANSWER, "the release's"),
            (context // 2, f"half of the {context} positions of {agent}"),
        )
        if longest is not None:
            left = outline.context(output) - longest
            part = left
            if any(name.startswith("text") for name in methods):
                part = left // 2  # the rest is for the messages of text exchange
            if part < 1:
                raise InputError(
                    f"{output} has {outline.context(output)} positions, and its longest prompt "
                    f"takes {longest}: nothing is left for an answer; shorten the questions, or "
                    "lower limits.latent_steps"
                )
            if part < tokens:
                half = "half of " if part < left else ""
                tokens, why = part, f"{half}what the longest prompt leaves of {output}'s context"
        limits = dataclasses.replace(limits, max_new_tokens=tokens)
        found.append(Derived("limits.max_new_tokens", tokens, why))
    if not limits.message_tokens:
        least = min(outline.context(agent) for agent in outline.topology.agents)
        tokens, why = min(
            (limits.max_new_tokens, "as limits.max_new_tokens"),
            (max(least // 4, 1), f"a quarter of the smallest context, {least} positions"),
        )
        limits = dataclasses.replace(limits, message_tokens=tokens)
        found.append(Derived("limits.message_tokens", tokens, why))
    evaluate = settings.evaluate
    if not evaluate.terse_tokens:
        evaluate = dataclasses.replace(evaluate, terse_tokens=limits.latent_steps)
        if "text_terse" in evaluate.methods:
            why = "as limits.latent_steps"
            found.append(Derived("evaluate.terse_tokens", limits.latent_steps, why))
    return dataclasses.replace(settings, limits=limits, evaluate=evaluate), found


def longest_prompt(settings: Settings, system: System, data: Data) -> int | None:
    """Positions of the longest prompt of the agent that answers; None where no length needs it.

    Args:
      system: its prompts are rendered; weights are not needed.
    """
    if settings.limits.max_new_tokens:
        return None
    evaluate, output = settings.evaluate, system.topology.output
    steps = max((settings.limits.latent_steps, *evaluate.latent_lengths))
    phases = range(min(max(evaluate.rounds), 2))  # later rounds all have one prompt
    renderer = Renderer(system)
    return max(
        len(renderer.latent_line(output, question_of(row), k, steps))
        for row in data.asked
        for k in phases
    )


def row_length(settings: Settings, outline: Outline, stage: str, agent: str = "") -> Derived:
    """The longest training row of `inner` training of an agent, or of `outer` training."""
    given = settings.inner.max_length if stage == "inner" else settings.outer.max_length
    field = f"{stage}.max_length"
    if given:
        return Derived(field, given, "as set")
    agents = [agent] if agent else list(outline.topology.agents)
    smallest = min(agents, key=outline.context)
    value, why = min(
        (LONGEST_ROW[stage], "the release's"),
        (outline.context(smallest), f"the context of {smallest}"),
    )
    return Derived(field, value, why)
