"""Questions in, answers out: latent recursion, text exchange, single agents.

Every method runs on the same models, prompts and decode loop; they differ in what an agent
hands on. Counts are kept per agent and question: `prompt_tokens` are the positions read before
a turn (slot vectors and message tokens included), `latent_steps` the states of its rollouts,
`decoded_tokens` the tokens that it wrote, stop tokens included.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax

from rmas.links import Form
from rmas.models import ModelSpec
from rmas.shapes import Array, Params
from rmas.system import decode
from rmas.system.batch import Line, line, stack
from rmas.system.decode import Sampling, row_keys
from rmas.system.encode import fill
from rmas.system.load import System
from rmas.system.recursion import recurse
from rmas.system.rendered import Renderer, phase
from rmas.system.stage import Prompt, SystemSpec, inputs, rollout, send, silence
from rmas.system.topology import Topology


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked, and the name that its random keys are folded from."""

    id: str
    text: str


@dataclasses.dataclass
class Answer:
    """What a system wrote: texts per agent in order of turns, and counts per agent."""

    texts: dict[str, list[str]]
    counts: dict[str, dict[str, int]]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Lengths of what agents produce: latent steps a turn, tokens of the answer, of a message."""

    latent_steps: int
    max_new_tokens: int
    message_tokens: int


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def think(
    topology: Topology,
    spec: SystemSpec,
    steps: int,
    size: int,
    params: dict[str, Params],
    links: Params,
    prompts: dict[str, Prompt],
) -> decode.DecodeState:
    """All latent turns and the prefill of the output agent's last one, as one program."""

    def stage(agent: str, prompt: Prompt, incoming: tuple[Array, ...], _):
        x_BTD = inputs(params[agent], prompt, incoming)
        z_BMD = rollout(spec, params[agent], links, agent, x_BTD, prompt.valid_BT, steps)
        return send(topology, spec, links, agent, z_BMD), ()

    out = topology.output
    quiet = silence(spec, links, prompts[out].ids_BT.shape[1], steps)
    incoming, _ = recurse(topology, prompts, stage, quiet)
    last = jax.tree.map(lambda x: x[-1], prompts[out])
    x_BTD = inputs(params[out], last, incoming)
    return decode.start(spec.model(out), params[out], x_BTD, last.valid_BT, size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def read(model: ModelSpec, size: int, params: Params, prompt: Prompt) -> decode.DecodeState:
    """Prefill of a prompt of tokens."""
    x_BTD = inputs(params, prompt, ())
    return decode.start(model, params, x_BTD, prompt.valid_BT, size)


@dataclasses.dataclass(frozen=True, eq=False)
class Runner:
    """A system ready to answer batches of questions."""

    system: System
    limits: Limits
    sampling: Sampling
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "renderer", Renderer(self.system))

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
        s, steps = self.system, self.limits.latent_steps
        out = s.topology.output
        prompts = self.renderer.latent_prompts(
            [q.text for q in questions], rounds, steps, batch, self.limits.max_new_tokens
        )
        limit = self.limits.max_new_tokens
        size = decode.room(limit)
        state = think(s.topology, s.spec(form), steps, size, s.params(), links, prompts)
        names = _names(questions, batch, rollout_index)
        ids = self._drain(out, state, names, limit)
        answers = []
        for b in range(len(questions)):
            counts = {}
            for agent in s.topology.agents:
                turns = self._turns(agent, rounds)
                valid_RT = prompts[agent].valid_BT[:, b]
                counts[agent] = {
                    "prompt_tokens": int(valid_RT[:turns].sum()),
                    "latent_steps": steps * (turns - (agent == out)),
                    "decoded_tokens": len(ids[b]) if agent == out else 0,
                }
            text = s.agents[out].chat.decode(ids[b])
            answers.append(Answer({out: [text]}, counts, text))
        return answers

    def text(
        self, questions: Sequence[Question], rounds: int, batch: int, rollout_index: int = 0
    ) -> list[Answer]:
        """The same agents and edges with decoded text in the slots.

        A message is at most `message_tokens` long, the final text `max_new_tokens`.
        """
        s = self.system
        zero = {"prompt_tokens": 0, "latent_steps": 0, "decoded_tokens": 0}
        agents = s.topology.agents
        answers = [
            Answer({a: [] for a in agents}, {a: dict(zero) for a in agents}) for _ in questions
        ]
        fed: dict[tuple[str, str], list[str]] = {}
        for k in range(rounds):
            sent: dict[tuple[str, str], list[str]] = {}
            out: dict[tuple[str, str], list[str]] = {}
            for agent in agents:
                final = k == rounds - 1 and agent == s.topology.output
                limit = self.limits.max_new_tokens if final else self.limits.message_tokens
                inbox = {
                    e.src: (sent if e.when == "round" else fed).get((e.src, e.dst))
                    for e in s.topology.incoming(agent)
                }
                lines = self._text_lines(agent, questions, k, inbox, limit)
                names = _names(questions, batch, rollout_index, f"{agent}/{k}")
                texts = self._write(agent, lines, names, limit, batch, answers)
                for e in s.topology.outgoing(agent):
                    (sent if e.when == "round" else out)[(e.src, e.dst)] = texts
                if final:
                    for answer, text in zip(answers, texts, strict=True):
                        answer.text = text
                    return answers
            fed = out
        raise AssertionError("the output agent writes in the last round")

    def _turns(self, agent: str, rounds: int) -> int:
        return rounds - (agent in self.system.topology.after)

    def _text_lines(self, agent, questions, k, inbox, limit) -> list[Line]:
        chat = self.system.agents[agent].chat
        lines = []
        for b, q in enumerate(questions):
            encoded = self.renderer.encoded(agent, q.text, phase(k))
            ids = fill(encoded, lambda src, b=b: chat.data_ids(inbox[src][b]))
            self.renderer.check_context(agent, q.text, len(ids) + limit)
            lines.append(line([ids], (), 0))
        return lines

    def _write(self, agent, lines, names, limit, batch, answers) -> list[str]:
        a = self.system.agents[agent]
        padded = [*lines, *[Line((), ())] * (batch - len(lines))]
        prompt = jax.tree.map(lambda x: x[0], stack([padded]))
        ids = self._drain(agent, read(a.model, decode.room(limit), a.params, prompt), names, limit)
        texts = []
        for row, own, answer in zip(lines, ids, answers, strict=False):
            texts.append(a.chat.decode(own))
            answer.texts[agent].append(texts[-1])
            answer.counts[agent]["prompt_tokens"] += len(row)
            answer.counts[agent]["decoded_tokens"] += len(own)
        return texts

    def _drain(self, agent, state, names, limit) -> list[list[int]]:
        a = self.system.agents[agent]
        keys = row_keys(self.seed, names)
        return decode.drain(a.model, a.params, state, self.sampling, keys, a.eos, limit)


def _names(questions: Sequence[Question], batch: int, rollout_index: int, turn: str = "answer"):
    names = [f"{q.id}/{rollout_index}/{turn}" for q in questions]
    return names + [""] * (batch - len(names))
