"""The ways to an answer that `benchmarks.inference` compares, and the check that they agree."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.inference_work import Counter
from experiments.benchmarks.random_agents import Sizes, load_system, make_questions
from rmas.errors import InputError
from rmas.links import Form, init_links
from rmas.parallel import put_whole, replicated
from rmas.shapes import Params
from rmas.system.answers import Answer, Limits
from rmas.system.batch import stack
from rmas.system.clock import Clock
from rmas.system.preamble_cache import PreambleCache
from rmas.system.rendered import Renderer
from rmas.system.run import Runner
from rmas.system.sampling import Sampling
from rmas.system.topology import Topology
from rmas.system.turn import Prompt

FORM: Form = "ln_res"
"""Of the links: the release's."""
TOLERANCE = 2e-5
"""The largest relative difference of a latent vector in float32."""
LATENT, TEXT = "latent, rmas", "text, rmas"
CACHED, UNCACHED = "latent, PyTorch with cache", "latent, PyTorch as published"
INSTALL = "PyTorch is not installed, so its columns are left out; pip install -e '.[torch]'"


def has_pytorch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


@dataclasses.dataclass(frozen=True)
class Turns:
    """How long a system thinks and writes: rounds, latent steps of a turn, tokens of texts."""

    rounds: int
    steps: int
    new_tokens: int
    message_tokens: int

    @property
    def limits(self) -> Limits:
        """These as the engine's."""
        return Limits(
            latent_steps=self.steps,
            max_new_tokens=self.new_tokens,
            message_tokens=self.message_tokens,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Paths:
    """A system and the ways to its answers, each with tokens and prompts of its own.

    A way's argument is the number of the batch of questions (`make_questions`).

    Attributes:
      latent_runner, text_runner: rmas.
      pytorch: the same agents and links in PyTorch (`PytorchSystem`), or None.
    """

    sizes: Sizes
    turns: Turns
    links: Params
    latent_runner: Runner
    text_runner: Runner
    pytorch: Any

    @classmethod
    def load(
        cls,
        topology: Topology,
        folder: Path,
        sizes: Sizes,
        turns: Turns,
        dtype: str,
        pytorch: bool,
    ) -> "Paths":
        """Loads the agents of `folder` in type `dtype`; links are random."""
        system = load_system(topology, folder, sizes, dtype)
        key = jax.random.fold_in(jax.random.key(sizes.seed), 1000)
        made = init_links(system.spec(FORM).links, key)
        links = put_whole(made, replicated(system.mesh))
        other = None
        if pytorch:
            from experiments.benchmarks.pytorch_path import PytorchSystem

            other = PytorchSystem.load(topology, folder, links, dtype)
        runners = [Runner(system, turns.limits, Sampling(), sizes.seed) for _ in range(2)]
        return cls(sizes, turns, links, *runners, other)

    def with_messages(self, tokens: int) -> "Paths":
        """The same system, where texts that are exchanged have so many tokens."""
        turns = dataclasses.replace(self.turns, message_tokens=tokens)
        runner = dataclasses.replace(
            self.text_runner, limits=turns.limits, clock=Clock(), preambles=PreambleCache()
        )
        return dataclasses.replace(self, turns=turns, text_runner=runner)

    def counter(self, dtype: Any) -> Counter:
        """What counts the work of a batch, with weights and caches of a type."""
        system = self.latent_runner.system
        specs = {name: agent.model for name, agent in system.agents.items()}
        return Counter.of(system.topology, specs, FORM, system.mesh, dtype, self.sizes.rows)

    def latent(self, number: int) -> list[Answer]:
        """Latent recursion by rmas."""
        questions = make_questions(self.sizes, number)
        return self.latent_runner.latent(
            self.links, FORM, questions, self.turns.rounds, self.sizes.rows
        )

    def text(self, number: int) -> list[Answer]:
        """Text exchange by rmas."""
        questions = make_questions(self.sizes, number)
        return self.text_runner.text(questions, self.turns.rounds, self.sizes.rows)

    def check_lengths(self, answers: Sequence[Answer]) -> None:
        """Raises `InputError` where texts that were exchanged lack tokens of their lengths."""
        topology, turns = self.text_runner.system.topology, self.turns
        for agent in topology.agents:
            wanted = turns.message_tokens * (turns.rounds - (agent in topology.after))
            if agent == topology.output:
                wanted += turns.new_tokens - turns.message_tokens
            for answer in answers:
                if (wrote := answer.counts[agent]["decoded_tokens"]) != wanted:
                    raise InputError(
                        f"{agent} wrote {wrote} tokens, and not {wanted}; try another --seed"
                    )

    def torch(self, number: int, cached: bool = True) -> tuple[list[list[int]], dict[str, Any]]:
        """Latent recursion in PyTorch, with prompts from a renderer of its own."""
        pytorch = dataclasses.replace(self.pytorch, cached=cached)
        return pytorch.answer(self.prompts(number), self.turns.steps, self.turns.new_tokens)

    def prompts(self, number: int) -> dict[str, Prompt]:
        """A batch's whole prompts as numpy arrays `[R, B, T]`."""
        lines = self._renderer.latent_lines(
            make_questions(self.sizes, number),
            rounds=self.turns.rounds,
            steps=self.turns.steps,
            batch=self.sizes.rows,
            answer_tokens=self.turns.new_tokens,
        )
        return {agent: stack(rounds) for agent, rounds in lines.items()}

    def preambles(self, number: int) -> dict[str, int]:
        """Positions with which an agent's prompts of a question begin in all rounds: the mean."""
        questions = make_questions(self.sizes, number)
        return {
            agent: int(np.mean([self._renderer.preamble(agent, q) for q in questions]))
            for agent in self.latent_runner.system.topology.agents
        }

    @functools.cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.latent_runner.system)

    def ways(self, release: bool) -> dict[str, Callable[[int], Any]]:
        """All ways by name; the published one only if `release` asks for it."""
        found: dict[str, Callable[[int], Any]] = {LATENT: self.latent, TEXT: self.text}
        if self.pytorch is not None:
            found[CACHED] = self.torch
            if release:
                found[UNCACHED] = functools.partial(self.torch, cached=False)
        return found

    def check(self, release: bool) -> float:
        """Compares all latents and texts of a batch, in float32.

        Returns the largest relative difference. Raises `InputError` where one is larger than
        `TOLERANCE`, or a text differs.
        """
        questions = make_questions(self.sizes, 0)
        answers, thoughts = self.latent_runner.recorded(
            self.links, FORM, questions, self.turns.rounds, self.sizes.rows
        )
        largest = 0.0
        for name, way in list(self.ways(release).items())[2:]:
            ids, others = way(0)
            largest = max(largest, compare(thoughts, others, name))
            for row, (answer, own) in enumerate(zip(answers, ids, strict=True)):
                if list(answer.ids) != own:
                    at = [a == b for a, b in zip(answer.ids, own, strict=True)].index(False)
                    raise InputError(f"{LATENT} and {name}: row {row} differs from token {at} on")
        return largest


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> float:
    """The largest relative difference of two systems' thoughts; `name` is the other way's.

    Raises `InputError`, naming the first place, where one is larger than `TOLERANCE`.
    """
    largest = 0.0
    for agent, thoughts in theirs.items():
        pairs = {f"states of {agent}": (ours[agent].hidden_RBMD, thoughts.hidden_RBMD)}
        for edge, message in thoughts.messages.items():
            pairs[f"messages {edge}"] = (ours[agent].messages[edge], message)
        for what, (a_RBMD, b_RBMD) in pairs.items():
            difference_RBM = relative_difference(a_RBMD, b_RBMD)
            if not (found := float(difference_RBM.max())) <= TOLERANCE:
                round_, row, step = np.argwhere(~(difference_RBM <= TOLERANCE))[0] + 1
                raise InputError(
                    f"{LATENT} and {name} do not agree: {what} differ by {found:.1e} (relative; at "
                    f"most {TOLERANCE:g}), first in round {round_}, row {row}, step {step}"
                )
            largest = max(largest, found)
    return largest


def relative_difference(a: Any, b: Any) -> np.ndarray:
    """The norm of the difference over that of `b`, of vectors `[..., D]`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)
