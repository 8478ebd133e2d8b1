"""Floors of latent and text exchange for messages of any length, and where latents win."""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping

from experiments.benchmarks.inference_work import Counter, Parts, floor, prompt_lengths
from experiments.benchmarks.program_times import Figures


@dataclasses.dataclass(frozen=True, eq=False)
class ExchangeFloors:
    """The floors of answering a batch, by latent recursion and by text exchange.

    Attributes:
      figures: of the device.
      prompt: tokens of a prompt without messages, of which the first `preamble` are read once.
      rounds, steps, new_tokens: recursion rounds, latent steps of a turn, tokens of the answer.
    """

    counter: Counter
    figures: Figures
    prompt: int
    preamble: int
    rounds: int
    steps: int
    new_tokens: int

    @functools.cached_property
    def latent(self) -> float:
        """Seconds of latent recursion."""
        prompts = self._prompts(self.steps)
        return self._seconds(
            self.counter.latent(prompts, self._preambles, self.steps, self.new_tokens)
        )

    def text(self, message: int) -> float:
        """Seconds of text exchange, in messages of so many tokens."""
        prompts, output = self._prompts(message), self.counter.topology.output
        wrote = {agent: [message] * len(lengths) for agent, lengths in prompts.items()}
        wrote[output][-1] = self.new_tokens
        return self._seconds(self.counter.text(prompts, wrote, self._preambles))

    def ratio(self, message: int) -> float:
        """Text exchange over latent recursion."""
        return self.text(message) / self.latent

    def crossing(self, most: int) -> int | None:
        """The shortest message with which latents win; None where that is longer than `most`."""
        found = 1 + bisect.bisect_right(range(1, most + 1), 1.0, key=self.ratio)
        return found if found <= most else None

    @property
    def _preambles(self) -> dict[str, int]:
        return dict.fromkeys(self.counter.topology.agents, self.preamble)

    def _prompts(self, message: int) -> dict[str, list[int]]:
        return prompt_lengths(self.counter.topology, self.prompt, message, self.rounds)

    def _seconds(self, parts: Parts) -> float:
        return sum(floor(works, self.figures) for works in parts.values())


def interpolated_crossing(ratios: Mapping[int, float]) -> float | None:
    """The length from which on ratios are above 1, on straight lines in logarithms.

    `ratios` are by length, the shortest first. The result is the shortest length if all ratios are
    above 1, and None if the last is not.
    """
    found = None if list(ratios.values())[-1] <= 1 else float(min(ratios))
    for (n, low), (m, high) in itertools.pairwise(ratios.items()):
        if found is not None and low <= 1 < high:
            share = -math.log(low) / (math.log(high) - math.log(low))
            found = n * (m / n) ** share
    return found


def interval_above(lows: Mapping[int, float | None]) -> int | None:
    """The shortest length from which on the lower ends of ratios are above 1, if there is one."""
    found = None
    for n, low in reversed(lows.items()):
        if low is None or low <= 1:
            break
        found = n
    return found
