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


TEXT = """
module @jit_f attributes {mhlo.num_partitions = 2 : i32} {
  sdy.mesh @mesh = <["data"=2]>
  func.func public @main(%arg0: tensor<f32>) -> (tensor<f32> {jax.result_info = "result"}) {
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<f32>
     cond {
      %1 = stablehlo.compare  LT, %iterArg, %c : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1 = func.call @g(%iterArg_0) : (tensor<f32>) -> tensor<f32>
      stablehlo.return %iterArg, %1 : tensor<i32>, tensor<f32>
    }
    return %0#1 : tensor<f32>
  }
}
"""


def test_operations_are_counted():
    """The mesh, the function, and what ends in it: loop, comparison, call, three returns."""
    assert count_operations(TEXT) == 8
