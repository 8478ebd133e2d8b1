"""Runs of released systems, recorded under the names that the release's numbers have."""

from collections.abc import Sequence

import numpy as np

from rmas.system.answers import Answer, Limits, Question
from rmas.system.outline import LoadedSystem
from rmas.system.run import Runner
from rmas.system.sampling import Sampling


def record(
    loaded: LoadedSystem, questions: Sequence[str], rounds: int, steps: int, tokens: int
) -> tuple[dict[str, np.ndarray], list[Answer]]:
    """Arrays as `experiments.dump_latents` names them, and the answers, greedily."""
    runner = Runner(loaded.system, Limits(steps, tokens, tokens), Sampling(), seed=0)
    asked = [Question(q, q) for q in questions]
    answers, thoughts = runner.recorded(loaded.links, loaded.form, asked, rounds, len(asked))
    arrays = {}
    for agent, own in thoughts.items():
        for r, hidden_BMD in enumerate(own.hidden_RBMD, 1):
            arrays[f"round{r}/{agent}/hidden"] = hidden_BMD
        for edge, message_RBMD in own.messages.items():
            for r, message_BMD in enumerate(message_RBMD, 1):
                arrays[f"round{r}/{edge}/message"] = message_BMD
    return arrays, answers
