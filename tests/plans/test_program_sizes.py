"""Programs do not grow with layers or rounds: what compiles in seconds for few does for many."""

import pytest

from experiments.benchmarks.uniform_systems import count_operations, uniform_system
from rmas.plans import programs
from rmas.system.sampling import Sampling
from support.fake_devices import mesh_of


def think(layers: int, rounds: int, agents: int = 2) -> str:
    """The lowered program of all latent turns. On two devices all layers are in scans."""
    system = uniform_system(layers, agents, mesh_of(data=2))
    program = programs.think(system, steps=3, rounds=rounds, rows=2, tokens=16)
    return program.lowered.as_text()


def decode(layers: int) -> str:
    """The lowered program of a chunk of tokens."""
    system = uniform_system(layers, 1, mesh_of(data=2))
    agent = system.topology.output
    start = programs.decode_start(system, agent, rows=2, positions=16)
    state = programs.widen(system, start.outputs, size=1).outputs
    return programs.decode_chunk(system, agent, state, Sampling()).lowered.as_text()


@pytest.mark.parametrize(("more", "fewer"), [((8, 2), (2, 2)), ((2, 5), (2, 2))])
def test_latent_turns_are_as_large_for_more_layers_and_rounds(more, fewer):
    texts = think(*more), think(*fewer)
    assert count_operations(texts[0]) == count_operations(texts[1]) > 500


def test_a_chunk_of_tokens_is_as_large_for_more_layers():
    assert count_operations(decode(8)) == count_operations(decode(2)) > 200


def test_each_agent_adds_as_much():
    two, three, four = (count_operations(think(2, 2, agents)) for agents in (2, 3, 4))
    assert three - two == four - three > 100


def test_an_agent_is_lowered_once_for_all_its_turns():
    assert think(2, 3, agents=3).count("func.func private @rollout") == 3


def test_operations_are_counted():
    text = think(2, 1, agents=1)
    lines = [line for line in text.splitlines() if "stablehlo." in line]
    assert 0 < len(lines) <= count_operations(text) < len(text.splitlines())
