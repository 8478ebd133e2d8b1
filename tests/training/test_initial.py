"""Aligned outer links: what they are fitted to, position by position."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.links import aligned_outer
from rmas.models import ops
from rmas.system.styles import SEQUENTIAL
from rmas.tasks.rows import Row
from rmas.training.alignment import align
from rmas.training.initial import align_outer_links
from support.tiny_training import (
    LENGTH,
    Case,
    make_examples,
    make_rows,
    random_links,
    word_tokenizer,
)
from support.tiny_training import _embed as embed
from support.tiny_training import _inner as inner

ROWS = make_rows(12)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case():
    with jax.enable_x64(True):
        return Case(make_examples(SEQUENTIAL, np.float64))


def pairs(case, agent, reader, rows, rounds):
    """States before the tokens of each text, and the reader's vectors for them."""
    z, y = [], []
    system = case.system
    drawn = np.random.default_rng([9, SEQUENTIAL.index(agent)])
    batch = case.examples.inner(agent, rows, case.examples.draw_rounds(drawn, len(rows)))
    table_VD = np.asarray(system.agents[reader].params["embed"]["weight"])
    for b, row in enumerate(rows):
        ids = batch.prompt.ids_BT[b][batch.prompt.valid_BT[b]]
        x_TD = embed(case.params[agent], np.pad(ids, (0, LENGTH - len(ids))))
        z_TD = inner(case.spec.links, agent, case.links, case.states(agent, x_TD, len(ids)))
        text = row.text(agent, int(rounds.integers(3)))
        count = len(system.agents[agent].chat.text_ids(text))
        chats = [system.agents[a].chat for a in (agent, reader)]
        found, weights_MN = align(*chats, text, count)
        for i in range(count):
            if weights_MN[i].any():
                z.append(z_TD[len(ids) - count + i - 1])
                y.append(weights_MN[i] @ table_VD[list(found)])
    return np.stack(z), np.stack(y)


def test_every_edge_is_the_regression_of_its_pairs(case):
    links = align_outer_links(
        case.spec, case.params, case.links, examples=case.examples, rows=ROWS, seed=9, ridge=1e-2
    )
    assert links["inner"] is case.links["inner"]
    assert set(links["outer"]) == set(case.links["outer"])
    for name, link in links["outer"].items():
        agent, reader = name.split("->")
        rounds = np.random.default_rng([9, SEQUENTIAL.index(agent)])
        z, y = pairs(case, agent, reader, ROWS, rounds)
        wanted = aligned_outer(case.links["outer"][name], z, y, 1e-2)
        assert jax.tree.structure(link) == jax.tree.structure(wanted)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), link, wanted
        )
        # The MLP branch is closed; messages have the size of the reader's embeddings.
        assert not np.any(link["proj2"]["kernel"])
        assert not np.any(link["proj2"]["bias"])
        np.testing.assert_allclose(link["ln_target"]["scale"], np.sqrt(np.mean(y**2)), rtol=1e-5)


def test_a_linear_relation_is_found():
    """A reader whose embeddings are a linear map of the sender's states gets just that map.

    The sender's layers are shut, so that its state is a function of the last token alone; the
    text goes through the words in order, so that the state decides the next token.
    """
    words = [f"w{i}" for i in range(40)]
    chats = {"planner": word_tokenizer(1, tuple(words)), "critic": word_tokenizer(2, tuple(words))}
    base = make_examples(SEQUENTIAL, np.float64)
    system = base.renderer.system
    random = np.random.default_rng(0)
    agents = dict(system.agents)
    for name, chat in chats.items():
        agent = agents[name]
        params = agent.params | {
            "layers": jax.tree.map(jnp.zeros_like, agent.params["layers"]),
            "embed": {"weight": jnp.asarray(random.standard_normal((60, agent.model.d_model)))},
        }
        agents[name] = dataclasses.replace(agent, params=params, chat=chat)
    system = dataclasses.replace(system, agents=agents)
    renderer = dataclasses.replace(base.renderer, system=system)
    examples = dataclasses.replace(base, renderer=renderer)
    spec = system.spec("mlp_res")
    links = random_links(spec.links, np.float64)

    before = chats["planner"].ids("<a>") + chats["planner"].data_ids(" ".join(words))
    after = chats["critic"].data_ids(" ".join(words)) + list(chats["critic"].close)
    weight_VD = agents["planner"].params["embed"]["weight"][np.array(before)]
    h_VD = ops.rms_norm(weight_VD, agents["planner"].params["norm"]["weight"], 1e-6)
    z_VD = spec.links.inner(links, "planner", h_VD)
    W, bias = random.standard_normal((16, 24)), random.standard_normal(24)
    table = agents["critic"].params["embed"]["weight"]
    agents["critic"].params["embed"]["weight"] = table.at[np.array(after)].set(z_VD @ W + bias)

    texts = {"planner": (" ".join(words),), "critic": ("c",), "solver": ("c",)}
    rows = [Row(f"{n}", question, "c", texts) for n, question in enumerate(("l m", "hi"))]
    found = align_outer_links(
        spec, system.params(), links, examples=examples, rows=rows, seed=0, ridge=1e-12
    )
    link = found["outer"]["planner->critic"]
    np.testing.assert_allclose(link["residual_proj"]["kernel"], W, atol=1e-4)
    np.testing.assert_allclose(link["residual_proj"]["bias"], bias, atol=1e-4)
    sent = spec.links.outer(found, "planner", "critic", z_VD)
    np.testing.assert_allclose(sent, z_VD @ W + bias, atol=1e-4)


def test_rows_cut_into_their_text_are_left_out(case):
    """Texts of up to seven tokens in rows of six: only the short ones count."""
    examples = dataclasses.replace(case.examples, max_length=6, rounds=1)
    short = [row for row in ROWS if len(examples.text_ids("planner", row, 0)) < 6]
    assert 2 < len(short) < len(ROWS)

    def link(rows):
        done = align_outer_links(
            case.spec, case.params, case.links, examples=examples, rows=rows, seed=9, ridge=1e-2
        )
        return done["outer"]["planner->critic"]

    jax.tree.map(np.testing.assert_array_equal, link(ROWS), link(short))


def test_no_row_left(case):
    examples = dataclasses.replace(case.examples, max_length=1)
    with pytest.raises(InputError, match=r"no teacher text of 'planner'.*max_length 1"):
        align_outer_links(
            case.spec, case.params, case.links, examples=examples, rows=ROWS, seed=9, ridge=1e-2
        )


def test_a_form_without_a_residual_path(case):
    links = {"inner": case.links["inner"], "outer": dict(case.links["outer"])}
    link = links["outer"]["planner->critic"]
    links["outer"]["planner->critic"] = {k: v for k, v in link.items() if k != "residual_proj"}
    with pytest.raises(InputError, match="mlp_res or ln_res"):
        align_outer_links(
            case.spec, case.params, links, examples=case.examples, rows=ROWS[:2], seed=9, ridge=1e-2
        )
