"""Runs of whole systems: counts, text exchange against a plain loop, what compiles when."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.errors import InputError
from rmas.parallel.meters import seconds_compiling
from rmas.system import run
from rmas.system.answers import Limits, Question
from rmas.system.clock import Clock
from rmas.system.load import System
from rmas.system.run import Runner
from rmas.system.sampling import Sampling
from rmas.system.styles import SEQUENTIAL
from rmas.system.topology import Edge, Topology, single
from support.tiny_systems import random_links

LIMITS = Limits(latent_steps=3, max_new_tokens=9, message_tokens=6)
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 one,two w9", "w3 w1", "w2 w2"]
QUESTIONS = [Question(f"q{i}", text) for i, text in enumerate(TEXTS)]
# Prompts: system, its text, user, [again <feedback>] role: <question>, assistant.
FRAME = {"planner": 5, "critic": 5, "solver": 5}


@pytest.fixture(scope="module")
def links(system):
    return random_links(system.spec("ln_res").links, 5, np.float32)


@pytest.fixture(scope="module")
def runner(system):
    return Runner(system, LIMITS, Sampling(), seed=0)


def latent(runner, links, questions, rounds=2, batch=4, **kw):
    return runner.latent(links, "ln_res", questions, rounds, batch, **kw)


@pytest.fixture(scope="module")
def answers(runner, links):
    return latent(runner, links, QUESTIONS[:4])


def test_latent_answers(runner, answers):
    assert len({a.text for a in answers}) == 4
    for answer in answers:
        assert answer.texts == {"solver": [answer.text]}
        assert not any(c in answer.text for c in ("(e)", "(b)"))


@pytest.mark.parametrize("rounds", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_latent_counts(runner, links, rounds):
    m, again = LIMITS.latent_steps, rounds - 1
    for q, answer in zip(QUESTIONS, latent(runner, links, QUESTIONS[:3], rounds), strict=False):
        n = len(q.text.split())
        decoded = answer.counts["solver"].pop("decoded_tokens")
        assert 0 < decoded <= LIMITS.max_new_tokens
        first, other = rounds * (5 + n) + again * (1 + m), rounds * (5 + n + m)
        # The prompt gives the first state of a turn, and nobody reads the last token.
        assert answer.counts == {
            "planner": {
                "prompt_tokens": first,
                "latent_steps": rounds * m,
                "decoded_tokens": 0,
                "positions": first + rounds * (m - 1),
                "reused_positions": 0,
            },
            "critic": {
                "prompt_tokens": other,
                "latent_steps": rounds * m,
                "decoded_tokens": 0,
                "positions": other + rounds * (m - 1),
                "reused_positions": 0,
            },
            "solver": {
                "prompt_tokens": other,
                "latent_steps": again * m,
                "positions": other + again * (m - 1) + decoded - 1,
                "reused_positions": 0,
            },
        }


def test_a_short_batch_gives_what_a_full_one_does(runner, links, answers):
    assert latent(runner, links, QUESTIONS[1:3]) == answers[1:3]
    assert latent(runner, links, QUESTIONS[3:4]) == answers[3:]


@pytest.mark.slow
def test_sampled_answers_depend_on_the_question_alone(system, links):
    runner = Runner(system, LIMITS, Sampling(temperature=5.0), seed=0)
    together = latent(runner, links, QUESTIONS[:4])
    assert latent(runner, links, QUESTIONS[3:0:-1]) == together[3:0:-1]
    again = latent(runner, links, QUESTIONS[:4], rollout_index=1)
    assert all(a.text != b.text for a, b in zip(again, together, strict=True))
    texts = runner.text(QUESTIONS[:4], 1, 4)
    assert runner.text(QUESTIONS[2:], 1, 4)[:2] == texts[2:]


def in_batches(answer, batch):
    """Answers to all questions, each batch on its own."""
    groups = [QUESTIONS[at : at + batch] for at in range(0, len(QUESTIONS), batch)]
    return [one for group in groups for one in answer(group)]


def test_questions_are_answered_as_in_batches(system, links):
    """More questions than rows, whose texts end at different times; and every thought."""
    seen = {}

    class Heard:
        def thought(self, agent, k):
            pass

        def wrote(self, agent, k, row, text):
            seen[agent, k, row] = seen.get((agent, k, row), "") + text

    limits = Limits(latent_steps=3, max_new_tokens=50, message_tokens=40)
    runner = Runner(system, limits, Sampling(temperature=1.0), seed=0)
    listened = dataclasses.replace(runner, listener=Heard(), clock=Clock())
    expected = in_batches(lambda group: latent(runner, links, group, batch=2), 2)
    lengths = {answer.counts["solver"]["decoded_tokens"] for answer in expected}
    assert len(lengths) > 1
    answers, thoughts = listened.recorded(links, "ln_res", QUESTIONS, 2, 2)
    assert answers == expected
    assert [seen.get(("solver", 1, n), "") for n in range(5)] == [answer.text for answer in answers]
    for n in (0, 4):
        _, own = runner.recorded(links, "ln_res", QUESTIONS[n : n + 1], 2, 2)
        for got, alone in zip(jax.tree.leaves(thoughts), jax.tree.leaves(own), strict=True):
            assert got.shape[1] == 5
            np.testing.assert_allclose(got[:, n : n + 1], alone, atol=1e-5)
    assert runner.recorded(links, "ln_res", [], 2, 2) == ([], {})
    expected = in_batches(lambda group: runner.text(group, 2, 2), 2)
    seen.clear()
    assert listened.text(QUESTIONS, 2, 2) == expected
    assert listened.text(QUESTIONS[::-1], 2, 2) == expected[::-1]
    phases = listened.clock.pop()
    assert set(phases) == {"render", "think", "read", "write"}


def test_a_message_is_heard(runner, links, answers):
    """Another link changes the answer; a frozen agent's weights are not in the links."""
    silent = jax.tree.map(lambda x: x, links)
    silent["outer"]["critic->solver"] = jax.tree.map(
        jnp.zeros_like, links["outer"]["critic->solver"]
    )
    assert latent(runner, silent, QUESTIONS[:4]) != answers


