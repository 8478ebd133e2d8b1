"""Questions in, answers out: latent recursion, text exchange, single agents.

Every method runs on the same models, prompts and decode loop; they differ in what an agent
hands on.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rmas.links import Form
from rmas.parallel import put_batch, use, whole_batch
from rmas.shapes import Array, Params
from rmas.system import decode
from rmas.system.answers import Answer, Limits, Question, row_names
from rmas.system.clock import Clock
from rmas.system.decode import DecodeState, Sampling, row_keys
from rmas.system.load import System
from rmas.system.recursion import recurse
from rmas.system.rendered import Renderer
from rmas.system.text import exchange
from rmas.system.topology import Topology
from rmas.system.turn import Prompt, SystemSpec, inputs, rollout, send, zero_messages
from rmas.system.writing import Retry, Written, write


@struct.dataclass
class Thoughts:
    """What an agent thought and sent in all its turns, in their order: the first is round 1.

    `hidden_RBMD` are its states after the final norm, in its own type; `messages` maps each of
    its outgoing edges (`src->dst`) to `[R, B, M, d_dst]`, float32.
    """

    hidden_RBMD: Array
    messages: dict[str, Array]


class Listener(Protocol):
    """Is told what happens while questions are answered."""

    def thought(self, agent: str, k: int) -> None:
        """An agent has finished its latent turn in round `k` (from 0)."""

    def wrote(self, agent: str, k: int, row: int, text: str) -> None:
        """A new piece of an agent's text in round `k`, results of tools included."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def think(
    topology: Topology,
    spec: SystemSpec,
    steps: int,
    size: int,
    record: bool,
    tell: Callable[[str, int], None] | None,
    params: dict[str, Params],
    links: Params,
    prompts: dict[str, Prompt],
) -> tuple[decode.DecodeState, dict[str, Thoughts]]:
    """All latent turns and the prefill of the output agent's last one, as one program.

    With `record`, also what every agent with a turn thought; else nothing of it is kept. `tell` is
    called with the agent and the round (from 0) of every turn that is over.
    """
    rounds = prompts[topology.output].ids_BT.shape[0]
    numbers = dict.fromkeys(topology.agents, jnp.arange(rounds)) if tell else None

    def stage(agent: str, prompt: Prompt, incoming: tuple[Array, ...], k):
        x_BTD = inputs(spec.model(agent), params[agent], prompt, incoming)
        h_BMD, z_BMD = rollout(spec, params[agent], links, agent, x_BTD, prompt.valid_BT, steps)
        sent = send(topology, spec, links, agent, z_BMD)
        if tell:
            # The state only makes the call wait for the turn.
            jax.debug.callback(lambda k, _: tell(agent, int(k)), k, z_BMD[0, -1, 0])
        return sent, (Thoughts(h_BMD, sent) if record else ())

    out = topology.output
    quiet = zero_messages(spec, links, prompts[out].ids_BT.shape[1], steps)
    incoming, thoughts = recurse(topology, prompts, stage, quiet, numbers)
    last = jax.tree.map(lambda x: x[-1], prompts[out])
    x_BTD = inputs(spec.model(out), params[out], last, incoming)
    state = decode.start(spec.model(out), params[out], x_BTD, last.valid_BT, size)
    return state, (thoughts if record else {})


@dataclasses.dataclass(frozen=True, eq=False)
class Runner:
    """A system ready to answer batches of questions, and who is told how it goes.

    `retry` is for answers alone, not for messages. `clock` is told where time goes.
    """

    system: System
    limits: Limits
    sampling: Sampling
    seed: int
    listener: Listener | None = None
    retry: Retry | None = None
    clock: Clock = dataclasses.field(default_factory=Clock)

    @functools.cached_property
    def renderer(self) -> Renderer:
        """Makes the system's prompts, each once."""
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
        """Latent recursion: only the output agent writes, in the last round."""
        return self.recorded(links, form, questions, rounds, batch, rollout_index, record=False)[0]

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
        """The same with every agent's thoughts, as numpy arrays of the asked questions alone."""
        s, steps = self.system, self.limits.latent_steps
        out = s.topology.output
        limit = self.limits.tokens(out, final=True)
        with self.clock.phase("render") as made:
            batch = whole_batch(s.mesh, batch)
            prompts = self.renderer.latent_prompts(questions, rounds, steps, batch, limit)
            size = decode.room(limit)
            on_devices = put_batch(s.mesh, prompts, axis=1)
            made.append(on_devices)
        with use(s.mesh), self.clock.phase("think") as made:
            tell = self.listener.thought if self.listener and _can_call_back() else None
            spec, params = s.spec(form), s.params()
            state, thoughts = think(
                s.topology, spec, steps, size, record, tell, params, links, on_devices
            )
            made.append(state)
        names = row_names(questions, prompts[out].ids_BT.shape[1], rollout_index)
        wrote = self._write(out, rounds - 1, state, names, limit)
        answers = [Answer.blank(s.topology) for _ in questions]
        for b, answer in enumerate(answers):
            for agent in s.topology.agents:
                turns = rounds - (agent in s.topology.after)
                read = prompts[agent].valid_BT[:turns, b].sum()
                thought = turns - (agent == out)
                answer.counts[agent] |= {
                    "prompt_tokens": int(read),
                    "latent_steps": steps * thought,
                    "positions": int(read) + (steps - 1) * thought,
                }
            answer.add(out, rounds - 1, wrote[b])
            answer.finish(wrote[b])
        return answers, jax.tree.map(lambda x: np.asarray(x)[:, : len(questions)], thoughts)

    def text(
        self, questions: Sequence[Question], rounds: int, batch: int, rollout_index: int = 0
    ) -> list[Answer]:
        """The same agents and edges with decoded text in the slots (`rmas.system.text`)."""
        return exchange(
            self.renderer,
            self.limits,
            self._write,
            questions,
            rounds,
            batch,
            rollout_index,
            self.clock,
        )

    def _write(
        self,
        agent: str,
        k: int,
        state: DecodeState,
        names: list[str],
        limit: int,
        final: bool = True,
    ) -> list[Written]:
        own, keys = self.system.agents[agent], row_keys(self.seed, names)
        toolbox = self.system.tools.get(agent)
        with use(self.system.mesh), self.clock.phase("write"):
            watch = functools.partial(self.listener.wrote, agent, k) if self.listener else None
            retry = self.retry if final else None
            return write(own, state, self.sampling, keys, limit, toolbox, watch, retry)


def _can_call_back() -> bool:
    """Whether programs can call the host: JAX hands arguments over on a CPU device."""
    try:
        return bool(jax.local_devices(backend="cpu"))
    except RuntimeError:
        return False
