"""Benchmarks beside PyTorch: the commands as a user runs them, and checks that fail loudly."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import inference_paths, inference_work, random_agents, ratios
from experiments.benchmarks import training_paths as training
from experiments.benchmarks.inference_paths import (
    CACHED,
    INSTALL,
    LATENT,
    TEXT,
    UNCACHED,
    Paths,
    Turns,
    has_pytorch,
)
from experiments.benchmarks.program_times import Figures
from experiments.benchmarks.random_agents import Sizes
from rmas.errors import InputError
from support.commands import run

SIZES, TURNS = Sizes(prompt=40, rows=2), Turns(2, steps=3, new_tokens=4, message_tokens=3)
LITTLE = ("--system=tiny", "--prompt_tokens=40", "--batch=2", "--rounds=2", "--repeats=2")
SHORT = ("--latent_steps=3", "--new_tokens=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny agents."""
    made = tmp_path_factory.mktemp("agents")
    random_agents.write_folders(random_agents.architectures("tiny")[1], made, "float32", 0)
    return made


@pytest.fixture(scope="module")
def topology():
    return random_agents.architectures("tiny")[0]


@pytest.mark.slow
def test_the_ways_to_an_answer(torch, tmp_path):
    file = tmp_path / "times.json"
    done = run("benchmarks.inference", *LITTLE, *SHORT, "--release", f"--json={file}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "warning" not in done.stderr.lower()
    told = json.loads(file.read_text())
    ways = [LATENT, TEXT, CACHED, UNCACHED]
    assert list(told["seconds"]) == ways
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in told["seconds"].values())
    # Every text of both repetitions, and all latents.
    assert told["equal_texts"] == {CACHED: 4, UNCACHED: 4, "of": 4}
    assert 0 < told["agreement"] <= inference_paths.TOLERANCE
    assert list(told["ratios"]) == [f"{way} / {LATENT}" for way in ways[1:]]
    for own in told["ratios"].values():
        assert own["low"] < own["value"] < own["high"]
    assert list(told["phases"][LATENT]) == ["render", "preamble", "think", "write", "host"]
    assert list(told["phases"][TEXT]) == ["render", "preamble", "read", "write", "host"]
    for way, phases in told["phases"].items():
        sums = [sum(each) for each in zip(*phases.values(), strict=True)]
        assert sums == pytest.approx(told["seconds"][way])
    assert told["compiling"][LATENT] > 0
    assert told["floors"][LATENT]["prefill"]["flops"] > 0
    assert set(told["threads"]) == {"XLA", "PyTorch"}
    for line in (
        *(f"| {way} |" for way in ways),
        "| - prefill of whole prompts, alone |",
        "texts are equal",
    ):
        assert line in done.stdout
    assert INSTALL not in done.stdout


@pytest.mark.slow
def test_without_pytorch():
    flags = ("--nopytorch",) if has_pytorch() else ()
    flags = (*flags, "--rounds=1", "--message_tokens=5")
    done = run("benchmarks.inference", *LITTLE, *SHORT, *flags)
    assert done.returncode == 0, done.stderr
    assert f"| {LATENT} |" in done.stdout and CACHED not in done.stdout
    assert "messages of 5 tokens" in done.stdout
    assert (INSTALL in done.stdout) == (not has_pytorch())


