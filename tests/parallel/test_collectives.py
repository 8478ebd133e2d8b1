"""What devices exchange inside loops of latent steps, read from compiled programs.

Two agents of three layers and different widths; three rounds, in which `one` has three latent
turns and `two` has two.
"""

import collections
import functools

import jax
import pytest

from rmas.links import LinkSpec
from rmas.parallel import MeshSpec
from rmas.plans import programs, training_steps
from rmas.plans.arguments import AbstractSystem, abstract_system, device_bytes
from rmas.plans.hlo import Collective, collectives, runs
from rmas.system.decode import Sampling
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec
from rmas.training.loop import Schedule
from rmas.training.objectives import Lengths, TrainingContext
from rmas.training.optim import Optim
from support.fake_devices import mesh_of
from support.tiny_families import family_spec

ROUNDS, ROWS, STEPS = 3, 8, 26
BLOCK = 5  # the latent steps after the first are 5 blocks of 5; no other loop runs 5 times or 25
TURNS = {"one": 3, "two": 2}
TOPOLOGY = Topology(
    name="pair",
    agents=("one", "two"),
    edges=(Edge("one", "two", "round"), Edge("two", "one", "feedback")),
    output="two",
)
FAMILIES = ["llama", "gemma3", "qwen3_5"]  # dense, sliding windows, gated delta-net
SLOW = [
    pytest.param(family, marks=pytest.mark.extended) if family != "llama" else family
    for family in FAMILIES
]


def system(family: str, mesh: MeshSpec) -> AbstractSystem:
    small = functools.partial(family_spec, family, num_hidden_layers=3)
    specs = {"one": small(), "two": small(hidden_size=48)}
    widths = tuple((agent, spec.d_model) for agent, spec in specs.items())
    spec = SystemSpec(tuple(specs.items()), LinkSpec("ln_res", widths, TOPOLOGY.link_edges))
    return abstract_system(TOPOLOGY, spec, mesh_of(*mesh.sizes), dtype="float32")


def count(found: list[Collective]) -> dict[str, int]:
    """How many of each kind run."""
    total = collections.Counter[str]()
    for c in found:
        total[c.kind] += runs(c.loops)
    return dict(total)


def latent(found: list[Collective]) -> list[Collective]:
    """Those inside of loops over latent steps."""
    return [c for c in found if BLOCK in c.loops or BLOCK**2 in c.loops]


def think(family: str, mesh: MeshSpec) -> list[Collective]:
    asked = {"steps": STEPS, "rounds": ROUNDS, "rows": ROWS, "tokens": 20}
    return collectives(programs.think(system(family, mesh), **asked).text)


def outer_step(objective: str, family: str, mesh: MeshSpec) -> programs.Program:
    own = system(family, mesh)
    return training_steps.outer_step(
        TrainingContext(TOPOLOGY, own.spec, STEPS, on_policy=0.5, earlier_rounds=0.1),
        ((objective, 1.0),),
        params=own.params,
        trained=("inner", "outer"),
        schedule=Schedule(Optim(steps=10), batch_size=ROWS, save_every=10),
        rounds=ROUNDS,
        lengths=Lengths(20, 4),
        mesh=own.mesh,
    )


