"""Cached hidden states: the same links as without them, kills and damage."""

import json

import jax
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.training import hidden_state_cache
from rmas.training.hidden_state_cache import cache_hidden_states, scheduled
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.optim import Optim
from support.fake_devices import mesh_of
from support.tiny_training import PAIR, Case, make_examples, make_rows, on_mesh

ROWS = make_rows(10)
SCHEDULE = Schedule(Optim(steps=30, lr=1e-2, warmup_steps=0), batch_size=4, save_every=100)
SEED = 1


@pytest.fixture(scope="module")
def case():
    return Case(make_examples(PAIR, np.float32))


def cached(
    case,
    folder,
    dtype="float32",
    schedule=SCHEDULE,
    rows=ROWS,
    agent="solver",
    seed=SEED,
    params=None,
):
    return cache_hidden_states(
        agent,
        folder=folder,
        model=case.spec.model(agent),
        params=case.params[agent] if params is None else params,
        examples=case.examples,
        source=rows,
        schedule=schedule,
        seed=seed,
        dtype=dtype,
        key={"data": "ten rows"},
    )


def trained(case, folder, reader=None):
    links = train_inner(
        "solver",
        folder=folder,
        context=case.context,
        params=case.params["solver"],
        links=case.links,
        examples=case.examples,
        source=ROWS,
        schedule=SCHEDULE,
        seed=SEED,
        validation=ROWS,
        cached=reader,
    )
    return jax.tree.map(np.asarray, links)


def test_links_are_the_same_as_without(tmp_path, case):
    reader = cached(case, tmp_path / "hidden_states")
    with_states, without = trained(case, tmp_path / "a", reader), trained(case, tmp_path / "b")
    for x, y in zip(*map(jax.tree.leaves, (with_states, without)), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5)
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in "ab"
    ]
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_bfloat16_is_near(tmp_path, case):
    exact, near = cached(case, tmp_path), cached(case, tmp_path, "bfloat16")
    pairs = scheduled(case.examples, SCHEDULE, SEED, len(ROWS))[:5]
    x, y = exact.read(pairs), near.read(pairs)
    assert (x.ids_BN == y.ids_BN).all()
    assert (y.h_BND.dtype.name, x.h_BND.dtype.name) == ("bfloat16", "float32")
    np.testing.assert_allclose(y.h_BND.astype(np.float32), x.h_BND, rtol=2**-8, atol=1e-6)


def test_states_are_those_of_the_agent(tmp_path, case):
    """Each pair's, one row at a time, from the model itself."""
    reader = cached(case, tmp_path)
    for row, k in scheduled(case.examples, SCHEDULE, SEED, len(ROWS))[::7]:
        found = reader.read([(row, k)])
        text = case.examples.inner("solver", [ROWS[row]], [k])
        h_TD = hidden_state_cache._states(case.spec.model("solver"), case.params["solver"], text)[0]
        n = int(text.text_BT.sum())
        assert found.valid_BN.sum() == n
        np.testing.assert_allclose(found.h_BND[0, :n], h_TD[-n - 1 : -1], rtol=0, atol=2e-5)
        assert found.ids_BN[0, :n].tolist() == text.prompt.ids_BT[0, -n:].tolist()


def test_what_is_there_is_not_computed_again(tmp_path, case, monkeypatch):
    monkeypatch.setattr(hidden_state_cache, "CHUNK_BATCHES", 2)
    calls, states = [], hidden_state_cache._states

    def counted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return states(*args)

    monkeypatch.setattr(hidden_state_cache, "_states", counted)
    with pytest.raises(KeyboardInterrupt):  # in the second chunk, of which nothing is left
        cached(case, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert [p.name for p in folder.iterdir()] == ["00000-0000-of-0001.array_record"]
    batches = -(-len(scheduled(case.examples, SCHEDULE, SEED, len(ROWS))) // 4)
    again = cached(case, tmp_path)
    assert len(calls) == 4 + batches - 2  # the first chunk's two are not run again
    before = len(calls)
    cached(case, tmp_path)
    assert len(calls) == before
    whole = cached(case, tmp_path / "whole")
    pairs = scheduled(case.examples, SCHEDULE, SEED, len(ROWS))
    found = (jax.tree.leaves(reader.read(pairs)) for reader in (again, whole))
    for x, y in zip(*found, strict=True):
        assert x.tobytes() == y.tobytes()


def test_other_facts_are_other_folders(tmp_path, case):
    cached(case, tmp_path)
    cached(case, tmp_path, agent="critic")
    cached(case, tmp_path, schedule=Schedule(Optim(steps=2), 4, 100), seed=2)
    assert len(list(tmp_path.iterdir())) == 3
    # Files are cut by batches: other batches that read the same rows need files of their own.
    long = [Schedule(Optim(steps=60), batch, 100) for batch in (4, 8)]
    pairs = [scheduled(case.examples, schedule, SEED, len(ROWS)) for schedule in long]
    assert pairs[0] == pairs[1]
    found = [cached(case, tmp_path, schedule=s).read(pairs[0]) for s in long]
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5)


def test_auto_caches_what_is_read_twice_or_more(tmp_path, case):
    """In the weights' type. One step reads each row once; sixty read all of them often."""
    often, once = Schedule(Optim(steps=60), 4, 100), Schedule(Optim(steps=1), 4, 100)
    for dtype, schedule in (("none", often), ("auto", once)):
        assert cached(case, tmp_path, schedule=schedule, dtype=dtype) is None
        assert not list(tmp_path.iterdir())
    for weights in ("float32", "bfloat16"):
        params = jax.tree.map(lambda x, to=weights: x.astype(to), case.params["solver"])
        reader = cached(case, tmp_path / weights, "auto", often, params=params)
        assert reader._layout.dtype == weights


def test_damage_is_told(tmp_path, case):
    reader = cached(case, tmp_path)
    with pytest.raises(InputError, match="are damaged; delete it"):
        reader._layout.decode((0, 0), b"\x05\x00\x00\x00short")


def test_a_damaged_index_gives_no_other_record(tmp_path, case):
    reader = cached(case, tmp_path)
    one, other, *_ = reader._place
    reader._place[one], reader._place[other] = reader._place[other], reader._place[one]
    with pytest.raises(InputError, match="are damaged; delete it"):
        reader.read([one])


def test_on_a_mesh(tmp_path, case):
    examples = on_mesh(case.examples, mesh_of(2, 2, 1))
    plain = cached(case, tmp_path / "plain")
    spread = cache_hidden_states(
        "solver",
        folder=tmp_path / "mesh",
        model=case.spec.model("solver"),
        params=examples.renderer.system.agents["solver"].params,
        examples=examples,
        source=ROWS,
        schedule=SCHEDULE,
        seed=SEED,
        dtype="float32",
        key={},
    )
    pairs = scheduled(case.examples, SCHEDULE, SEED, len(ROWS))
    x, y = plain.read(pairs), spread.read(pairs)
    assert (x.ids_BN == y.ids_BN).all()
    np.testing.assert_allclose(x.h_BND, y.h_BND, rtol=0, atol=2e-5)