@pytest.mark.slow
def test_steps_of_training(torch, tmp_path):
    file = tmp_path / "times.json"
    done = run("benchmarks.training", *LITTLE, "--text_tokens=4", f"--json={file}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "warning" not in done.stderr.lower()
    told = json.loads(file.read_text())
    inner = [f"inner, {agent}" for agent in ("planner", "critic", "solver")]
    assert list(told["steps"]) == ["outer", *inner]
    for name, own in told["steps"].items():
        assert 0 < own["agreement"] <= training.TOLERANCE
        ways = ["rmas", "PyTorch, row by row"]
        ways[1:1] = ["rmas, cached states"] * (name != "outer")
        assert list(own["seconds"]) == ways
        assert own["floor"] > 0 and own["compiling"]["rmas"] > 0
        first, *others = own["losses"].values()
        assert len(first) == 3 and len(set(first)) == 3  # each step has other rows
        for losses in others:
            assert losses == pytest.approx(first, rel=1e-4)
        assert f"| {name}: PyTorch, row by row / rmas |" in done.stdout


@pytest.mark.parametrize(
    ("command", "flags", "line"),
    [
        ("inference", ["--system=large"], "--system=large is no system; known: small, tiny"),
        ("inference", ["--system=Qwen/Qwen3-1.7B"], "three names with commas"),
        ("inference", ["--prompt_tokens=9"], "--prompt_tokens=9; at least 24"),
        ("inference", ["--latent_steps=4000"], "its context has 4096; lower --prompt_tokens"),
        ("inference", ["--release", "--nopytorch"], "--release needs PyTorch"),
        ("inference", ["--dtype=float16"], "--dtype"),
        ("training", ["--parts=outer,all"], "--parts: 'all' is unknown; known: outer, inner"),
        (
            "training",
            ["--text_tokens=4000"],
            "its context has 4096; lower --prompt_tokens, --text_tokens",
        ),
        ("inference", ["--json=gone/a.json"], "--json=gone/a.json: there is no folder gone; make"),
        ("training", ["--json=gone/a.json"], "--json=gone/a.json: there is no folder gone; make"),
        ("refill", ["--json=gone/a.json"], "--json=gone/a.json: there is no folder gone; make"),
        ("refill", ["--json=/"], "/ is a folder; a file must be there, or nothing"),
    ],
)
def test_wrong_flags(command, flags, line):
    done = run(f"benchmarks.{command}", *flags)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and line in done.stderr


def test_weights_that_do_not_fit_are_refused(tmp_path):
    specs = random_agents.architectures("sequential_light")[1]
    told = r"^here needs about .* GiB of memory for 4\.5 billion .*; choose --less$"
    with pytest.raises(InputError, match=told):
        random_agents.check_memory(specs, 10**6, 4, tmp_path, "here", "--less")
    tiny = random_agents.architectures("tiny")[1]
    random_agents.check_memory(tiny, 2, 4, tmp_path, "here", "--less")


def test_refilling_is_measured_in_turns(tmp_path):
    file = tmp_path / "refill.json"
    little = ("--size=tiny", "--batch=4", "--texts=12", "--prompt=8", "--limit=16", "--repeats=2")
    done = run("benchmarks.refill", *little, f"--json={file}")
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    assert told["ratio"]["low"] <= told["ratio"]["value"] <= told["ratio"]["high"]
    assert len(told["static"]) == len(told["refilled"]) == 2
    assert f"seconds, static / refilled: {told['ratio']['value']:.2f}, 95 %" in done.stdout


@pytest.mark.parametrize("system", ["small", "tiny", "sequential_scaled", "mixture"])
def test_systems(system):
    topology, specs = random_agents.architectures(system)
    assert tuple(specs) == topology.agents
    if system == "small":
        sizes = random_agents.parameters(specs).values()
        assert all(8e6 < size < 17e6 for size in sizes)
        assert {spec.family for spec in specs.values()} == {"qwen3", "llama", "gemma3"}


def test_prompts_have_their_lengths(folder, topology):
    paths = Paths.load(topology, folder, Sizes(64, rows=6), TURNS, "float32", pytorch=False)
    for prompt in paths.prompts(0).values():
        lengths = np.asarray(prompt.valid_BT).sum(axis=-1)
        slots = (np.asarray(prompt.slot_BT) >= 0).sum(axis=-1)
        assert (lengths - slots).max() == 64
        assert (lengths - slots).tolist() == [[64, 63, 62, 61, 64, 63]] * 2
    rows = random_agents.make_rows(Sizes(64, rows=6), topology, 3, text=33)
    again = random_agents.make_questions(Sizes(64, rows=6), 3)
    assert [row.question for row in rows] == [q.text for q in again]
    assert [len(row.text("critic", 1).split()) for row in rows] == [32, 30, 28, 26, 32, 30]
    assert random_agents.make_questions(Sizes(64, rows=6), 4)[0].text != again[0].text


@pytest.mark.slow
def test_other_latents_are_not_timed(torch, folder, topology):
    paths = Paths.load(topology, folder, SIZES, TURNS, "float32", pytorch=True)
    assert paths.check(release=False) <= inference_paths.TOLERANCE
    bias = paths.pytorch.outer["critic->solver"].ln_target.bias
    with torch.no_grad():
        bias[0] += 1e-3
    with pytest.raises(InputError, match=r"messages critic->solver differ by .* in round 1, row 1"):
        paths.check(release=False)
    with torch.no_grad():
        bias[0] = float("nan")
    with pytest.raises(InputError, match=r"agree: states of planner differ by nan .* round 2"):
        paths.check(release=False)


def test_other_texts_are_not_timed(torch, folder, topology):
    paths = Paths.load(topology, folder, SIZES, TURNS, "float32", pytorch=True)
    with torch.no_grad():
        head = paths.pytorch.models["solver"].get_output_embeddings().weight
        head.copy_(head.flip(0))
    with pytest.raises(InputError, match="PyTorch with cache: row 0 differs from token 0 on"):
        paths.check(release=False)


def test_other_gradients_are_not_timed(torch, folder, topology, tmp_path):
    from experiments.benchmarks.pytorch_training import PytorchTraining

    system = random_agents.load_system(topology, folder, SIZES, "float32")
    setup = training.TrainingSetup(system, SIZES, rounds=2, text=4)
    rows = training.InnerRows(setup, "critic", 2, tmp_path)
    ours = setup.inner("critic")
    other = PytorchTraining.load(topology, folder, setup.links).inner("critic", training.OPTIM)
    with torch.no_grad():
        other.link.proj1.weight[0, 0] += 1e-2
    losses = ours.step(rows.states(0)), other.step(rows.arrays(0))
    with pytest.raises(InputError, match=r"inner .* do not agree: the gradient of critic, \w+"):
        training.compare(ours, other, losses, "inner")
    with pytest.raises(InputError, match="the loss differs"):
        training.compare(ours, other, (losses[0], 3 * losses[0]), "inner")


def test_ratios_have_intervals_of_their_logarithms():
    found = ratios.ratio([2.0, 4.0, 8.0], [1.0, 1.0, 1.0])
    value, low, high = found
    assert value == pytest.approx(4)
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert high == pytest.approx(4 * 2 ** (4.30265 / 3**0.5), rel=1e-4)
    assert low == pytest.approx(16 / high)
    single = ratios.ratio([3.0], [2.0])
    assert single == (pytest.approx(1.5), None, None)
    cells = [ratios.ratio_cells(ratios.named(own)) for own in (found, single)]
    assert cells == [["4.00", "0.71 - 22.38"], ["1.50", ""]]
    with pytest.raises(ValueError, match="a ratio needs a repetition"):
        ratios.ratio([], [])


def test_ways_take_turns_to_be_first():
    order = []
    ways = {name: lambda n, name=name: order.append((n, name)) or name for name in "abc"}
    found = ratios.alternate(ways, 4)
    assert [name for _, name in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert [n for n, _ in order] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert found["b"].results == ("b",) * 4 and len(found["b"].seconds) == 4
    assert ratios.markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_floors_count_what_is_kept(folder, topology):
    paths = Paths.load(topology, folder, SIZES, TURNS, "float32", pytorch=False)
    prompts = paths.prompts(0)
    preambles, answers = paths.preambles(0), paths.text(0)
    # What the engine did not read again in the second round.
    for agent, kept in preambles.items():
        reused = [answer.counts[agent]["reused_positions"] for answer in answers]
        assert kept > 16 and np.mean(reused) == pytest.approx(kept * (TURNS.rounds - 1), abs=1)
    counter, lengths = paths.counter(np.float32), inference_work.lengths_of(prompts, topology)
    again, kept = (counter.latent(lengths, own, 3, 4) for own in ({}, preambles))
    assert inference_work.total(again["latent steps"]) == inference_work.total(kept["latent steps"])
    total, less = (inference_work.total(own["prefill"]) for own in (again, kept))
    assert 0 < less.flops < 0.8 * total.flops
    once = inference_work.total(kept["preamble"])
    assert again["preamble"] == [] and len(kept["preamble"]) == 3
    # A prompt that is read in two portions needs the same products.
    assert once.flops * TURNS.rounds + less.flops == pytest.approx(total.flops)
    # One latent step of one turn costs its weights' bytes, whatever the rate of products.
    step = kept["latent steps"][0]
    slow = Figures(bandwidth=step.bytes, flops=1e30)
    assert inference_work.floor([step, step], slow) == pytest.approx(2)
    assert len(kept["prefill"]) == 6 and len(kept["write"]) == 4
    read, wrote = (
        inference_work.counted(answers, topology, TURNS.rounds, name)
        for name in ("prompt_tokens", "decoded_tokens")
    )
    text, whole = (counter.text(read, wrote, own) for own in (preambles, {}))
    reads = [inference_work.total(own["read"]) for own in (text, whole)]
    assert 0 < reads[0].flops < 0.8 * reads[1].flops
    assert len(text["read"]) == 6 and inference_work.total(text["write"]).flops > 0


def test_random_weights_stay_calm(folder, topology):
    """A small change of an input stays one, so that rounding does not decide texts."""
    paths = Paths.load(topology, folder, SIZES, TURNS, "float32", pytorch=False)
    args = (inference_paths.FORM, random_agents.make_questions(SIZES, 0), 2, 2)
    _, before = paths.latent_runner.recorded(paths.links, *args)
    moved = jax.tree.map(lambda x: x * (1 + 1e-4), paths.links)
    other = dataclasses.replace(paths, links=moved)
    _, after = other.latent_runner.recorded(moved, *args)
    for agent in before:
        change = inference_paths.relative_difference(
            after[agent].hidden_RBMD, before[agent].hidden_RBMD
        )
        assert 0 < change.max() < 1e-2
