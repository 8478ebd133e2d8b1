"""Latents as tokens and pictures: against plain numpy, on numbers that are made for it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rmas import models
from rmas.errors import InputError
from rmas.evaluation import latents
from rmas.evaluation.latent_plots import plot_latents
from rmas.evaluation.latents import between_rounds, nearest, principal, read_thoughts
from rmas.links import init_links
from rmas.system.run import Thoughts
from support.tiny_systems import model_spec, random_params
from support.tiny_training import PAIR, make_system

ROUNDS, ROWS, STEPS = 3, 2, 4


def cosines(z_XD, table_VD):
    unit = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (z_XD, table_VD)]
    return unit[0] @ unit[1].T


def test_nearest_tokens_by_numpy(monkeypatch):
    spec = model_spec("llama", 24)
    params = random_params(spec, 0, np.float32)
    table = np.asarray(models.embed(spec, params, np.arange(spec.vocab_size)[None])[0])
    z_XD = np.random.default_rng(1).standard_normal((5, 24)).astype(np.float32)
    expected = cosines(z_XD, table)
    for block in (latents.BLOCK, 7):  # a vocabulary in pieces gives the same
        monkeypatch.setattr(latents, "BLOCK", block)
        cosine_XK, id_XK = nearest(spec, params, z_XD, 3)
        np.testing.assert_array_equal(id_XK, np.argsort(-expected, axis=1)[:, :3])
        np.testing.assert_allclose(cosine_XK, -np.sort(-expected, axis=1)[:, :3], atol=1e-6)
    # A token's own embedding, of any length, is nearest to itself.
    cosine_XK, id_XK = nearest(spec, params, 3 * table[[4, 9]], 1)
    assert id_XK[:, 0].tolist() == [4, 9]
    np.testing.assert_allclose(cosine_XK, 1, atol=1e-6)
    assert nearest(spec, params, z_XD, 1000)[1].shape == (5, spec.vocab_size)


@functools.cache
def made():
    system = make_system(PAIR, np.float32)
    links = init_links(system.spec("ln_res").links, jax.random.key(0))
    random, thoughts = np.random.default_rng(2), {}
    for agent in PAIR.agents:
        shape = (ROUNDS, ROWS, STEPS)
        width = system.agents[agent].model.d_model
        messages = {
            f"{e.src}->{e.dst}": random.standard_normal(
                (*shape, system.agents[e.dst].model.d_model)
            ).astype(np.float32)
            for e in PAIR.outgoing(agent)
        }
        hidden = random.standard_normal((*shape, width)).astype(np.float32)
        thoughts[agent] = Thoughts(hidden, messages)
    return system, links, thoughts


def test_thoughts_are_read_by_their_agent_and_messages_by_their_reader():
    system, links, thoughts = made()
    readings = {r.where: r for r in read_thoughts(system, links, "ln_res", thoughts, top=2)}
    assert list(readings) == ["critic", "critic->critic", "critic->solver", "solver",
                              "solver->solver", "solver->critic"]  # fmt: skip
    spec = system.spec("ln_res")
    for where, reading in readings.items():
        reader = where.split("->")[-1]
        if "->" in where:
            z_RBMD = thoughts[where.split("->")[0]].messages[where]
        else:
            z_RBMD = np.asarray(spec.links.inner(links, where, thoughts[where].hidden_RBMD))
        agent = system.agents[reader]
        table = np.asarray(models.embed(agent.model, agent.params, np.arange(24)[None])[0])
        expected = cosines(z_RBMD.reshape(-1, z_RBMD.shape[-1]), table)
        best = np.argmax(expected, axis=1).reshape(ROUNDS, ROWS, STEPS)
        assert reading.cosine_RBMK.shape == (ROUNDS, ROWS, STEPS, 2)
        np.testing.assert_allclose(
            reading.cosine_RBMK[..., 0].ravel(), expected.max(axis=1), atol=1e-5
        )
        for r in range(ROUNDS):
            for b in range(ROWS):
                first = [tokens[0] for tokens in reading.tokens[r][b]]
                assert first == [agent.chat.tokenizer.decode([i]) for i in best[r, b].tolist()]


def test_principal_components_and_cosines_by_numpy():
    hidden = np.random.default_rng(3).standard_normal((ROUNDS, ROWS, STEPS, 6))
    place, share = principal(hidden)
    x = hidden.reshape(-1, 6) - hidden.reshape(-1, 6).mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    np.testing.assert_allclose(share, values[::-1][:2] / values.sum(), rtol=1e-4)
    for c in range(2):
        expected = x @ vectors[:, -1 - c]
        got = place[..., c].ravel()
        np.testing.assert_allclose(got, expected * np.sign(got @ expected), atol=1e-4)
    cosine = between_rounds(hidden)
    unit = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
    expected = [[(unit[r] * unit[s]).sum(-1).mean() for s in range(3)] for r in range(3)]
    np.testing.assert_allclose(cosine, expected, atol=1e-5)


def test_the_picture_is_written_and_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    _, _, thoughts = made()
    for name in ("a.png", "b.png"):
        plot_latents(thoughts, tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "b.png").read_bytes()
    moved = {
        agent: dataclasses.replace(own, hidden_RBMD=-own.hidden_RBMD[::-1])
        for agent, own in thoughts.items()
    }
    plot_latents(moved, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != content
    with pytest.raises(InputError, match="cannot be written"):
        plot_latents(thoughts, tmp_path / "none" / "a.png")
