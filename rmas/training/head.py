"""Links without training, from weights alone: embeddings in the place of tokens (LatentMAS).

An inner link maps the head's rows to the embeddings of the same tokens by ridge regression, so that
it gives the vector of the input space that stands for a state; it is brought to the size of the
embeddings (Zou et al. 2025, arXiv 2511.20639, input-output alignment). There each vector is; a
linear link has one constant, which is measured on teacher texts. An outer link maps the sender's
embeddings to the receiver's, over the tokens that both have.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from rmas import models
from rmas.errors import InputError
from rmas.links import LinkSpec, edge_name, linear_inner, linear_outer
from rmas.models import ModelSpec, ops
from rmas.parallel import to_host, use
from rmas.shapes import Array, Params
from rmas.system.load import Agent, System
from rmas.system.turn import SystemSpec
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, on_host
from rmas.training.initial import states_of

_BLOCK = 8192
"""Tokens of a block, of which the host holds rows in float64."""


def head_inner_link(
    spec: SystemSpec,
    agent: str,
    links: Params,
    w_DD: np.ndarray,
    norm: float,
    *,
    examples: Examples,
    rows: Sequence[Row],
    seed: int,
) -> Params:
    """An agent's inner link from its head to its embeddings, which needs no training.

    Its outputs have the mean norm of the agent's embeddings, over the states before the tokens of
    teacher texts of `rows`. All processes call it together, each with all rows.

    Args:
      links: the whole tree of links, of a linear form.
      w_DD, norm: from `head_to_embeddings`, the same for agents with the same weights.
      seed: decides the round of each row.

    Raises `InputError` for a form that is not linear.
    """
    topology = examples.renderer.system.topology
    own = examples.renderer.system.agents[agent]
    random = np.random.default_rng([seed, topology.index(agent)])
    tree = links | {"inner": links["inner"] | {agent: linear_inner(spec.links.form, w_DD)}}
    states = states_of(
        spec,
        agent,
        own.params,
        tree,
        examples=examples,
        rows=rows,
        rounds=examples.draw_rounds(random, len(rows)),
    )
    z_ND = np.concatenate([z_ND for _, _, z_ND in states]).astype(np.float64)
    size = float(np.linalg.norm(z_ND, axis=1).mean())
    return linear_inner(spec.links.form, w_DD * (norm / size))


def head_outer_links(spec: LinkSpec, system: System, ridge: float) -> Params:
    """The outer links from senders' to receivers' embeddings, by `edge_name`.

    Between agents with the same weights they are the identity. All processes call it together.

    Raises `InputError` for a form that is not linear, and agents without a token in common.
    """
    links = {}
    for src, dst in spec.edges:
        one, other = system.agents[src], system.agents[dst]
        if one.params["embed"]["weight"] is other.params["embed"]["weight"]:
            w_ED = np.eye(one.model.d_model)
        else:
            w_ED = embeddings_to_embeddings(one, other, ridge)
        links[edge_name(src, dst)] = linear_outer(spec.form, w_ED)
    return links


def head_to_embeddings(agent: Agent, ridge: float) -> tuple[np.ndarray, float]:
    """The map `[D, D]` from states to input embeddings, and the mean norm of these; float64.

    `ridge` is the penalty relative to the mean squared feature. All processes call it together.
    """
    ids_V = np.arange(agent.model.vocab_size, dtype=np.int32)
    gram, products, norms = _sums(_blocks(agent, ids_V, head=True), _blocks(agent, ids_V))
    return _solve(gram, products, ridge), norms / len(ids_V)


def embeddings_to_embeddings(src: Agent, dst: Agent, ridge: float) -> np.ndarray:
    """The map `[E, D]` between input embeddings of the same tokens; float64.

    Raises `InputError` for agents without a token in common.
    """
    one, other = (agent.chat.tokenizer.get_vocab() for agent in (src, dst))
    pairs = [
        (i, other[token])
        for token, i in sorted(one.items())
        if token in other and i < src.model.vocab_size and other[token] < dst.model.vocab_size
    ]
    if not pairs:
        raise InputError(
            f"links.init is 'head'; {src.chat.where} and {dst.chat.where} have no token in common: "
            "use another init"
        )
    ids_N, ids_M = np.array(pairs, np.int32).T
    gram, products, _ = _sums(_blocks(src, ids_N), _blocks(dst, ids_M))
    return _solve(gram, products, ridge)


def _blocks(agent: Agent, ids_N: np.ndarray, head: bool = False) -> Iterator[np.ndarray]:
    """The agent's embeddings of tokens, or the rows of its head, in blocks; float64."""
    for at in range(0, len(ids_N), _BLOCK):
        with use(agent.mesh):
            rows_ND = _rows(agent.model, head, agent.params, on_host(ids_N[at : at + _BLOCK]))
        yield to_host(rows_ND).astype(np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _rows(model: ModelSpec, head: bool, params: Params, ids_N: Array) -> Array:
    if head:
        return models.head_rows(model, params, ids_N)
    return ops.at_least_float32(models.embed(model, params, ids_N))


def _sums(x: Iterator[np.ndarray], y: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """`x.T @ x`, `x.T @ y` and the sum of the norms of `y`'s rows."""
    # Products of the host: in float32 an accelerator's would blur the small directions.
    gram, products, norms = np.zeros(()), np.zeros(()), 0.0
    for x_NE, y_ND in zip(x, y, strict=True):
        gram = gram + x_NE.T @ x_NE
        products = products + x_NE.T @ y_ND
        norms += float(np.linalg.norm(y_ND, axis=1).sum())
    return gram, products, norms


def _solve(gram: np.ndarray, products: np.ndarray, ridge: float) -> np.ndarray:
    penalty = ridge * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), products)
