"""Rows to the arrays that objectives read, on the host; the same row always gives the same."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from flax import struct

from rmas.links import edge_name
from rmas.parallel import all_reduce_max
from rmas.shapes import Array
from rmas.system.batch import Line, bucket, line, stack, with_text
from rmas.system.encode import fill
from rmas.system.rendered import Renderer
from rmas.system.topology import Edge
from rmas.system.turn import Prompt
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row
from rmas.training.alignment import align


@struct.dataclass
class Text:
    """A prompt that ends in a role's text, and which positions are that text, `[..., B, T]`."""

    prompt: Prompt
    text_BT: Array


@struct.dataclass
class EdgeTargets:
    """A teacher text in the receiver's tokens: ids `[..., B, N]`, weights `[..., B, M, N]`."""

    ids_BN: Array
    weights_BMN: Array


@struct.dataclass
class Targets:
    """What a rollout should say: its next tokens `[..., B, M]`, and the same for each edge."""

    ids_BM: Array
    valid_BM: Array
    edges: dict[str, EdgeTargets]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Makes training arrays for one system.

    Attributes:
      rounds: recursion rounds of outer training.
      latent_steps: M of true rollouts.
      max_latent_tokens: how many states of a text are handed on in teacher forcing.
      max_length: longer rows are cut from the left.
      message_tokens: incoming texts of inner training are cut to so many tokens; 0 keeps them.
      shift: 0 takes states at a text's own positions (the release), 1 those a rollout sees.
      longest: the longest row of all processes that share a batch, from that of this one.
    """

    renderer: Renderer
    rounds: int
    latent_steps: int
    max_latent_tokens: int
    max_length: int
    message_tokens: int
    shift: int
    longest: Callable[[int], int] = all_reduce_max

    def text_ids(self, agent: str, row: Row, k: int) -> tuple[int, ...]:
        """Teacher text of an agent in round k, closing tokens included."""
        system = self.renderer.system
        return system.agents[agent].chat.text_ids(row.text(system.topology.role(agent), k))

    def draw(self, rng: np.random.Generator, rows: int) -> list[int]:
        """The round of each row of a batch of inner training, from 0."""
        return [int(rng.integers(self.rounds)) for _ in range(rows)]

    def inner(self, agent: str, rows: Sequence[Row], rounds: Sequence[int]) -> Text:
        """Prompts with teacher texts in their slots, each row at its round."""
        lines = self.inner_lines(agent, rows, rounds)
        prompt = self._stack([lines])
        return _first(Text(prompt, _text_mask([lines], prompt)))

    def inner_lines(self, agent: str, rows: Sequence[Row], rounds: Sequence[int]) -> list[Line]:
        """The same before they are arrays, one row each."""
        topology = self.renderer.system.topology
        lines = []
        for row, k in zip(rows, rounds, strict=True):
            sources = {e.src: self._source_text(e, row, k) for e in topology.incoming(agent)}
            encoded = self.renderer.asked(agent, question_of(row), k)
            chat = self.renderer.system.agents[agent].chat
            cut = slice(self.message_tokens or None)
            ids = fill(encoded, lambda src, s=sources, c=chat, n=cut: c.data_ids(s[src])[n])
            whole = line([ids], (), 0, text=self.text_ids(agent, row, k))
            lines.append(self._fitted(agent, row, whole))
        return lines

    def teacher_forced(self, rows: Sequence[Row]) -> dict[str, Text]:
        """Every agent's prompt and text of every round; messages are states of those texts."""
        topology, take = self.renderer.system.topology, self.max_latent_tokens
        out = {}
        for agent in topology.agents:
            lines = []
            for k in range(self.rounds):
                lines.append([])
                for row in rows:
                    # No more states than the sender's own row has text positions.
                    most = min(take, self.max_length)
                    lengths = {
                        e.src: min(len(self.text_ids(e.src, row, _round_of(e, k))), most)
                        for e in topology.incoming(agent)
                        if e.when == "round" or k > 0
                    }
                    encoded = self.renderer.asked(agent, question_of(row), k)
                    text = self.text_ids(agent, row, k)
                    whole = line(encoded, self.renderer.sources(agent), take, lengths, text)
                    lines[-1].append(self._fitted(agent, row, whole))
            prompt = with_text(lines, take, shift=self.shift, length=self._bucket(lines))
            out[agent] = Text(prompt, _text_mask(lines, prompt))
        return out

    def rollout(self, rows: Sequence[Row]) -> tuple[dict[str, Prompt], Text]:
        """Latent prompts of all rounds, and the output agent's last with its answer's text."""
        prompts = self.latent(rows)
        topology = self.renderer.system.topology
        k = self.rounds - 1
        lines = []
        for row in rows:
            question = question_of(row)
            prompt = self.renderer.latent_line(topology.output, question, k, self.latent_steps)
            text = self.text_ids(topology.output, row, k)
            whole = Line(prompt.ids + text, prompt.slots + (-1,) * len(text), len(text))
            lines.append(self._fitted(topology.output, row, whole))
        last = self._stack([lines])
        return prompts, _first(Text(last, _text_mask([lines], last)))

    def latent(self, rows: Sequence[Row]) -> dict[str, Prompt]:
        """Latent prompts of all rounds."""
        questions = [question_of(row) for row in rows]
        return self.renderer.latent_prompts(
            questions,
            rounds=self.rounds,
            steps=self.latent_steps,
            batch=len(rows),
            answer_tokens=0,
            stacked=self._stack,
        )

    def targets(self, rows: Sequence[Row]) -> dict[str, Targets]:
        """Per agent and round, the first M tokens of its text, its own and its readers'."""
        topology, m = self.renderer.system.topology, self.latent_steps
        agents = self.renderer.system.agents
        out = {}
        for agent in topology.agents:
            ids = np.zeros((self.rounds, len(rows), m), np.int32)
            valid = np.zeros(ids.shape, bool)
            found = {e: [] for e in topology.outgoing(agent)}
            for k in range(self.rounds):
                for b, row in enumerate(rows):
                    own = self.text_ids(agent, row, k)[:m]
                    ids[k, b, : len(own)], valid[k, b, : len(own)] = own, True
                    text = row.text(topology.role(agent), k)
                    for e, pairs in found.items():
                        pairs.append(align(agents[agent].chat, agents[e.dst].chat, text, m))
            edges = {
                edge_name(e.src, e.dst): self._edge_targets(pairs, ids.shape)
                for e, pairs in found.items()
            }
            out[agent] = Targets(ids, valid, edges)
        return out

    def _fitted(self, agent: str, row: Row, whole: Line) -> Line:
        """A line cut to `max_length`; `InputError` if even that is more than the agent reads."""
        cut = whole.cut_left(self.max_length)
        self.renderer.check_context(agent, row.question, len(cut))
        return cut

    def _bucket(self, rounds: Sequence[Sequence[Line]]) -> int:
        return bucket(self.longest(max(len(row) for rows in rounds for row in rows)))

    def _stack(self, rounds: Sequence[Sequence[Line]]) -> Prompt:
        return stack(rounds, self._bucket(rounds))

    def _edge_targets(
        self, pairs: list[tuple[tuple[int, ...], np.ndarray]], shape: tuple[int, ...]
    ) -> EdgeTargets:
        N = bucket(self.longest(max(len(ids) for ids, _ in pairs)))
        ids_XN = np.zeros((len(pairs), N), np.int32)
        weights_XMN = np.zeros((len(pairs), shape[-1], N), np.float32)
        for x, (ids, weights) in enumerate(pairs):
            ids_XN[x, : len(ids)] = ids
            weights_XMN[x, :, : len(ids)] = weights
        lead = shape[:2]
        return EdgeTargets(ids_XN.reshape(*lead, N), weights_XMN.reshape(*lead, shape[-1], N))

    def _source_text(self, edge: Edge, row: Row, k: int) -> str:
        role = self.renderer.system.topology.role(edge.src)
        return row.text(role, max(_round_of(edge, k), 0))


def _round_of(edge: Edge, k: int) -> int:
    """The round in which a message that is read in round k was made."""
    return k - (edge.when == "feedback")


def _text_mask(lines: Sequence[Sequence[Line]], prompt: Prompt) -> np.ndarray:
    T = prompt.ids_BT.shape[-1]
    counts = np.array([[row.text_length for row in rows] for rows in lines])
    return np.arange(T) >= T - counts[..., None]


def _first(text: Text) -> Text:
    prompt = Prompt(
        *(x[0] for x in (text.prompt.ids_BT, text.prompt.valid_BT, text.prompt.slot_BT))
    )
    return Text(prompt, text.text_BT[0])
