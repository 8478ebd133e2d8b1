"""Preambles that are read once: answers, thoughts and counts with them and without, in float64."""

import dataclasses
import gc
import json
import time
import weakref

import jax
import numpy as np
import pytest

from rmas.parallel import param_shardings, put_whole, replicated
from rmas.system import preamble_cache, rendered
from rmas.system.answers import Limits, Question
from rmas.system.encode import Slot
from rmas.system.load import Agent, System
from rmas.system.preamble import preamble_ids
from rmas.system.preamble_cache import PreambleCache
from rmas.system.prompts import from_json
from rmas.system.run import Runner
from rmas.system.sampling import Sampling
from rmas.system.styles import SEQUENTIAL
from rmas.system.topology import single
from rmas.weights.placement import heads_of
from support.fake_devices import mesh_of
from support.tiny_families import family_params, family_spec
from support.tiny_systems import random_links
from support.tiny_training import WORDS, word_tokenizer

LIMITS = Limits(latent_steps=5, max_new_tokens=9, message_tokens=6)
TEXTS = ["ab c", "hi", "def g hi kk l m ab c", "<u> kk l", "m m m"]
QUESTIONS = [Question(f"q{i}", text) for i, text in enumerate(TEXTS)]
PROMPTS = {
    "name": "toy",
    "system": {"default": ""},
    "roles": {
        "planner": {"toy": {"first": "ab {question} c", "later": "ab {question} {slot:solver} m"}},
        "critic": {"toy": {"first": "hi kk {question} {slot:planner} g"}},
        "solver": {"toy": {"first": "l l l {slot:critic} {question}"}},
        "single": {"toy": {"first": "c {question}"}},
    },
}
FAMILIES = {"planner": "gemma3", "critic": "qwen3_5", "solver": "mistral"}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def system():
    """A window, recurrent states, and a window again; prompts with long and short preambles."""
    with jax.enable_x64(True):
        agents = {}
        for n, (name, family) in enumerate(FAMILIES.items()):
            spec = family_spec(family)
            chat = word_tokenizer(n, extra=tuple(f"w{i}" for i in range(42 - 4 - len(WORDS))))
            params = family_params(spec, n, np.float64)
            agents[name] = Agent(spec, params, chat, (0,), f"print {name}")
        return System(SEQUENTIAL, agents, from_json(json.dumps(PROMPTS), "test"), "toy")


@pytest.fixture(scope="module")
def links(system):
    with jax.enable_x64(True):
        return random_links(system.spec("ln_res").links, 5, np.float64)


def make_runner(system, **changes) -> Runner:
    return Runner(system, LIMITS, Sampling(), seed=0, **changes)


def recorded(runner, links, questions=QUESTIONS, rounds=3, batch=5):
    return runner.recorded(links, "ln_res", questions, rounds, batch)


def without_counts(answers):
    return [dataclasses.replace(a, counts={}) for a in answers]


