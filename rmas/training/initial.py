"""Aligned outer links: ridge regression on teacher texts (initialisation, before training)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rmas import models
from rmas.errors import InputError
from rmas.links import aligned_outer, edge_name
from rmas.models import ModelSpec
from rmas.parallel import to_host, use
from rmas.shapes import Array, Params
from rmas.system.turn import SystemSpec
from rmas.tasks.rows import Row
from rmas.training.alignment import align
from rmas.training.examples import Examples, Text, on_host

_TOKENS = 1 << 17
"""Tokens of a batch, padding included."""


def align_outer_links(
    spec: SystemSpec,
    params: dict[str, Params],
    links: Params,
    *,
    examples: Examples,
    rows: Sequence[Row],
    seed: int,
    ridge: float,
) -> Params:
    """Links whose outer residual paths map inner-mapped states to the readers' embeddings.

    For each edge, states of the sender over teacher texts of `rows` (one position earlier than
    the token, as a rollout sees them) are paired with the reader's embeddings of the same
    piece of text. The two may tokenize text differently: see `alignment.align`. Rows whose prompt
    is cut away by `max_length` are left out. All processes call it together, each with all rows.

    Args:
      params: weights by agent.
      links: where the other parts of the links come from.
      seed: decides the round of each row.
      ridge: the weight of the regression's penalty.

    Raises `InputError` where no row is left for an edge.
    """
    topology = examples.renderer.system.topology
    agents = examples.renderer.system.agents
    mesh = examples.renderer.system.mesh
    outer = dict(links["outer"])
    for agent in topology.agents:
        edges = topology.outgoing(agent)
        if not edges:
            continue
        random = np.random.default_rng([seed, topology.index(agent)])
        rounds = examples.draw_rounds(random, len(rows))
        states = states_of(
            spec, agent, params[agent], links, examples=examples, rows=rows, rounds=rounds
        )
        role = topology.role(agent)
        for e in edges:
            z, weights, tokens = [], [], []
            for row, k, (n, prompt, own) in zip(rows, rounds, states, strict=True):
                if not prompt:
                    continue  # the cut may have reached the text
                text = row.text(role, k)
                ids, weights_NN = align(agents[agent].chat, agents[e.dst].chat, text, n)
                known = weights_NN.any(axis=1)
                z.append(own[known])
                weights.append(weights_NN[known])
                tokens.append(np.asarray(ids, np.int32))
            if not sum(map(len, z)):
                raise InputError(
                    f"no teacher text of {agent!r} shares tokens with {e.dst!r} in rows of "
                    f"max_length {examples.max_length}; raise it, or use another links.init"
                )
            all_ids = np.concatenate(tokens)
            with use(mesh):
                y_ND = to_host(_embeddings(spec.model(e.dst), params[e.dst], on_host(all_ids)))
            ends = np.cumsum([len(ids) for ids in tokens])[:-1]
            y = [w @ part for w, part in zip(weights, np.split(y_ND, ends), strict=True)]
            name = edge_name(e.src, e.dst)
            outer[name] = aligned_outer(outer[name], np.concatenate(z), np.concatenate(y), ridge)
    return {"inner": links["inner"], "outer": outer}


def states_of(
    spec: SystemSpec,
    agent: str,
    params: Params,
    links: Params,
    *,
    examples: Examples,
    rows: Sequence[Row],
    rounds: Sequence[int],
) -> list[tuple[int, bool, np.ndarray]]:
    """Per row: tokens of its text, whether it has a prompt, and inner-mapped states `[N, D]`."""
    longest = max(len(line) for line in examples.inner_lines(agent, rows, rounds))
    size = max(_TOKENS // longest, 1)
    found = []
    for at in range(0, len(rows), size):
        batch = examples.inner(agent, rows[at : at + size], rounds[at : at + size])
        with use(examples.renderer.system.mesh):
            z_BTD = to_host(_states(spec, agent, params, links, batch))
        for b, z_TD in enumerate(z_BTD):
            n = int(batch.text_BT[b].sum())
            found.append((n, n < int(batch.prompt.valid_BT[b].sum()), z_TD[-n - 1 : -1]))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _embeddings(model: ModelSpec, params: Params, ids_N: Array) -> Array:
    return models.embed(model, params, ids_N).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _states(spec: SystemSpec, agent: str, params: Params, links: Params, batch: Text) -> Array:
    """Inner-mapped states `[B, T, D]`."""
    prompt = batch.prompt
    x_BTD = models.embed(spec.model(agent), params, prompt.ids_BT)
    pos_BT = models.positions(prompt.valid_BT)
    h_BTD, _ = models.run(
        spec.model(agent), params, x_BTD, prompt.valid_BT, pos_BT, left_padded=True
    )
    return spec.links.inner(links, agent, h_BTD)
