"""Loading trained systems by name, and asking them."""

import json
import shutil

import jax
import numpy as np
import pytest

import rmas
from rmas.checksums import write_checked
from rmas.errors import InputError
from rmas.experiment.links import write_links
from rmas.experiment.stored import find_settings
from support.commands import ROOT
from support.experiments import experiment

QUESTIONS = [
    "start 4 ; one add 14 mul 6 mix 10 ; two add 3 mul 2 mix 1 ; three add 0 mul 16 mix 5 ; "
    f"stop {stop} ?"
    for stop in ("one", "two", "three")
]
GOLDENS = ROOT / "tests" / "system" / "released_goldens"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir as training leaves it, with untrained links."""
    made = experiment(tmp_path_factory.mktemp("run"), limits__max_new_tokens=12)
    write_links(made.workdir / "outer" / "links", made.untrained_links(), made.manifest())
    path = made.workdir / "settings.json"
    path.write_text(json.dumps(made.settings.to_dict()))
    return made


@pytest.fixture(scope="module")
def system(run):
    return rmas.load(run.workdir)


def same(one, other) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_one_question_and_many(system):
    one = system.ask(QUESTIONS[1], rounds=2)
    assert isinstance(one, rmas.Reply)
    assert str(one) == one.text
    assert one.thoughts is None
    assert one.counts["planner"]["latent_steps"] == 16
    many = system.ask(QUESTIONS, rounds=2, batch_size=2)
    assert [reply.text for reply in many][1] == one.text
    assert many[1].counts == one.counts
    assert len(many) == 3


def test_rounds_of_training_are_the_default(system):
    assert system.ask(QUESTIONS[0]).counts["planner"]["latent_steps"] == 8 * 3


def test_thoughts(system):
    one = system.ask(QUESTIONS[0], rounds=2, thoughts=True)
    assert one.thoughts["planner"].hidden_RBMD.shape == (2, 1, 8, 96)
    assert one.thoughts["planner"].messages["planner->critic"].shape == (2, 1, 8, 80)
    many = system.ask(QUESTIONS[:2], rounds=2, thoughts=True)
    first = [reply.thoughts["critic"].hidden_RBMD[0] for reply in (one, many[0])]
    assert np.allclose(*first, atol=1e-4)  # batch company changes nothing


def test_text_exchange(system):
    reply = system.ask(QUESTIONS[0], rounds=1, method="text")
    assert set(reply.texts) == {"planner", "critic", "solver"}
    assert reply.counts["planner"]["latent_steps"] == 0


def test_sampling_depends_on_the_seed_and_the_question_alone(system):
    warm = rmas.Sampling(temperature=3.0)
    alone = system.ask(QUESTIONS[2], rounds=2, sampling=warm, seed=3)
    among = system.ask(QUESTIONS[1:], rounds=2, sampling=warm, seed=3)
    assert among[1].text == alone.text
    twice = system.ask([QUESTIONS[2]] * 2, rounds=2, sampling=warm, seed=3)
    assert twice[0].text == alone.text
    other = [system.ask(QUESTIONS[2], rounds=2, sampling=warm, seed=n).text for n in range(4, 8)]
    assert set(other) != {alone.text}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"method": "speech"}, "method 'speech' is unknown; known: latent, text"),
        ({"method": "text", "thoughts": True}, "thoughts belong to the method latent"),
    ],
)
def test_what_cannot_be_asked(system, options, words):
    with pytest.raises(InputError, match=words):
        system.ask(QUESTIONS[0], **options)


def test_a_folder_of_links(run, system, tmp_path):
    """In its workdir it brings the settings; elsewhere agents must be named."""
    inside = rmas.load(run.workdir / "outer" / "links")
    assert same(inside.links, system.links)
    assert inside.settings.limits.latent_steps == 8
    alone = tmp_path / "links"
    shutil.copytree(run.workdir / "outer" / "links", alone)
    with pytest.raises(InputError, match=r"does not tell where the agents are; give them, as agen"):
        rmas.load(alone)
    agents = run.settings.system.agents
    loaded = rmas.load(alone, agents=agents, dtype="float32", mesh="single")
    assert same(loaded.links, system.links)
    assert loaded.settings.limits.latent_steps == 8
    assert loaded.system.prompts.name == system.system.prompts.name


def test_links_of_other_agents_are_refused(run, tmp_path):
    agents = dict(run.settings.system.agents) | {"critic": run.settings.system.agents["planner"]}
    with pytest.raises(InputError, match="were trained with another agents"):
        rmas.load(run.workdir, agents=agents)


@pytest.mark.parametrize(("rounds", "warned"), [(3, False), (4, True)])
def test_more_rounds_than_the_links_were_trained_for_are_told(run, rounds, warned, caplog):
    trained = run.settings.outer.rounds
    assert trained == 3
    run.trained_links(rounds=rounds)
    assert (f"for at most {trained} rounds, not for 4" in caplog.text) == warned


def test_the_same_where_a_loaded_system_is_asked(system, caplog):
    for method, told in (("text", 0), ("latent", 1)):
        with pytest.raises(InputError, match="batch_size is -1; it must be at least 1"):
            system.ask("q", rounds=4, method=method, batch_size=-1)
        system.ask([], rounds=4, method=method)
        assert caplog.text.count("for at most 3 rounds, not for 4") == told


def test_a_released_system_by_its_style():
    system = rmas.load(
        "sequential_scaled",
        root=GOLDENS / "root",
        prompts=str(GOLDENS / "prompts.json"),
        task_family="math",
        dtype="float32",
        mesh="single",
    )
    assert system.form == "ln_res"
    reply = system.ask("What is 2+2?", rounds=1)
    assert reply.counts["planner"]["latent_steps"] == 32


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("nowhere/at/all", "is no folder|is not a folder"),
        (str(ROOT / "tests"), "is not a trained workdir .* nor a folder of links"),
    ],
)
def test_what_is_not_a_system(where, words):
    with pytest.raises(InputError, match=words):
        rmas.load(where)


def test_a_root_without_a_style(tmp_path):
    with pytest.raises(InputError, match="root belongs to a released system"):
        rmas.load(tmp_path, root=tmp_path)


def test_damaged_settings_are_one_line(run, tmp_path):
    (tmp_path / "settings.json").write_text('{"outer": {"rounds": 0}}')
    with pytest.raises(InputError, match=r"settings.json: outer.rounds is 0; it must be at least"):
        rmas.load(tmp_path)
    (tmp_path / "settings.json").write_text("[1]")
    with pytest.raises(InputError, match=r"settings.json is not a JSON object"):
        rmas.load(tmp_path)
    write_checked(tmp_path / "settings.json", run.settings.to_dict())
    text = (tmp_path / "settings.json").read_text()
    for damaged in (text[:-9], text.replace('"seed": 0', '"seed": 1')):
        (tmp_path / "settings.json").write_text(damaged)
        with pytest.raises(InputError, match=r"settings.json.*delete it, and give the command of"):
            rmas.load(tmp_path)


@pytest.mark.parametrize("made", ["outer/links", "outer/checkpoints", "inner/planner/links"])
def test_settings_that_are_gone_from_a_training(made, tmp_path):
    assert find_settings(tmp_path) is None
    (tmp_path / made).mkdir(parents=True)
    told = rf"settings.json is missing, the settings of what was trained .*\({made}\); restore it"
    with pytest.raises(InputError, match=told):
        rmas.load(tmp_path)


def test_a_hub_repository_of_links(run, monkeypatch, tmp_path):
    """Links that were published: where agents are on the Hub, they are found there."""
    from rmas.experiment import answering
    from rmas.weights.hub import Located

    folder = tmp_path / "snapshot"
    shutil.copytree(run.workdir / "outer" / "links", folder)
    asked = []

    def resolve(name, patterns):
        asked.append((name, patterns))
        return Located(folder, name, "c0ffee")

    monkeypatch.setattr(answering.hub, "resolve", resolve)
    with pytest.raises(InputError, match="does not tell where the agents are"):
        rmas.load("owner/links@main")
    assert asked == [("owner/links@main", ("links.safetensors", "manifest.json"))]
