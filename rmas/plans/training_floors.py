"""The least work of a training step: how often it passes over prompts, latent steps and texts.

A pass is forward, forward again for a checkpointed gradient, or backward; weights are frozen, so
that each multiplies with them once. Links, logits and what `remat=layers` computes again come on
top.
"""

import functools
import operator
from collections.abc import Mapping, Sequence

from rmas.plans.floors import Share, Work
from rmas.system.batch import bucket
from rmas.system.topology import Topology
from rmas.system.turn import steps_in_blocks
from rmas.training.objectives import (
    OBJECTIVES,
    Lengths,
    Objective,
    TrainingContext,
    WeightedObjectives,
)

Turn = tuple[str, int]
"""An agent, and the round, from 0."""


def inner_step(share: Share, positions: int, accumulate: int = 1) -> Work:
    """A step of inner training on so many positions: the agent reads them without gradient.

    `share` has the rows of one part of the batch, of which there are `accumulate`.
    """
    return share.prefill(bucket(positions)).times(accumulate)


def outer_step(
    context: TrainingContext,
    objective: WeightedObjectives,
    shares: Mapping[str, Share],
    *,
    trained: Sequence[str],
    rounds: int,
    lengths: Lengths,
    accumulate: int = 1,
) -> Work:
    """A step of outer training.

    Args:
      shares: by agent, with the rows of one part of the batch, of which there are `accumulate`.
      trained: the parts of the links that are trained; `outer` is always one.
    """
    total = Work(0, 0)
    for name, _ in objective:
        kind = OBJECTIVES[name]
        message = context.latent_steps if kind.latent else lengths.text
        begun = bucket(lengths.preamble)
        rest = lengths.prompt - lengths.preamble
        if begun:  # constants: read once, whatever the rounds
            total += functools.reduce(operator.add, (s.prefill(begun) for s in shares.values()))
        for agent, k in _turns(context.topology, kind, rounds):
            positions = rest + message * len(context.topology.incoming(agent))
            positions += 0 if kind.latent else lengths.text
            # What a gradient reaches: the prompt through its messages, the states after it also
            # through the agent's own link.
            prompt = kind.across and bool(_read(context.topology, agent, k))
            states = prompt or "inner" in trained
            own = shares[agent].prefill(bucket(positions), begun)
            total += own.times(1 + kind.across + prompt)
            if kind.latent:
                step = shares[agent].latent_step(begun + bucket(positions) + message / 2)
                passes = (message - 1) * (1 + kind.across + states)
                total += step.times(passes + states * steps_in_blocks(message))
        out = context.topology.output
        if kind.across:
            positions = rest + message * len(context.topology.incoming(out))
            text = shares[out].prefill(bucket(positions + lengths.text), begun)
            total += text.times(1 + bool(_read(context.topology, out, rounds - 1)))
        # Read by turns, with checkpoints but for the last turn.
        readers = [(turn, 1) for turn in _all_turns(context.topology, rounds)]
        readers += [((out, rounds - 1), 0)]
        for (agent, k), again in readers if kind.reads else ():
            slots = len(context.topology.incoming(agent))
            lengths_of = {"own": message, "taught": lengths.text}
            if _read(context.topology, agent, k):
                for how in kind.reads:
                    positions = rest + lengths_of[how] * slots + lengths.text
                    text = shares[agent].prefill(bucket(positions), begun)
                    total += text.times(1 + again + (how == "own"))
    return total.times(accumulate)


def _turns(topology: Topology, kind: Objective, rounds: int) -> list[Turn]:
    """The turns that the loss depends on, without the output agent's last."""
    if not kind.across:
        turns = _all_turns(topology, rounds)
        if not kind.reads:
            return turns
        readers = [*turns, (topology.output, rounds - 1)]
        read = [turn for reader in readers for turn in _read(topology, *reader)]
        return [turn for turn in turns if turn in read]
    found: list[Turn] = []
    waiting = [(topology.output, rounds - 1)]
    while waiting:
        new = [turn for turn in _read(topology, *waiting.pop()) if turn not in found]
        found += new
        waiting += new
    return found


def _all_turns(topology: Topology, rounds: int) -> list[Turn]:
    """All turns that run, without the output agent's last."""
    last = {agent: rounds - (agent not in topology.before) for agent in topology.agents}
    return [(agent, k) for agent, n in last.items() for k in range(n)]


def _read(topology: Topology, agent: str, k: int) -> list[Turn]:
    """The turns whose messages an agent reads in round `k`."""
    edges = topology.incoming(agent)
    found = [(e.src, k - (e.when == "feedback")) for e in edges]
    return [turn for turn in found if turn[1] >= 0]