def assert_same(found, wanted):
    (answers, thoughts), (own, expected) = found, wanted
    assert without_counts(answers) == without_counts(own)
    for x, y in zip(jax.tree.leaves(thoughts), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def compile_all(system, links):
    """So that nothing is compiled in what follows."""
    runner = make_runner(system)
    recorded(runner, links)
    runner.text(QUESTIONS, 3, 5)


@pytest.fixture
def whole(system, links, monkeypatch):
    """What the system does where no preamble is read apart."""
    with monkeypatch.context() as patch:
        patch.setattr(rendered, "LEAST", 10**6)
        runner = make_runner(system)
        return recorded(runner, links), runner.text(QUESTIONS, 3, 5)


def test_answers_and_thoughts_are_those_of_whole_prompts(system, links, whole, monkeypatch):
    """Also beside other rows, with an empty row, and where rows do not begin like others."""
    monkeypatch.setattr(rendered, "LEAST", 1)
    runner = make_runner(system)
    assert_same(recorded(runner, links), whole[0])
    assert without_counts(runner.text(QUESTIONS, 3, 5)) == without_counts(whole[1])
    answers, thoughts = whole[0]
    alone = recorded(runner, links, QUESTIONS[2:4])
    assert_same(alone, (answers[2:4], jax.tree.map(lambda x: x[:, 2:4], thoughts)))
    monkeypatch.setattr(rendered.Renderer, "begin", lambda self, agent: (1, 2, 3))
    assert_same(recorded(make_runner(system), links), whole[0])


def test_counts_tell_read_and_reused_positions_apart(system, links, whole, monkeypatch):
    monkeypatch.setattr(rendered, "LEAST", 1)
    runner = make_runner(system)
    for found, wanted in (
        (recorded(runner, links)[0], whole[0][0]),
        (runner.text(QUESTIONS, 3, 5), whole[1]),
    ):
        for question, answer, own in zip(QUESTIONS, found, wanted, strict=True):
            for agent, counts in answer.counts.items():
                reused = 2 * runner.renderer.preamble(agent, question)
                assert counts["reused_positions"] == reused > 0
                assert own.counts[agent]["reused_positions"] == 0
                assert counts["positions"] + reused == own.counts[agent]["positions"]
                for name in ("prompt_tokens", "latent_steps", "decoded_tokens"):
                    assert counts[name] == own.counts[agent][name]


def test_preambles_are_read_once_for_rounds_rollouts_and_methods(system, links, monkeypatch):
    monkeypatch.setattr(rendered, "LEAST", 1)
    compile_all(system, links)
    reads: list = []
    real = preamble_cache._read_rows
    monkeypatch.setattr(
        preamble_cache, "_read_rows", lambda *args: reads.append(args[0]) or real(*args)
    )
    shared = PreambleCache(shared=True)
    one, other = (make_runner(system, preambles=shared) for _ in range(2))
    alone = dataclasses.replace(system, topology=single("planner"))
    recorded(one, links, rounds=1)
    assert len(reads) == 3
    recorded(one, links, rounds=3)
    one.latent(links, "ln_res", QUESTIONS, 2, 5, rollout_index=1)
    other.text(QUESTIONS, 2, 5)
    assert len(reads) == 3
    make_runner(alone, preambles=shared).text(QUESTIONS, 1, 5)
    assert len(reads) == 4  # another prompt
    recorded(one, links, QUESTIONS[:3])
    assert len(reads) == 7  # a batch of other rows
    recorded(one, links)
    assert len(reads) == 7
    recorded(one, links, [Question("other", "kk"), *QUESTIONS[:4]])
    recorded(one, links)
    assert len(reads) == 13  # forgotten while others were asked
    own = make_runner(system)
    own.text(QUESTIONS, 3, 5)
    assert len(reads) == 16
    own.text(QUESTIONS, 3, 5)
    assert len(reads) == 19  # nothing is kept for another run


def test_what_exceeds_the_limit_is_read_again(system, links, whole, monkeypatch):
    monkeypatch.setattr(rendered, "LEAST", 1)
    runner = make_runner(system, preambles=PreambleCache(limit=0))
    assert without_counts(runner.text(QUESTIONS, 3, 5)) == without_counts(whole[1])
    assert not runner.preambles._rows


def test_preamble_ids():
    slot = Slot("a")
    assert preamble_ids([(((1, 2, 3)), slot, (4,)), ((1, 2, 5), slot)]) == (1, 2)
    assert preamble_ids([((1, 2), (3,), slot, (4,)), ((1, 2, 3, 4), slot)]) == (1, 2, 3)
    assert preamble_ids([((1, 2), (3,)), ((1, 2, 3),)]) == (1, 2)  # the last one is read
    assert preamble_ids([(slot, (1,)), (slot, (1,))]) == ()
    assert preamble_ids([((1,),), ((2,), slot)]) == ()
    assert preamble_ids([((1, 2), slot), ((1, 2), slot)]) == (1,)  # the slot may be empty
    assert preamble_ids([((1, 2), slot, (3,)), ((1, 2), slot, (4,))]) == (1, 2)


@pytest.mark.extended  # what other tests have compiled is dropped
def test_seconds_with_compilation_in_them_are_charged_to_nobody(system, monkeypatch):
    """The next run reads again, and is what the others are charged by."""
    monkeypatch.setattr(rendered, "LEAST", 1)
    jax.clear_caches()
    shared = PreambleCache(shared=True)
    runners = [make_runner(system, preambles=shared) for _ in range(3)]
    charged = []
    for runner in runners:
        runner.text(QUESTIONS, 1, 5)
        charged.append(runner.clock.charged)
    assert charged[:2] == [0, 0]
    assert charged[2] == pytest.approx(runners[1].clock.seconds["preamble"])


def test_a_renderer_does_not_outlive_its_run(system):
    runner = make_runner(system)
    runner.renderer.preamble("planner", QUESTIONS[0])
    runner.renderer.begin("planner")
    renderer = weakref.ref(runner.renderer)
    del runner
    gc.collect()
    assert renderer() is None


def test_a_run_is_charged_once_with_what_an_earlier_one_has_read(system, links, monkeypatch):
    """Times of methods do not depend on which of them came first."""
    monkeypatch.setattr(rendered, "LEAST", 1)
    compile_all(system, links)
    shared = PreambleCache(shared=True)

    class Slow:
        def thought(self, agent, k): ...

        def wrote(self, agent, k, row, text):
            time.sleep(0.3)

    one = make_runner(system, preambles=shared, listener=Slow())
    other = make_runner(system, preambles=shared)
    one.text(QUESTIONS, 1, 5)
    spent = one.clock.seconds["preamble"]
    assert spent < 0.3 < one.clock.seconds["write"]
    assert one.clock.charged == 0 < spent
    one.clock.pop()
    for runner in (one, other):
        runner.text(QUESTIONS[:5], 3, 5)
        assert runner.clock.charged == pytest.approx(runner.clock.seconds["preamble"])
        assert runner.clock.charged == pytest.approx(spent)
        runner.clock.pop()
        assert runner.clock.charged == 0


def test_batches_of_a_queue_keep_their_preambles(system, links, whole, monkeypatch):
    monkeypatch.setattr(rendered, "LEAST", 1)
    runner = make_runner(system)
    assert_same(recorded(runner, links, batch=2), whole[0])
    assert without_counts(runner.text(QUESTIONS, 3, 2)) == without_counts(whole[1])


def test_on_a_mesh(system, links, whole, monkeypatch):
    """Rows split over devices, and heads; what all rows begin with is read as one row."""
    monkeypatch.setattr(rendered, "LEAST", 1)
    mesh = mesh_of(2, 1, 2)

    def placed(agent):
        shardings = param_shardings(mesh, agent.params, heads_of(agent.model))
        params = jax.device_put(agent.params, shardings)
        return dataclasses.replace(agent, params=params, mesh=mesh)

    agents = {name: placed(agent) for name, agent in system.agents.items()}
    runner = make_runner(dataclasses.replace(system, agents=agents))
    own = put_whole(links, replicated(mesh))
    assert_same(recorded(runner, own, batch=4), whole[0])
    assert without_counts(runner.text(QUESTIONS, 2, 4)) == without_counts(
        make_runner(system).text(QUESTIONS, 2, 5)
    )
