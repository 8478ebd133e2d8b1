"""Links without training: regressions between heads and embeddings, by their definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.experiment.sections import LinkSettings
from rmas.links import FORMS, LinkSpec, linear_inner, linear_outer
from rmas.system.styles import SEQUENTIAL
from rmas.training import head
from rmas.training.head import (
    embeddings_to_embeddings,
    head_inner_link,
    head_outer_links,
    head_to_embeddings,
)
from rmas.weights.quantize import quantize
from support.fake_devices import mesh_of
from support.tiny_training import Case, make_examples, make_rows, on_mesh

LINEAR = ("linear", "linear_res")
RIDGE = 1e-2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case():
    with jax.enable_x64(True):
        return Case(make_examples(SEQUENTIAL, np.float64))


def regression(x_NE, y_ND):
    """Minimises |x w - y|^2 + n |w|^2 as least squares with rows of its own for the penalty."""
    penalty = np.sqrt(RIDGE * np.sum(x_NE**2) / x_NE.shape[1]) * np.eye(x_NE.shape[1])
    y_ND = np.concatenate([y_ND, np.zeros((len(penalty), y_ND.shape[1]))])
    return np.linalg.lstsq(np.concatenate([x_NE, penalty]), y_ND, rcond=None)[0]


def rows_of_head(agent):
    if agent.model.tied:
        return np.asarray(agent.params["embed"]["weight"])
    head = agent.params["head"]
    if "scale" in head:  # as the model reads them
        rows_VD = (np.asarray(head["kernel"], np.float32) * np.asarray(head["scale"])).T
        return rows_VD.astype(np.float64)
    return np.asarray(head["kernel"]).T


def changed(agent, **changes):
    return dataclasses.replace(agent, **changes)


@pytest.mark.parametrize("block", [5, 8192])
def test_the_inner_map_is_the_regression_of_embeddings_on_the_head(case, block, monkeypatch):
    """Tied and untied heads, scaled embeddings, int8; blocks change nothing."""
    monkeypatch.setattr(head, "_BLOCK", block)
    planner, critic = (case.system.agents[name] for name in ("planner", "critic"))
    assert planner.model.tied and not critic.model.tied
    scaled = changed(critic, model=dataclasses.replace(critic.model, embed_scale=3.0))
    small = changed(critic, params=quantize(critic.params))
    assert "scale" in small.params["head"]
    for agent in (planner, critic, scaled, small):
        table_VD = np.asarray(agent.params["embed"]["weight"]) * (agent.model.embed_scale or 1.0)
        w_DD, norm = head_to_embeddings(agent, RIDGE)
        np.testing.assert_allclose(w_DD, regression(rows_of_head(agent), table_VD), atol=1e-9)
        np.testing.assert_allclose(norm, np.linalg.norm(table_VD, axis=1).mean(), rtol=1e-12)


def test_a_tied_head_gives_nearly_the_identity(case):
    """With more tokens than dimensions; nothing but the penalty keeps it from that."""
    w_DD, _ = head_to_embeddings(case.system.agents["planner"], 1e-12)
    np.testing.assert_allclose(w_DD, np.eye(len(w_DD)), atol=1e-8)


def test_the_outer_map_reads_the_tokens_that_both_have(case):
    planner, critic, solver = (case.system.agents[a] for a in ("planner", "critic", "solver"))
    # Words and letters: control tokens, and words of one letter. Not all ids have an embedding.
    fewer = changed(solver, model=dataclasses.replace(solver.model, vocab_size=9))
    for src, dst, count in ((planner, critic, 12), (critic, solver, 8), (planner, fewer, 0)):
        one, other = (a.chat.tokenizer.get_vocab() for a in (src, dst))
        both = [t for t in one if other.get(t, 99) < dst.model.vocab_size]
        assert len(both) == count or (not count and 0 < len(both) < 8)
        x_NE, y_ND = (
            np.asarray(agent.params["embed"]["weight"])[[vocabulary[t] for t in both]]
            for agent, vocabulary in ((src, one), (dst, other))
        )
        found = embeddings_to_embeddings(src, dst, RIDGE)
        np.testing.assert_allclose(found, regression(x_NE, y_ND), atol=1e-9)
    none = changed(solver, model=dataclasses.replace(solver.model, vocab_size=0))
    with pytest.raises(InputError, match="'head'; test and test have no token in common: use"):
        embeddings_to_embeddings(planner, none, RIDGE)


@pytest.mark.parametrize("form", LINEAR)
def test_links_of_both_forms(case, form):
    """What links do is the map; messages of the inner ones have the size of embeddings."""
    spec, rows = case.system.spec(form), make_rows(5)
    links = {"inner": {}, "outer": head_outer_links(spec.links, case.system, RIDGE)}
    h_D = np.random.default_rng(0).standard_normal(16)
    w_ED = embeddings_to_embeddings(*(case.system.agents[a] for a in ("planner", "critic")), RIDGE)
    sent = spec.links.outer(links, "planner", "critic", jnp.asarray(h_D))
    np.testing.assert_allclose(sent, h_D @ w_ED, rtol=1e-5, atol=1e-5)

    w_DD, norm = head_to_embeddings(case.system.agents["planner"], RIDGE)
    made = head_inner_link(
        spec, "planner", links, w_DD, norm, examples=case.examples, rows=rows, seed=4
    )
    assert links["inner"] == {}
    # States before each token of each text, read without a batch.
    drawn = case.examples.draw_rounds(np.random.default_rng([4, 0]), len(rows))
    sizes = []
    for row, k in zip(rows, drawn, strict=True):
        text = case.ids("planner", row, k)
        (batch,) = case.examples.inner_lines("planner", [row], [k])
        ids = np.array([*batch.ids, *[0] * (64 - len(batch))])
        x_TD = case.params["planner"]["embed"]["weight"][ids]
        h_TD = case.states("planner", x_TD, len(batch))[len(batch) - len(text) - 1 :]
        sizes += np.linalg.norm(np.asarray(h_TD[: len(text)]) @ w_DD, axis=1).tolist()
    got = spec.links.inner({"inner": {"planner": made}}, "planner", jnp.asarray(h_D))
    np.testing.assert_allclose(got, h_D @ w_DD * norm / np.mean(sizes), rtol=1e-5, atol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves((made, links))} == {jnp.dtype("float32")}


def test_agents_of_one_base_model_get_the_identity(case):
    planner = case.system.agents["planner"]
    agents = case.system.agents | {"critic": changed(planner, fingerprint="the same weights")}
    system = dataclasses.replace(case.system, agents=agents)
    spec = LinkSpec("linear", (("planner", 16), ("critic", 16)), (("planner", "critic"),))
    (link,) = head_outer_links(spec, system, RIDGE).values()
    np.testing.assert_array_equal(link["proj1"]["kernel"], np.eye(16))


def test_weights_on_a_mesh(case):
    mesh = mesh_of(1, 2, 2)
    split = on_mesh(case.examples, mesh).renderer.system
    for name in ("planner", "critic"):
        whole, placed = (s.agents[name] for s in (case.system, split))
        np.testing.assert_allclose(
            head_to_embeddings(placed, RIDGE)[0], head_to_embeddings(whole, RIDGE)[0], atol=1e-10
        )


def test_other_forms_are_refused():
    w = np.eye(3)
    for form in FORMS:
        if form in LINEAR:
            assert LinkSettings(form=form, init="head").parsed_form == form
            continue
        for make in (linear_inner, linear_outer):
            with pytest.raises(InputError, match=f"form {form} is not linear; use form linear or"):
                make(form, w)
        with pytest.raises(InputError, match=f"init is 'head'; form '{form}' is not linear; use"):
            LinkSettings(form=form, init="head")