def reduced_by_use(program: programs.Program) -> int:
    """Bytes of link gradients, of each use of each link."""
    links = program.arguments[0].links
    one = (links["inner"]["one"], links["outer"]["one->two"])
    two = (links["inner"]["two"], links["outer"]["two->one"])
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (one, two))
    return sum(n * device_bytes(tree) for n, tree in zip(TURNS.values(), whole, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_thinking_with_split_rows_exchanges_nothing(family):
    assert think(family, MeshSpec(data=8)) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_thinking_with_split_weights(family):
    """Two sums over `tensor` a layer and latent step; `fsdp` gathers before the loop, each turn."""
    spec = family_spec(family, num_hidden_layers=3)
    found = think(family, MeshSpec(2, 2, 2))
    steps = sum(TURNS.values()) * (STEPS - 1)
    assert count(latent(found)) == {"all-reduce": 2 * len(spec.layers) * steps}
    # One position of the rows of a device.
    assert max(c.bytes for c in latent(found)) == ROWS // 4 * spec.d_model * 4
    # In the loop of rounds, not before it: no two agents are whole at once.
    gathered = [c for c in found if "sharding_constraint" in c.source and c.kind == "all-gather"]
    in_rounds = sum(c.bytes for c in gathered if c.loops == (ROUNDS - 1,))
    before = sum(c.bytes for c in gathered if not c.loops)
    assert in_rounds > 1.3 * before > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding(family):
    """Rows exchange three numbers a token: whether all are done, and which slots they write to.

    Weights exchange what they do in latent steps, and the likeliest token.
    """
    spec = family_spec(family, num_hidden_layers=3, hidden_size=48)

    def chunk(mesh: MeshSpec) -> list[Collective]:
        own = system(family, mesh)
        start = programs.decode_start(own, "two", rows=ROWS, positions=32)
        running = programs.widen(own, start.outputs, size=32).outputs
        chunk = programs.decode_chunk(own, "two", running, Sampling())
        return [c for c in collectives(chunk.text) if c.loops]

    split_rows = sorted((c.kind, c.bytes) for c in chunk(MeshSpec(data=8)))
    assert split_rows == [("all-reduce", 1), ("all-reduce", 1), ("all-reduce", 4)]
    found = chunk(MeshSpec(2, 2, 2))
    wide = [c for c in found if c.bytes > 100]
    # The embedding of the last token, and two sums a layer.
    assert sum(runs(c.loops) for c in wide) == 1 + 2 * len(spec.layers)
    assert {(c.kind, c.bytes) for c in wide} == {("all-reduce", ROWS // 4 * spec.d_model * 4)}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshSpec(data=8), MeshSpec(2, 2, 2)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_filled_again_where_they_are(family, mesh):
    """Admission exchanges nothing; a waiting batch moves on as it is, each array once."""
    own = system(family, mesh)
    waiting = programs.decode_start(own, "two", rows=ROWS, positions=32).outputs
    running = programs.widen(own, waiting, size=32)
    assert collectives(running.text) == []
    assert collectives(programs.admit(own, running.outputs, waiting).text) == []
    found = collectives(programs.rotate(own, waiting).text)
    assert {c.kind for c in found} == {"collective-permute"}
    assert sum(c.bytes for c in found) <= device_bytes(waiting)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    ["rollout", "teacher_forced", pytest.param("align", marks=pytest.mark.extended)],
)
def test_link_gradients_are_reduced_once_a_turn(objective):
    """Not in loops of latent steps, nor of layers; beside them are a few losses and metrics."""
    program = outer_step(objective, "llama", MeshSpec(data=8))
    found = collectives(program.text)
    assert {c.loops for c in found} == {(), (ROUNDS - 1,)}
    assert {c.kind for c in found} == {"all-reduce"}
    total = sum(runs(c.loops) * c.bytes for c in found)
    assert 0 <= total - reduced_by_use(program) < 200


@pytest.mark.slow
@pytest.mark.parametrize("family", SLOW)
@pytest.mark.parametrize(
    "objective", ["rollout", pytest.param("align", marks=pytest.mark.extended)]
)
def test_training_with_split_weights(objective, family):
    """Inside of latent steps and of their gradients, only activations of one position."""
    program = outer_step(objective, family, MeshSpec(2, 2, 2))
    found = latent(collectives(program.text))
    assert {c.kind for c in found} == {"all-reduce"}
    layer = family_spec(family, num_hidden_layers=3)
    # At most the gradients of a delta-net mixer's six projections are summed up at once.
    assert max(c.bytes for c in found) <= 6 * ROWS // 4 * layer.d_model * 4
    # Two sums a layer: forward, back, and in each of the computations before that.
    again = {"rollout": 2, "align": 1}[objective]
    steps = sum(TURNS.values()) * (STEPS - 1)
    assert count(found)["all-reduce"] == (2 + again) * 2 * len(layer.layers) * steps
