"""Every program of the product compiles for TPUs, at tiny size, without a partitioner's warning.

Each program meets each value of each property:

| system | family | weights | slice | mesh |
| --- | --- | --- | --- | --- |
| dense | Qwen3 | bfloat16 | v5e:2x4 | data=2,fsdp=2,tensor=2 |
| window | Gemma 3: sliding windows, soft caps | int8 | v6e:1x1 | one device |
| delta | Qwen3.5: gated delta nets | bfloat16 | v4:2x2x2, megacore | data=2,fsdp=2,tensor=2 |

The programs of each: think, rollout, prefill, decode start, decode chunk, park, read on, retry (a
chunk after the opening of an answer was read), inner step, and an outer step of each objective.
Two more systems meet `think` and the inner step in other pairs of properties: int8 on a mesh, and
delta nets on one device.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from rmas.links import LinkSpec
from rmas.parallel import batch_multiple, make_mesh, parse_mesh, use
from rmas.parallel.chips import CHIPS
from rmas.parallel.slices import describe_devices, parse_slice
from rmas.plans import arguments, hlo, programs, training_floors, training_steps
from rmas.plans.arguments import AbstractSystem
from rmas.plans.floors import Share, Work
from rmas.plans.programs import Program, TooLargeError
from rmas.system.decode import CHUNK, Sampling
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec
from rmas.training.loop import Schedule
from rmas.training.objectives import OBJECTIVES, Lengths, TrainingContext
from rmas.training.optim import Optim
from support.tiny_families import family_spec

pytestmark = [pytest.mark.tpu, pytest.mark.usefixtures("quickly")]

AGENT, ROWS, STEPS, ROUNDS, LENGTHS = "one", 8, 5, 2, Lengths(prompt=10, text=6)
SOLO = Topology("solo", (AGENT,), (Edge(AGENT, AGENT, "feedback"),), AGENT)
SAMPLING = Sampling(temperature=0.6, top_p=0.9, top_k=20)
SCHEDULE = Schedule(Optim(steps=10), batch_size=ROWS, save_every=10)
MESH = "data=2,fsdp=2,tensor=2"


@dataclasses.dataclass(frozen=True)
class Case:
    """One agent that writes to itself."""

    family: str
    layers: int
    slice: str
    mesh: str = MESH
    int8: bool = False


SYSTEMS = {
    "dense": Case("qwen3", 1, "v5e:2x4"),
    "window": Case("gemma3", 2, "v6e:1x1", "single", int8=True),
    "delta": Case("qwen3_5", 2, "v4:2x2x2"),
}
OTHERS = {
    "dense_int8": Case("qwen3", 1, "v6e:2x4", int8=True),
    "delta_single": Case("qwen3_5", 2, "v5e:1x1", "single"),
}


@pytest.fixture
def quickly(optimized):
    """The passes that users have, with the least effort in each: only that it compiles counts."""
    name = "jax_exec_time_optimization_effort"
    before = jax.config.values[name]
    jax.config.update(name, -1.0)
    yield
    jax.config.update(name, before)


@functools.cache
def system_of(name: str) -> AbstractSystem:
    case = (SYSTEMS | OTHERS)[name]
    mesh = make_mesh(parse_mesh(case.mesh), describe_devices(parse_slice(case.slice)))
    model = family_spec(
        case.family, num_hidden_layers=case.layers, hidden_size=32, intermediate_size=64
    )
    links = LinkSpec("ln_res", ((AGENT, model.d_model),), SOLO.link_edges)
    spec = SystemSpec(((AGENT, model),), links)
    return arguments.abstract_system(SOLO, spec, mesh, dtype=jnp.bfloat16, quantize=case.int8)


OUTER = {"trained": ("inner", "outer"), "rounds": ROUNDS, "lengths": LENGTHS}


def context_of(system: AbstractSystem) -> TrainingContext:
    return TrainingContext(system.topology, system.spec, STEPS, 0.5, 0.1)


def outer_step(objective: str, system: AbstractSystem) -> Program:
    more = {"params": system.params, "schedule": SCHEDULE, "mesh": system.mesh}
    return training_steps.outer_step(context_of(system), ((objective, 1.0),), **more, **OUTER)


def inner_step(system: AbstractSystem) -> Program:
    return training_steps.inner_step(
        context_of(system), system.params, SCHEDULE, LENGTHS, system.mesh
    )


def floor_of(program: str, system: AbstractSystem, int8: bool) -> Work | None:
    """The least work of a training step."""
    context = context_of(system)
    share = Share(system.spec.model(AGENT), system.mesh, ROWS, jnp.bfloat16, int8)
    if program == "inner_step":
        positions = training_steps.inner_positions(context, AGENT, LENGTHS)
        return training_floors.inner_step(share, positions)
    kind, _, objective = program.partition("outer_step_")
    if kind or not objective:
        return None
    return training_floors.outer_step(context, ((objective, 1.0),), {AGENT: share}, **OUTER)


def think(system: AbstractSystem) -> Program:
    return programs.think(system, steps=STEPS, rounds=ROUNDS, rows=ROWS, tokens=LENGTHS.prompt)


def state_of(system: AbstractSystem):
    return widen(system).outputs


@functools.cache
def start(system: AbstractSystem) -> Program:
    return programs.decode_start(system, AGENT, rows=ROWS, positions=LENGTHS.prompt)


@functools.cache
def widen(system: AbstractSystem) -> Program:
    return programs.widen(system, start(system).outputs, size=CHUNK)


@functools.cache
def read_on(system: AbstractSystem) -> Program:
    return programs.extend(system, AGENT, state_of(system), tokens=LENGTHS.text, size=2 * CHUNK)


PROGRAMS: dict[str, Callable[[AbstractSystem], Program]] = {
    "think": think,
    "rollout": lambda s: programs.rollout(
        s, AGENT, steps=STEPS, rows=ROWS, positions=LENGTHS.prompt
    ),
    "prefill": lambda s: programs.prefill(s, AGENT, rows=ROWS, positions=LENGTHS.prompt),
    "decode_start": start,
    "widen": widen,
    "rotate": lambda s: programs.rotate(s, start(s).outputs),
    "admit": lambda s: programs.admit(s, state_of(s), start(s).outputs),
    "decode_chunk": lambda s: programs.decode_chunk(s, AGENT, state_of(s), SAMPLING),
    "park": lambda s: programs.park(s, state_of(s)),
    "read_on": read_on,
    "retry": lambda s: programs.decode_chunk(s, AGENT, read_on(s).outputs, SAMPLING),
    "inner_step": inner_step,
    **{f"outer_step_{name}": functools.partial(outer_step, name) for name in OBJECTIVES},
}


def check(program: Program, system: AbstractSystem, capfd: pytest.CaptureFixture[str]) -> None:
    """It compiles, without warnings of the partitioner; what the compiler says of it is read."""
    device = system.mesh.devices.flat[0]
    assert 0 < program.memory.peak < CHIPS[device.device_kind].usable_bytes
    assert hlo.total_cycles(program.text, unknown=CHUNK) > 0
    alone = program.name in ("park", "widen", "admit")
    split = batch_multiple(system.mesh) if program.name == "rotate" else system.mesh.size
    assert bool(hlo.collectives(program.text)) == (split > 1 and not alone)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_program_compiles(name, program, capfd):
    system = system_of(name)
    made = PROGRAMS[program](system)
    check(made, system, capfd)
    if work := floor_of(program, system, SYSTEMS[name].int8):
        chip = CHIPS[system.mesh.devices.flat[0].device_kind]
        assert 0 < work.seconds(chip) < hlo.total_cycles(made.text) / chip.clock_hz


@pytest.mark.parametrize("program", ["think", "inner_step"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_pairs_of_properties(name, program, capfd):
    system = system_of(name)
    check(PROGRAMS[program](system), system, capfd)


def test_the_partitioner_would_tell_of_a_rematerialization(capfd):
    """What the tests above look for is what the compiler for TPUs writes, and they see it."""
    mesh = system_of("dense").mesh

    def clumsy(x_XY):
        x_XY = jax.lax.with_sharding_constraint(jnp.sin(x_XY), P("data", None))
        return jax.lax.with_sharding_constraint(jnp.sin(x_XY), P(None, ("fsdp", "data")))

    x_XY = arguments.whole(mesh, jax.ShapeDtypeStruct((16, 16), jnp.float32))
    with use(mesh):
        program = Program("clumsy", jax.jit(clumsy).lower(x_XY), mesh)
    assert program.compiled
    assert "rematerialization" in capfd.readouterr().err


def test_loops_are_known():
    """A rollout runs M - 1 latent steps, and all layers in each; a chunk ends with its rows."""
    model = family_spec("qwen3", num_hidden_layers=3)
    spec = SystemSpec(((AGENT, model),), LinkSpec("ln_res", ((AGENT, 64),), SOLO.link_edges))
    mesh = make_mesh(parse_mesh("tensor=2"), describe_devices(parse_slice("v5e:2x2"))[:2])
    system = arguments.abstract_system(SOLO, spec, mesh, dtype=jnp.bfloat16)
    turn = programs.rollout(system, AGENT, steps=STEPS, rows=4, positions=16)
    loops = {nest.loops for nest in hlo.cycles(turn.text)}
    assert {(), (3,), (STEPS - 1,), (STEPS - 1, 3)} == loops
    # Tensor parallelism adds up each half of a layer.
    inside = [c for c in hlo.collectives(turn.text) if c.loops == (STEPS - 1, 3)]
    assert [(c.kind, c.bytes) for c in inside] == [("all-reduce", 4 * 64 * 2)] * 2
    start = programs.decode_start(system, AGENT, rows=4, positions=16)
    state = programs.widen(system, start.outputs, size=CHUNK).outputs
    chunk = programs.decode_chunk(system, AGENT, state, Sampling())
    nests = hlo.cycles(chunk.text)
    # The loop in the loop writes a token for rows whose first free slots differ.
    assert {nest.loops for nest in nests} == {(), (None,), (None, 3), (None, None)}
    token = sum(nest.total() for nest in nests if nest.loops[:1] == (None,))
    assert hlo.total_cycles(chunk.text, 16) - hlo.total_cycles(chunk.text, 8) == 8 * token


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_a_program_that_is_too_large(name):
    """The compiler's message gives both sizes; `Chip.usable_bytes` is the second."""
    asked = parse_slice(name)
    mesh = make_mesh(parse_mesh("single"), describe_devices(asked))
    x_XY = arguments.whole(mesh, jax.ShapeDtypeStruct((200 << 18, 1024), jnp.float32))
    program = Program("doubling", jax.jit(lambda x: x * 2).lower(x_XY), mesh)
    with pytest.raises(TooLargeError, match=r"doubling needs \d+\.00 GiB of a device") as found:
        assert program.memory
    assert found.value.needed >= 200 << 30
    assert found.value.available == asked.chip.usable_bytes
