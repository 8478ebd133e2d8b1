"""What an answer needs at least, and the seconds of its parts where each runs alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from experiments.benchmarks.program_times import Figures, timed
from rmas.errors import InputError
from rmas.links import Form, LinkSpec, init_links
from rmas.models import ModelSpec
from rmas.parallel import put_batch
from rmas.plans import programs
from rmas.plans.arguments import AbstractSystem, device_bytes
from rmas.plans.floors import Share, Work
from rmas.shapes import Params
from rmas.system.answers import Answer
from rmas.system.load import System
from rmas.system.topology import Topology
from rmas.system.turn import Prompt, SystemSpec

Parts = dict[str, list[Work]]
"""The works of each part, which follow one another."""


def floor(works: Sequence[Work], figures: Figures) -> float:
    """Seconds of works that follow one another: of each its bytes' or its operations'."""
    return sum(work.seconds(figures) for work in works)


def total(works: Sequence[Work]) -> Work:
    """Their sum."""
    return sum(works, Work(0, 0))


Lengths = Mapping[str, Sequence[int]]
"""Tokens by agent, in each of its turns."""


def prompt_lengths(topology: Topology, prompt: int, message: int, rounds: int) -> dict[str, list]:
    """The whole prompts of every agent's turns in all rounds.

    `prompt` are the tokens without messages; each message that has come takes `message`, and before
    the first feedback none has. In the last round, agents after the output agent have no turn.
    """

    def length(agent: str, k: int) -> int:
        come = [e for e in topology.incoming(agent) if e.when == "round" or k]
        return prompt + message * len(come)

    return {
        agent: [length(agent, k) for k in range(rounds - (agent in topology.after))]
        for agent in topology.agents
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Counter:
    """Counts the work of a system on one batch, from shapes alone. Padding is no work.

    Attributes:
      shares: each agent's share of a device.
      outer: numbers of each outer link, by `src->dst`.
    """

    topology: Topology
    shares: Mapping[str, Share]
    outer: Mapping[str, int]

    @classmethod
    def of(
        cls,
        topology: Topology,
        specs: Mapping[str, ModelSpec],
        form: Form,
        mesh: Mesh | AbstractMesh,
        dtype: Any,
        rows: int,
    ) -> "Counter":
        """A system of these architectures; `dtype` is of weights and caches, `rows` of a batch."""
        widths = tuple((agent, spec.d_model) for agent, spec in specs.items())
        spec = LinkSpec(form, widths, topology.link_edges)
        links = jax.eval_shape(lambda: init_links(spec, jax.random.key(0)))

        def share(agent: str) -> Share:
            link = device_bytes(links["inner"][agent])
            return Share(specs[agent], mesh, rows, dtype, False, link)

        shares = {agent: share(agent) for agent in topology.agents}
        outer = {edge: sum(map(np.size, jax.tree.leaves(x))) for edge, x in links["outer"].items()}
        return cls(topology, shares, outer)

    def latent(
        self, prompts: Lengths, preambles: Mapping[str, int], steps: int, new_tokens: int
    ) -> Parts:
        """Latent recursion, in the parts `preamble`, `prefill`, `latent steps` and `write`.

        Args:
          prompts: whole ones, with their messages.
          preambles: their first positions by agent that are read once; others are read each
            round, and so is the whole prompt of an agent that is absent.
        """
        found: Parts = {"preamble": [], "prefill": [], "latent steps": [], "write": []}
        for agent, lengths in prompts.items():
            share, past = self.shares[agent], preambles.get(agent, 0)
            if past:
                found["preamble"].append(share.prefill(past))
            for n, length in enumerate(lengths, 1):
                found["prefill"].append(share.prefill(length - past, past))
                if agent == self.topology.output and n == len(lengths):
                    found["write"] += self._text(share, length, new_tokens)
                else:
                    step = share.latent_step(length + steps / 2)
                    found["latent steps"] += [step] * (steps - 1)
                    found["latent steps"].append(self._send(agent, steps))
        return found

    def text(self, prompts: Lengths, wrote: Lengths, preambles: Mapping[str, int]) -> Parts:
        """Text exchange, in the parts `preamble`, `read` and `write`.

        `wrote` are the tokens of the texts; `prompts` and `preambles` as of `latent`.
        """
        found: Parts = {"preamble": [], "read": [], "write": []}
        for agent, lengths in prompts.items():
            share, past = self.shares[agent], preambles.get(agent, 0)
            if past:
                found["preamble"].append(share.prefill(past))
            for length, tokens in zip(lengths, wrote[agent], strict=True):
                found["read"].append(share.prefill(length - past, past))
                found["write"] += self._text(share, length, tokens)
        return found

    def _text(self, share: Share, length: int, tokens: int) -> list[Work]:
        """A text after a prompt, whose first token needs the head alone."""
        link = Work(share.link, share.own_rows * share.link / 2)
        head = share.token(length) + share.latent_step(length).times(-1) + link
        return [head] + [share.token(length + tokens / 2)] * (tokens - 1)

    def _send(self, agent: str, steps: int) -> Work:
        """The inner link on the prompt's last state, and a turn's messages."""
        share = self.shares[agent]
        size = sum(self.outer[f"{e.src}->{e.dst}"] for e in self.topology.outgoing(agent))
        flops = 2 * share.own_rows * (share.link / 4 + steps * size)
        return Work(share.link + 4 * size, flops)


def lengths_of(prompts: Mapping[str, Prompt], topology: Topology) -> dict[str, list[int]]:
    """The mean lengths of a batch's whole prompts, numpy arrays `[R, B, T]`, in agents' turns."""

    def lengths(agent: str, prompt: Prompt) -> list[int]:
        length_R = np.asarray(prompt.valid_BT).sum(axis=-1).mean(axis=-1).astype(int)
        return length_R[: len(length_R) - (agent in topology.after)].tolist()

    return {agent: lengths(agent, prompt) for agent, prompt in prompts.items()}


def counted(answers: Sequence[Answer], topology: Topology, rounds: int, name: str) -> Lengths:
    """The mean of a count of text exchange in agents' turns: `prompt_tokens`, `decoded_tokens`."""
    turns = {agent: rounds - (agent in topology.after) for agent in topology.agents}
    means = {agent: np.mean([own.counts[agent][name] for own in answers]) for agent in turns}
    return {agent: [int(means[agent] / n)] * n for agent, n in turns.items()}


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
