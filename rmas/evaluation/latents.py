"""Latent thoughts as the tokens that they are nearest to, and how they move over rounds.

A thought is compared with the token embeddings that it is used among: `inner(h)` is fed back to its
own agent, a message `outer(inner(h))` to the agent that receives it. Nearness is the cosine, since
scales differ.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rmas import models
from rmas.console import printable
from rmas.errors import InputError
from rmas.links import Form
from rmas.models import ModelSpec
from rmas.shapes import Array, Params
from rmas.system.answers import Answer, Question
from rmas.system.load import System
from rmas.system.run import Thoughts

BLOCK = 4096
"""Number of tokens of a vocabulary that are compared at a time."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """Nearest tokens of one agent's thoughts or messages.

    Attributes:
      where: the agent's name for thoughts, `src->dst` for messages.
      tokens: `tokens[r][b][m]` are the K nearest tokens of step m, nearest first.
      cosine_RBMK: their cosines.
    """

    where: str
    tokens: list[list[list[list[str]]]]
    cosine_RBMK: np.ndarray


def read_thoughts(
    system: System, links: Params, form: Form, thoughts: dict[str, Thoughts], top: int
) -> list[Reading]:
    """The `top` nearest tokens of all thoughts and messages, in the order of the topology.

    Raises InputError where there are no thoughts.
    """
    if not thoughts:
        raise InputError(
            f"in one round of {system.topology.name!r} no agent has latent thoughts before the "
            "answer; use more rounds"
        )
    spec, found = system.spec(form), []
    for agent in system.topology.agents:
        if agent not in thoughts:
            continue
        own = thoughts[agent]
        z_RBMD = spec.links.inner(links, agent, jnp.asarray(own.hidden_RBMD))
        found.append(_reading(system, agent, agent, z_RBMD, top))
        for edge, message_RBMD in own.messages.items():
            found.append(_reading(system, edge.split("->")[1], edge, message_RBMD, top))
    return found


def _reading(system: System, reader: str, where: str, z_RBMD: Array, top: int) -> Reading:
    agent = system.agents[reader]
    cosine_XK, id_XK = nearest(agent.model, agent.params, z_RBMD.reshape(-1, z_RBMD.shape[-1]), top)
    words = [[agent.chat.tokenizer.decode([i]) for i in ids.tolist()] for ids in id_XK]
    R, B, M = z_RBMD.shape[:3]
    tokens = [[[words[(r * B + b) * M + m] for m in range(M)] for b in range(B)] for r in range(R)]
    return Reading(where, tokens, cosine_XK.reshape(R, B, M, -1))


def nearest(
    model: ModelSpec, params: Params, z_XD: Array, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines `[X, K]` and ids `[X, K]` of the `top` nearest token embeddings, nearest first."""
    top = min(top, model.vocab_size)
    best_XK, id_XK = np.zeros((len(z_XD), 0), np.float32), np.zeros((len(z_XD), 0), np.int64)
    for start in range(0, model.vocab_size, BLOCK):
        ids_V = np.arange(start, min(start + BLOCK, model.vocab_size))
        cosine_XV = np.asarray(_cosines(model, params, jnp.asarray(z_XD), ids_V))
        joined = np.concatenate([best_XK, cosine_XV], axis=1)
        ids = np.concatenate([id_XK, np.broadcast_to(ids_V, cosine_XV.shape)], axis=1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :top]
        best_XK, id_XK = (np.take_along_axis(a, order, axis=1) for a in (joined, ids))
    return best_XK, id_XK


@functools.partial(jax.jit, static_argnums=0)
def _cosines(model: ModelSpec, params: Params, z_XD: Array, ids_V: Array) -> Array:
    table_VD = models.embed(model, params, ids_V[None])[0].astype(jnp.float32)
    return _unit(z_XD.astype(jnp.float32)) @ _unit(table_VD).T


def _unit(x_XD: Array) -> Array:
    return x_XD / jnp.maximum(jnp.linalg.norm(x_XD, axis=-1, keepdims=True), 1e-8)


def principal(hidden_RBMD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All states on their first two principal components, and the components' shares of variance.

    Returns `[R, B, M, 2]` and `[2]`.
    """
    x_XD = np.asarray(hidden_RBMD, np.float32).reshape(-1, hidden_RBMD.shape[-1])
    x_XD = x_XD - x_XD.mean(axis=0)
    u_XC, s_C, _ = np.linalg.svd(x_XD, full_matrices=False)
    share_C = s_C**2 / max(float((s_C**2).sum()), 1e-30)
    place_XC, share_C = (u_XC * s_C)[:, :2], share_C[:2]
    more = 2 - len(share_C)  # a single state has one component
    place_X2, share_2 = np.pad(place_XC, ((0, 0), (0, more))), np.pad(share_C, (0, more))
    return place_X2.reshape(*hidden_RBMD.shape[:3], 2), share_2


def between_rounds(hidden_RBMD: np.ndarray) -> np.ndarray:
    """Mean cosine `[R, R]` of the states of the same question and step in two rounds."""
    unit_RBMD = np.asarray(_unit(jnp.asarray(hidden_RBMD, jnp.float32)))
    return np.einsum("rbmd,sbmd->rs", unit_RBMD, unit_RBMD) / np.prod(hidden_RBMD.shape[1:3])


def table(readings: list[Reading], question: Question, answer: Answer) -> str:
    """The thoughts and messages of the first question as text that is safe to print."""
    lines = [printable(f"question {question.id}: {question.text}")]
    for r in range(max(len(reading.tokens) for reading in readings)):
        for reading in readings:
            if r >= len(reading.tokens):
                continue
            what = "message" if "->" in reading.where else "thoughts"
            lines.append(printable(f"round {r + 1}, {reading.where} ({what})"))
            pairs = zip(reading.tokens[r][0], reading.cosine_RBMK[r, 0], strict=True)
            for m, (tokens, cosines) in enumerate(pairs, 1):
                near = [f"{t} {c:.2f}" for t, c in zip(tokens, cosines, strict=True)]
                lines.append(printable(f"  step {m:>3}  {'   '.join(near)}"))
    return "\n".join([*lines, printable(f"answer: {answer.text}")])


def facts(readings: list[Reading], asked: list[Question], answers: list[Answer]) -> dict:
    """The thoughts and messages of all questions, for JSON."""
    return {
        "questions": [{"id": q.id, "text": q.text} for q in asked],
        "answers": [answer.text for answer in answers],
        "readings": {
            reading.where: {
                "tokens": reading.tokens,
                "cosine": np.round(reading.cosine_RBMK, 4).tolist(),
            }
            for reading in readings
        },
    }
