"""Inner training: accumulation, validation, cached hidden states and meshes, in combination."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rmas.tasks.pipeline import batches
from rmas.training.hidden_state_cache import cache_hidden_states, draw_rounds
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.objectives import inner_loss
from rmas.training.optim import Optim
from support.fake_devices import mesh_of
from support.tiny_training import PAIR, Case, make_examples, make_rows, on_mesh

ROWS, MEASURED, AGENT, SEED, STEPS = make_rows(10), make_rows(18)[10:], "solver", 1, 3
SCHEDULE = Schedule(
    Optim(steps=STEPS, lr=1e-2, warmup_steps=0), batch_size=4, save_every=2, validation_rows=8
)


RELEASE = {"first_round": True, "cut": "right", "max_length": 29}


@pytest.fixture(scope="module", params=["rows", "release"])
def case(request):
    """A mean over rows of any round, or the release's: over tokens, of first prompts, cut."""
    release = request.param == "release"
    own = Case(make_examples(PAIR, np.float32, **(RELEASE if release else {})))
    own.context = dataclasses.replace(own.context, token_mean=release)
    return own


def run(case, folder, *, accumulate=1, cached=False, mesh=None):
    """The trained link, and the lines of metrics and of times."""
    examples = case.examples if mesh is None else on_mesh(case.examples, mesh)
    params = examples.renderer.system.agents[AGENT].params
    schedule = dataclasses.replace(SCHEDULE, accumulate=accumulate)
    states = None
    if cached:
        states = cache_hidden_states(
            AGENT,
            folder=folder / "hidden_states",
            model=case.spec.model(AGENT),
            params=params,
            examples=examples,
            source=ROWS,
            schedule=schedule,
            seed=SEED,
            dtype="float32",
            key={},
        )
    link = train_inner(
        AGENT,
        folder=folder,
        context=case.context,
        params=params,
        links=case.links,
        examples=examples,
        source=ROWS,
        schedule=schedule,
        seed=SEED,
        validation=MEASURED,
        cached=states,
    )
    metrics, times = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "timings.jsonl")
    )
    return jax.tree.map(np.asarray, link), metrics, times


@pytest.fixture(scope="module")
def plain(case, tmp_path_factory):
    return run(case, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("accumulate", "cached", "sizes"),
    [(2, False, None), (1, True, None), (2, True, None), (2, True, (1, 2, 1))],
)
def test_combinations_are_the_same_training(tmp_path, case, plain, accumulate, cached, sizes):
    """Links, losses and validation, but for the order of sums."""
    mesh = None if sizes is None else mesh_of(*sizes)
    link, metrics, _ = run(case, tmp_path, accumulate=accumulate, cached=cached, mesh=mesh)
    for x, y in zip(*map(jax.tree.leaves, (link, plain[0])), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5)
    assert ["validation" in line for line in metrics] == [False, True, True]
    for line, wanted in zip(metrics, plain[1], strict=True):
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(line[name], value, rtol=2e-5, atol=1e-5, err_msg=name)


def test_validation_is_the_mean_loss_of_its_rows_each_at_its_round(case, plain):
    link, metrics, _ = plain
    rounds = [k for n in (0, 1) for k in draw_rounds(case.examples, SCHEDULE, SEED, n)]
    assert len(rounds) == len(MEASURED)
    assert (set(rounds) == {0}) == case.examples.first_round
    batch = case.examples.inner(AGENT, MEASURED, rounds)
    tree = {"inner": {AGENT: link}, "outer": {}}
    loss = inner_loss(case.context, AGENT, case.params[AGENT], tree, batch)
    np.testing.assert_allclose(metrics[-1]["validation"], loss, rtol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_tokens_are_counted(tmp_path, case, cached):
    """Those of prompts and texts, or of the texts alone where their states are cached."""
    _, _, times = run(case, tmp_path, cached=cached)
    counted = [round(line["tokens_per_second"] * line["seconds"]) for line in times]
    stream = iter(batches(ROWS, seed=SEED, batch_size=4))
    wanted = []
    for step in range(STEPS):
        rows, rounds = next(stream), draw_rounds(case.examples, SCHEDULE, SEED, step)
        lines = case.examples.inner_lines(AGENT, rows, rounds)
        wanted.append(sum(line.text_length if cached else len(line) for line in lines))
    assert counted == wanted
