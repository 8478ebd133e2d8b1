"""Aligned outer links: ridge regression on teacher texts (initialisation, before training)."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from rmas import models
from rmas.errors import InputError
from rmas.links import aligned_outer, edge_name
from rmas.parallel import use
from rmas.shapes import Params
from rmas.system.stage import SystemSpec
from rmas.tasks.rows import Row
from rmas.training.alignment import align
from rmas.training.examples import Examples, Text


def align_outer_links(
    spec: SystemSpec,
    params: dict[str, Params],
    links: Params,
    examples: Examples,
    rows: Sequence[Row],
    seed: int,
    ridge: float,
) -> Params:
    """Links whose outer residual paths map inner-mapped states to the readers' embeddings.

    For each edge, states of the sender over teacher texts of `rows` (one position earlier than
    the token, as a rollout sees them) are paired with the reader's embeddings of the same
    piece of text. Both may cut text differently: see `alignment.align`. Rows cut into their
    text are left out; raises `InputError` where none is left.
    """
    topology = examples.renderer.system.topology
    agents = examples.renderer.system.agents
    mesh = examples.renderer.system.mesh
    outer = dict(links["outer"])
    for agent in topology.agents:
        edges = topology.outgoing(agent)
        if not edges:
            continue
        rng = np.random.default_rng([seed, topology.index(agent)])
        batch, texts = examples.inner_with_texts(agent, rows, rng)
        with use(mesh):
            z_BTD = np.asarray(_states(spec, agent, params[agent], links, batch))
        for e in edges:
            z, weights, tokens = [], [], []
            for b, text in enumerate(texts):
                n = int(batch.text_BT[b].sum())
                if n == int(batch.prompt.valid_BT[b].sum()):
                    continue  # cut so short that no prompt is left, and perhaps not all the text
                ids, weights_NN = align(agents[agent].chat, agents[e.dst].chat, text, n)
                known = weights_NN.any(axis=1)
                own = z_BTD[b, -n - 1 : -1]
                z.append(own[known])
                weights.append(weights_NN[known])
                tokens.append(np.asarray(ids, np.int32))
            if not sum(map(len, z)):
                raise InputError(
                    f"no teacher text of {agent!r} has tokens that {e.dst!r} shares in rows of "
                    f"max_length {examples.max_length}; raise it, or use another link init"
                )
            all_ids = np.concatenate(tokens)
            y_ND = np.asarray(models.embed(spec.model(e.dst), params[e.dst], all_ids), np.float32)
            ends = np.cumsum([len(ids) for ids in tokens])[:-1]
            y = [w @ part for w, part in zip(weights, np.split(y_ND, ends), strict=True)]
            name = edge_name(e.src, e.dst)
            outer[name] = aligned_outer(outer[name], np.concatenate(z), np.concatenate(y), ridge)
    return {"inner": links["inner"], "outer": outer}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _states(spec: SystemSpec, agent: str, params: Params, links: Params, batch: Text):
    prompt = batch.prompt
    x_BTD = models.embed(spec.model(agent), params, prompt.ids_BT)
    pos_BT = models.positions(prompt.valid_BT)
    h_BTD, _ = models.run(spec.model(agent), params, x_BTD, prompt.valid_BT, pos_BT)
    return spec.links.inner(links, agent, h_BTD)
