"""Questions in, answers out: latent recursion, text exchange, single agents.

Every method runs on the same models, prompts and decode loop; they differ in the messages that
agents send.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rmas.links import Form
from rmas.parallel import put_batch, use, whole_batch
from rmas.shapes import Array, Params
from rmas.system import decode
from rmas.system.answers import Answer, Limits, Question, row_names
from rmas.system.batch import split, stack
from rmas.system.batching import Prefilled
from rmas.system.clock import Clock
from rmas.system.decode import DecodeState, row_keys
from rmas.system.load import System
from rmas.system.memory import think_in_memory
from rmas.system.preamble import Pasts
from rmas.system.preamble_cache import PreambleCache
from rmas.system.recursion import recurse
from rmas.system.rendered import Renderer
from rmas.system.sampling import Sampling
from rmas.system.text import Begun, exchange
from rmas.system.topology import Topology
from rmas.system.turn import Prompt, SystemSpec, inputs, rollout, send, zero_messages
from rmas.system.writing import Retry, Written, write

# Traced once for all turns of an agent, and for programs of other numbers of rounds, too.
_rollout = jax.jit(rollout, static_argnames=("spec", "agent", "steps"))


@struct.dataclass
class Thoughts:
    """An agent's latent thoughts and messages in all its turns, from round 1 on.

    `hidden_RBMD` are its states after the final norm, in its own dtype; `messages` maps each of
    its outgoing edges (`src->dst`) to `[R, B, M, d_dst]`, float32.
    """

    hidden_RBMD: Array
    messages: dict[str, Array]


class Listener(Protocol):
    """Its methods are called while questions are answered."""

    def thought(self, agent: str, k: int) -> None:
        """An agent has finished its latent turn in round `k` (from 0)."""

    def wrote(self, agent: str, k: int, row: int, text: str) -> None:
        """An agent has written a new piece of text in round `k`; tool results are included.

        `row` is the question's index.
        """


@functools.partial(jax.jit, static_argnames=("topology", "spec", "steps", "record", "on_turn"))
def think(
    *,
    topology: Topology,
    spec: SystemSpec,
    steps: int,
    record: bool,
    on_turn: Callable[[str, int], None] | None,
    params: dict[str, Params],
    links: Params,
    prompts: dict[str, Prompt],
    pasts: Pasts,
) -> tuple[decode.DecodeState, dict[str, Thoughts]]:
    """All latent turns and the prefill of the output agent's last one, as one program.

    Args:
      steps: M, the latent steps of a turn.
      record: whether to return the thoughts of every agent with a turn; else the dict is empty.
      on_turn: called with the agent and the round (from 0) of every finished turn.
      prompts: per agent, arrays `[R, B, T]`: what follows the preambles.
      pasts: the caches after the preambles.
    """
    rounds = prompts[topology.output].ids_BT.shape[0]
    numbers = dict.fromkeys(topology.agents, jnp.arange(rounds)) if on_turn else None

    def turn(
        agent: str, prompt: Prompt, incoming: tuple[Array, ...], k: Array | None
    ) -> tuple[dict[str, Array], Any]:
        x_BTD = inputs(spec.model(agent), params[agent], prompt, incoming)
        h_BMD, z_BMD = _rollout(
            spec,
            params[agent],
            links,
            agent,
            x_BTD,
            prompt.valid_BT,
            steps,
            past=pasts.get(agent, ()),
        )
        messages = send(topology, spec, links, agent, z_BMD)
        if on_turn:
            # The state is passed only so that the call waits for the turn.
            jax.debug.callback(lambda k, _: on_turn(agent, int(k)), k, z_BMD[0, -1, 0])
        return messages, (Thoughts(h_BMD, messages) if record else ())

    out = topology.output
    zeros = zero_messages(spec, links, batch=prompts[out].ids_BT.shape[1], length=steps)
    incoming, thoughts = recurse(topology, prompts, turn, zeros, numbers)
    last = jax.tree.map(lambda x: x[-1], prompts[out])
    with jax.named_scope(out):
        x_BTD = inputs(spec.model(out), params[out], last, incoming)
        past = pasts.get(out, ())
        state = decode.start(spec.model(out), params[out], x_BTD, last.valid_BT, past)
    return state, (thoughts if record else {})


@dataclasses.dataclass(frozen=True, eq=False)
class Runner:
    """Answers questions with a system; rows of a batch are filled again as their texts end.

    Attributes:
      system: agents, topology, prompts and tools.
      limits: lengths of latent turns and texts.
      sampling: how tokens are drawn.
      seed: of the random keys.
      listener: called while questions are answered.
      retry: how answers (not messages) that lack one are continued.
      clock: adds up the seconds of each phase.
      preambles: what was read of earlier prompts that begin alike; runners may share it.
    """

    system: System
    limits: Limits
    sampling: Sampling
    seed: int
    listener: Listener | None = None
    retry: Retry | None = None
    clock: Clock = dataclasses.field(default_factory=Clock)
    preambles: PreambleCache = dataclasses.field(default_factory=PreambleCache)

    def __post_init__(self) -> None:
        if not self.limits.max_new_tokens:
            raise self.limits.wrong("max_new_tokens", "a runner needs the length of an answer")

    @functools.cached_property
    def renderer(self) -> Renderer:
        """Makes the system's prompts, and keeps them."""
        return Renderer(self.system)

    def latent(
        self,
        links: Params,
        form: Form,
        questions: Sequence[Question],
        rounds: int,
        batch: int,
        rollout_index: int = 0,
    ) -> list[Answer]:
        """Latent recursion: only the output agent writes, in the last round.

        Args:
          links: the links tree, of form `form`.
          questions: any number of them.
          batch: rows of the compiled programs; the mesh may round it up.
          rollout_index: answers of other indices are drawn with other keys.

        Raises `InputError` for a question that is too long for an agent's context.
        """
        answers, _ = self.recorded(
            links, form, questions, rounds, batch, rollout_index=rollout_index, record=False
        )
        return answers

    def recorded(
        self,
        links: Params,
        form: Form,
        questions: Sequence[Question],
        rounds: int,
        batch: int,
        rollout_index: int = 0,
        record: bool = True,
    ) -> tuple[list[Answer], dict[str, Thoughts]]:
        """`latent` with every agent's thoughts: numpy arrays with one row per question.

        Without `record` there are no thoughts.
        """
        s = self.system
        rows = whole_batch(s.mesh, batch)
        answers = [Answer.blank(s.topology) for _ in questions]
        recorded: list[dict[str, Thoughts]] = []

        def begun(start: int) -> Begun:
            of = slice(start, start + rows)
            # Those of the batch before are there by now, and devices need the space.
            recorded[-1:] = jax.tree.map(np.asarray, recorded[-1:])
            state, thoughts = self._think(
                links, form, questions[of], answers[of], rounds, rows, record
            )
            recorded.append(jax.tree.map(lambda x: x[:, : len(questions[of])], thoughts))
            return state, questions[of]

        self.clock.begin()
        self.preambles.asking(questions)
        self._finish(rollout_index, rounds, map(begun, range(0, len(questions), rows)), answers)
        if not recorded:
            return answers, {}
        return answers, jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *recorded)

    def latent_memory(
        self,
        links: Params,
        form: Form,
        questions: Sequence[Question],
        rounds: int,
        batch: int,
        rollout_index: int = 0,
    ) -> list[Answer]:
        """`latent` with keys and values as messages (`rmas.system.memory`).

        For agents that share one base model; of the links only inner ones are read.
        """
        rows = whole_batch(self.system.mesh, batch)
        answers = [Answer.blank(self.system.topology) for _ in questions]

        def begun(start: int) -> Begun:
            of = slice(start, start + rows)
            asked = questions[of]
            return self._remember(links, form, asked, answers[of], rounds, rows), asked

        self.clock.begin()
        self._finish(rollout_index, rounds, map(begun, range(0, len(questions), rows)), answers)
        return answers

    def _finish(
        self, rollout_index: int, rounds: int, batches: Iterable[Begun], answers: Sequence[Answer]
    ) -> None:
        """Writes the output agent's last turn of all batches into `answers`."""
        out = self.system.topology.output
        wrote = self._write(rollout_index, out, rounds - 1, batches, turn="answer", final=True)
        for answer, own in zip(answers, wrote, strict=True):
            answer.add(out, rounds - 1, own)
            answer.finish(own)

    def _remember(
        self,
        links: Params,
        form: Form,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        rounds: int,
        batch: int,
    ) -> DecodeState:
        """Gives all turns of a batch but the last to the devices; counts them in `answers`."""
        s, steps = self.system, self.limits.latent_steps
        out = s.topology.output
        with self.clock.phase("render"):
            lines = self.renderer.memory_lines(
                questions,
                rounds=rounds,
                steps=steps,
                batch=batch,
                answer_tokens=self.limits.tokens(out, final=True),
            )
            prompts = put_batch(s.mesh, {a: stack(own) for a, own in lines.items()}, axis=1)
        with use(s.mesh):
            state = think_in_memory(
                topology=s.topology,
                spec=s.spec(form),
                steps=steps,
                params=s.params(),
                links=links,
                prompts=prompts,
            )
        self.clock.queue("think", state.logits_BV)
        for b, answer in enumerate(answers):
            for agent in s.topology.agents:
                turns = rounds - (agent in s.topology.after)
                for k in range(turns):
                    answer.read(agent, len(lines[agent][k][b]), reused=0)
                answer.think(agent, steps, turns - (agent == out), run=steps)
        return state

    def _think(
        self,
        links: Params,
        form: Form,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        rounds: int,
        batch: int,
        record: bool,
    ) -> tuple[DecodeState, dict[str, Thoughts]]:
        """Gives all turns of a batch but the last to the devices; counts them in `answers`."""
        s, steps = self.system, self.limits.latent_steps
        out = s.topology.output
        with self.clock.phase("render"):
            lines = self.renderer.latent_lines(
                questions,
                rounds=rounds,
                steps=steps,
                batch=batch,
                answer_tokens=self.limits.tokens(out, final=True),
            )
            preambles, rest = split(lines)
            prompts = {agent: stack(rounds) for agent, rounds in rest.items()}
            on_devices = put_batch(s.mesh, prompts, axis=1)
        pasts = {
            agent: self.preambles.read(self.renderer, agent, rows, self.clock, again=False)
            for agent, rows in preambles.items()
        }
        with use(s.mesh):
            state, thoughts = think(
                topology=s.topology,
                spec=s.spec(form),
                steps=steps,
                record=record,
                on_turn=self.listener.thought if self.listener and _can_call_back() else None,
                params=s.params(),
                links=links,
                prompts=on_devices,
                pasts=pasts,
            )
        self.clock.queue("think", state.logits_BV)
        for b, answer in enumerate(answers):
            for agent in s.topology.agents:
                turns = rounds - (agent in s.topology.after)
                for k in range(turns):
                    reused = len(preambles[agent][b]) if k else 0
                    answer.read(agent, len(lines[agent][k][b]), reused)
                answer.think(agent, steps, turns - (agent == out))
        return state, thoughts

    def text(
        self, questions: Sequence[Question], rounds: int, batch: int, rollout_index: int = 0
    ) -> list[Answer]:
        """Text exchange: decoded text in the slots (`rmas.system.text`); arguments as `latent`."""
        self.clock.begin()
        self.preambles.asking(questions)
        return exchange(
            self.renderer,
            self.preambles,
            self.limits,
            functools.partial(self._write, rollout_index),
            questions,
            rounds=rounds,
            batch=batch,
            clock=self.clock,
        )

    def _write(
        self,
        rollout_index: int,
        agent: str,
        k: int,
        batches: Iterable[Begun],
        *,
        turn: str,
        final: bool,
    ) -> list[Written]:
        """See `rmas.system.text.WriteTurn`."""
        limit = self.limits.tokens(agent, final)

        def prefilled(state: DecodeState, questions: Sequence[Question]) -> Prefilled:
            rows = len(state.count_B)
            keys_B = row_keys(self.seed, row_names(questions, rows, rollout_index, turn))
            return Prefilled(state, keys_B, np.full(rows, limit, np.int32), len(questions))

        with use(self.system.mesh):
            return write(
                self.system.agents[agent],
                itertools.starmap(prefilled, batches),
                self.sampling,
                toolbox=self.system.tools.get(agent),
                watch=functools.partial(self.listener.wrote, agent, k) if self.listener else None,
                retry=self.retry if final else None,
                clock=self.clock,
            )


def _can_call_back() -> bool:
    """Whether programs can call the host: JAX hands arguments over on a CPU device."""
    try:
        return bool(jax.local_devices(backend="cpu"))
    except RuntimeError:
        return False