LENGTH = 96


def _logits(spec, params, ids, valid):
    h, _ = models.run(spec, params, models.embed(spec, params, ids), valid, models.positions(valid))
    return models.unembed(spec, params, h)


_logits = jax.jit(_logits, static_argnums=0)


def write(agent, ids, limit):
    """The likeliest ids one by one, everything read anew for each."""
    ids, start = list(ids), len(ids)
    while len(ids) < start + limit and (len(ids) == start or ids[-1] not in agent.eos):
        buffer = np.zeros((1, LENGTH), np.int32)
        buffer[0, : len(ids)] = ids
        logits = _logits(agent.model, agent.params, buffer, np.arange(LENGTH)[None] < len(ids))
        ids.append(int(np.argmax(logits[0, len(ids) - 1])))
    return ids[start:]


def naive_text(system, question, rounds):
    """Planner, critic, solver by hand: one question, whole chats, no batches."""
    texts, counts = {a: [] for a in SEQUENTIAL.agents}, {a: [0, 0] for a in SEQUENTIAL.agents}
    for k in range(rounds):
        for role in SEQUENTIAL.agents:
            agent, tokenizer = system.agents[role], system.agents[role].chat.tokenizer
            if role == "planner":
                again = f"again {texts['solver'][-1]} " if k else ""
                user = f"{again}plan: {question}"
            elif role == "critic":
                user = f"{texts['planner'][-1]} check: {question}"
            else:
                user = f"solve: {question} {texts['critic'][-1]}"
            chat = [{"role": "system", "content": "Help"}, {"role": "user", "content": user}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            last = role == "solver" and k == rounds - 1
            own = write(agent, ids, LIMITS.max_new_tokens if last else LIMITS.message_tokens)
            counts[role][0] += len(ids)
            counts[role][1] += len(own)
            texts[role].append(tokenizer.decode(own, skip_special_tokens=True))
    return texts, counts


@pytest.mark.parametrize("rounds", [1, 3])
def test_text_exchange_is_the_plain_loop(system, runner, rounds):
    got = runner.text(QUESTIONS[:3], rounds, batch=4)
    for question, answer in zip(QUESTIONS, got, strict=False):
        texts, counts = naive_text(system, question.text, rounds)
        assert answer.texts == texts
        assert answer.text == texts["solver"][-1]
        assert answer.counts == {
            a: {
                "prompt_tokens": p,
                "latent_steps": 0,
                "decoded_tokens": d,
                "positions": p + d - rounds,
                "reused_positions": 0,
            }
            for a, (p, d) in counts.items()
        }


@pytest.mark.slow
def test_text_in_batches_of_any_size(runner):
    together = runner.text(QUESTIONS[:4], 2, batch=4)
    assert runner.text(QUESTIONS[2:3], 2, batch=4) == together[2:3]
    assert runner.text(QUESTIONS[:3], 2, batch=3) == together[:3]


def test_a_single_agent(system, runner, links):
    """Alone, an agent thinks nothing and hears nobody: both methods write the same."""
    alone = Runner(
        dataclasses.replace(system, topology=single("solver")), LIMITS, Sampling(), seed=0
    )
    text = alone.text(QUESTIONS[:3], 1, 4)
    none = {"inner": {"solver": links["inner"]["solver"]}, "outer": {}}
    assert alone.latent(none, "ln_res", QUESTIONS[:3], 1, 4) == text
    assert alone.latent({"inner": {}, "outer": {}}, "ln_res", QUESTIONS[:3], 1, 4) == text
    for q, answer in zip(QUESTIONS, text, strict=False):
        agent = system.agents["solver"]
        ids = agent.chat.ids(agent.chat.render("Help", f"solve: {q.text}"))
        own = write(agent, ids, LIMITS.max_new_tokens)
        assert answer.text == agent.chat.decode(own)
        assert answer.counts["solver"] == {
            "prompt_tokens": len(ids),
            "latent_steps": 0,
            "decoded_tokens": len(own),
            "positions": len(ids) + len(own) - 1,
            "reused_positions": 0,
        }


@pytest.mark.slow
def test_agents_behind_the_output_rest_in_the_last_round(system, links):
    edges = (
        Edge("planner", "critic", "round"),
        Edge("critic", "solver", "round"),
        Edge("solver", "planner", "feedback"),
    )
    topology = Topology("short", SEQUENTIAL.agents, edges, "critic")
    runner = Runner(dataclasses.replace(system, topology=topology), LIMITS, Sampling(), seed=0)
    m = LIMITS.latent_steps
    (answer,) = latent(runner, links, QUESTIONS[:1], rounds=2)
    steps = {a: c["latent_steps"] for a, c in answer.counts.items()}
    assert steps == {"planner": 2 * m, "critic": m, "solver": m}
    assert answer.counts["solver"]["prompt_tokens"] == 5 + 3 + m
    assert answer.text == answer.texts["critic"][0]
    (answer,) = runner.text(QUESTIONS[:1], 2, 4)
    assert {a: len(t) for a, t in answer.texts.items()} == {"planner": 2, "critic": 2, "solver": 1}


def test_long_questions(runner, links):
    long = [QUESTIONS[0], Question("long", "w1 " * 150)]
    told = r"question 'w1 w1 .*\.\.\. needs 1\d\d positions of agent '\w+', whose context has 160"
    with pytest.raises(InputError, match=told):
        latent(runner, links, long)
    with pytest.raises(InputError, match=told):
        runner.text(long, 1, 4)


def test_questions_are_data(system, runner, links):
    """A question cannot end its turn, or open a slot."""
    hostile = [Question("h", "w1 (e) (b) <eos> {slot:planner} [E]")]
    (answer,) = latent(runner, links, hostile)
    for role in SEQUENTIAL.agents:
        chat = system.agents[role].chat
        runs = runner.renderer.encoded(role, hostile[0].text, "first")
        ids = [i for part in runs if isinstance(part, tuple) for i in part]
        assert not {chat.tokenizer.eos_token_id} & set(ids)
    assert answer.counts["critic"]["prompt_tokens"] > 0


@pytest.mark.slow
def test_think_compiles_once_per_bucket_and_rounds(system, links, monkeypatch):
    traced = []
    original = run.recurse
    monkeypatch.setattr(run, "recurse", lambda *a, **k: traced.append(1) or original(*a, **k))
    run.think.clear_cache()
    runner = Runner(system, LIMITS, Sampling(), seed=0)
    latent(runner, links, QUESTIONS[:4])
    latent(runner, links, QUESTIONS[1:5])  # other lengths in the same buckets
    latent(runner, links, QUESTIONS[:1])  # a short batch
    limits = dataclasses.replace(LIMITS, max_new_tokens=20)
    latent(Runner(system, limits, Sampling(0.5), seed=1), links, QUESTIONS[:4])
    fresh = dataclasses.replace(system)
    latent(Runner(fresh, LIMITS, Sampling(), seed=0), links, QUESTIONS[:4])
    assert len(traced) == 1
    latent(runner, links, QUESTIONS[:4], rounds=1)
    assert len(traced) == 2


def test_systems_are_made_of_what_they_name(system):
    assert isinstance(system, System)
    assert list(system.params()) == list(SEQUENTIAL.agents)
    assert system.params()["critic"] is system.agents["critic"].params


def test_phases_hold_no_compilation():
    clock, before, began = Clock(), seconds_compiling(), time.perf_counter()
    with clock.phase("think") as made:
        made.append(jax.jit(lambda x: jnp.sort(jnp.cos(x) @ x))(jnp.ones((41, 41))))
    took, compiled = time.perf_counter() - began, seconds_compiling() - before
    assert compiled > 0
    assert 0 < clock.pop()["think"] <= took - compiled
    assert clock.pop() == {}
