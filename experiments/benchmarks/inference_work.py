"""What an answer needs at least, and the seconds of its parts where each runs alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.program_times import Figures, timed
from rmas.errors import InputError
from rmas.parallel import put_batch
from rmas.plans import programs
from rmas.plans.arguments import AbstractSystem
from rmas.plans.floors import Share, Work
from rmas.shapes import Params
from rmas.system.answers import Answer
from rmas.system.load import System
from rmas.system.turn import Prompt, SystemSpec

Parts = dict[str, list[Work]]
"""The works of each part, which follow one another."""


def floor(works: Sequence[Work], figures: Figures) -> float:
    """Seconds of works that follow one another: of each its bytes' or its operations'."""
    return sum(work.seconds(figures) for work in works)


def total(works: Sequence[Work]) -> Work:
    """Their sum."""
    return sum(works, Work(0, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Counter:
    """Counts the work of a system on one batch.

    Attributes:
      dtype: of weights and caches.
      rows: of the batch.
    """

    system: System
    links: Params
    dtype: Any
    rows: int

    def latent(
        self,
        prompts: Mapping[str, Prompt],
        preambles: Mapping[str, int],
        steps: int,
        new_tokens: int,
    ) -> Parts:
        """Latent recursion, in the parts `preamble`, `prefill`, `latent steps` and `write`.

        Padding is no work. A row has the batch's mean length.

        Args:
          prompts: whole ones as numpy arrays `[R, B, T]` by agent.
          preambles: their first positions by agent that are read once; others are read each
            round, and so is the whole prompt of an agent that is absent.
        """
        found: Parts = {"preamble": [], "prefill": [], "latent steps": [], "write": []}
        topology = self.system.topology
        for agent, prompt in prompts.items():
            share, past = self.share(agent), preambles.get(agent, 0)
            if past:
                found["preamble"].append(share.prefill(past))
            length_R = np.asarray(prompt.valid_BT).sum(axis=-1).mean(axis=-1).astype(int)
            for k in range(len(length_R) - (agent in topology.after)):
                length = int(length_R[k])
                found["prefill"].append(share.prefill(length - past, past))
                if agent == topology.output and k == len(length_R) - 1:
                    found["write"] += self._text(share, length, new_tokens)
                else:
                    step = share.latent_step(length + steps / 2)
                    found["latent steps"] += [step] * (steps - 1)
                    found["latent steps"].append(self._send(agent, steps))
        return found

    def text(self, answers: Sequence[Answer], preambles: Mapping[str, int], rounds: int) -> Parts:
        """Text exchange that gave these answers, in the parts `preamble`, `read` and `write`.

        `preambles` as of `latent`.
        """
        found: Parts = {"preamble": [], "read": [], "write": []}
        topology = self.system.topology
        for agent in topology.agents:
            turns, share = rounds - (agent in topology.after), self.share(agent)
            read, wrote = (
                sum(own.counts[agent][name] for own in answers) / len(answers) / turns
                for name in ("prompt_tokens", "decoded_tokens")
            )
            past = preambles.get(agent, 0)
            if past:
                found["preamble"].append(share.prefill(past))
            for _ in range(turns):
                found["read"].append(share.prefill(int(read) - past, past))
                found["write"] += self._text(share, int(read), int(wrote))
        return found

    def share(self, agent: str) -> Share:
        """An agent's share of the device."""
        link = sum(x.nbytes for x in jax.tree.leaves(self.links["inner"][agent]))
        model = self.system.agents[agent].model
        return Share(model, self.system.mesh, self.rows, self.dtype, False, link)

    def _text(self, share: Share, length: int, tokens: int) -> list[Work]:
        """A text after a prompt, whose first token needs the head alone."""
        link = Work(share.link, share.own_rows * share.link / 2)
        head = share.token(length) + share.latent_step(length).times(-1) + link
        return [head] + [share.token(length + tokens / 2)] * (tokens - 1)

    def _send(self, agent: str, steps: int) -> Work:
        """The inner link on the prompt's last state, and a turn's messages."""
        inner = self.share(agent).link
        size = sum(
            x.size
            for e in self.system.topology.outgoing(agent)
            for x in jax.tree.leaves(self.links["outer"][f"{e.src}->{e.dst}"])
        )
        flops = 2 * self.rows * (inner / 4 + steps * size)
        return Work(inner + 4 * size, flops)


def parts_alone(
    system: System,
    spec: SystemSpec,
    links: Params,
    prompts: Mapping[str, Prompt],
    steps: int,
    repeats: int,
) -> dict[str, tuple[float, ...]]:
    """Seconds of all prefills, and of all latent steps, from programs of one turn each.

    A turn's latent steps are the time of the turn without that of its prefill. Every prompt is read
    whole, with the padding that it has in the arrays `prompts`.
    """
    topology, mesh = system.topology, system.mesh
    abstract = AbstractSystem(topology, spec, system.params(), mesh)
    rounds, rows, _ = prompts[topology.output].ids_BT.shape
    sums = {"prefill": np.zeros(repeats), "latent steps": np.zeros(repeats)}
    for agent, prompt in prompts.items():
        sizes = {"rows": rows, "positions": prompt.ids_BT.shape[-1]}
        one = put_batch(mesh, jax.tree.map(lambda x: x[-1], prompt), axis=0)
        params = system.agents[agent].params
        prefill = programs.prefill(abstract, agent, **sizes)
        turn = programs.rollout(abstract, agent, steps=steps, **sizes)
        what = [(prefill.name, prefill, (params, one)), (turn.name, turn, (params, links, one))]
        found = timed(what, repeats)
        if found is None:
            raise InputError(f"the programs of {agent} do not fit the device")
        first, whole = (np.array(own.seconds) for own in found)
        thought = rounds - (agent == topology.output) - (agent in topology.after)
        sums["prefill"] += first * (thought + (agent == topology.output))
        sums["latent steps"] += (whole - first) * thought
    return {name: tuple(seconds.tolist()) for name, seconds in sums.items()}
