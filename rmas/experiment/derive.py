"""What settings leave open, and what follows for it from the agents, the data and the devices."""

import dataclasses
from typing import Any, Literal

import jax

from rmas.errors import InputError
from rmas.experiment.settings import Settings
from rmas.system.outline import Outline
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.generated import PUZZLES
from rmas.tasks.grading import GRADERS

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
    if system.dtype == "auto":
        platform = jax.default_backend()
        dtype: Literal["float32", "bfloat16"] = "float32" if platform == "cpu" else "bfloat16"
        system = dataclasses.replace(system, dtype=dtype)
        found.append(Derived("system.dtype", dtype, f"the devices are of platform {platform}"))
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
    output = outline.topology.output
    context = outline.context(output)
    if not limits.max_new_tokens:
        tokens, why = min(
            (LONGEST_ANSWER, "the release's"),
            (context // 2, f"half of the {context} positions of {output}"),
        )
        if longest is not None and context - longest < tokens:
            tokens = context - longest
            why = f"{output} has {context} positions, and its longest prompt takes {longest}"
        if tokens < 1:
            raise InputError(
                f"{why}: nothing is left for an answer; shorten the questions, or lower "
                "limits.latent_steps"
            )
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
