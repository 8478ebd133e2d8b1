"""Programs for abstract arrays are those that a run compiles; what their compiler says is read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.links import LinkSpec, init_links
from rmas.parallel import param_shardings, put_batch, put_whole, replicated, use
from rmas.plans import arguments, programs
from rmas.plans.programs import Program, TooLargeError
from rmas.system import decode
from rmas.system import run as engine
from rmas.system.decode import CHUNK, Sampling
from rmas.system.preamble import Preamble
from rmas.system.preamble_cache import _read_rows
from rmas.system.topology import Edge, Topology
from rmas.system.turn import Prompt, SystemSpec, inputs
from rmas.weights.agents import AgentParams
from rmas.weights.placement import heads_of
from support.fake_devices import mesh_of
from support.tiny_families import family_params, family_spec

PAIR = Topology(
    name="pair",
    agents=("one", "two"),
    edges=(Edge("one", "two", "round"), Edge("two", "one", "feedback")),
    output="two",
)
ROWS, STEPS, ROUNDS, TOKENS = 4, 3, 2, 9


def spec_of(families: dict[str, str]) -> SystemSpec:
    models = tuple((agent, family_spec(name)) for agent, name in families.items())
    widths = tuple((agent, model.d_model) for agent, model in models)
    return SystemSpec(models, LinkSpec("ln_res", widths, PAIR.link_edges))


def abstract(mesh, **families: str) -> arguments.AbstractSystem:
    return arguments.abstract_system(PAIR, spec_of(families), mesh, dtype=jnp.float32)


def loaded(spec: SystemSpec, mesh):
    """Weights and links on the mesh, as loading places them."""
    params = {
        agent: jax.device_put(
            made := family_params(model), param_shardings(mesh, made, heads_of(model))
        )
        for agent, model in spec.models
    }
    links = init_links(spec.links, jax.random.key(0))
    return AgentParams(params), put_whole(links, replicated(mesh))


def prompt(*lead: int) -> Prompt:
    shape = (*lead, 16)
    ids = np.random.default_rng(0).integers(0, 42, shape, np.int32)
    return Prompt(ids, np.arange(16) >= np.full((*lead, 1), 16 - TOKENS), np.full(shape, -1))


@pytest.mark.parametrize(("sizes", "begun"), [((1, 1, 1), 16), ((2, 1, 2), 0), ((2, 1, 2), 16)])
def test_think_is_the_program_of_a_run(sizes, begun):
    """The same arguments, in the same places: word for word the same program."""
    mesh = mesh_of(*sizes)
    system = abstract(mesh, one="qwen3", two="gemma3")
    lengths = {"tokens": TOKENS + begun, "begun": begun}
    program = programs.think(system, steps=STEPS, rounds=ROUNDS, rows=ROWS, **lengths)
    params, links = loaded(system.spec, mesh)
    pasts = {}
    for agent in PAIR.agents if begun else ():
        read = prompt(ROWS)
        own = put_batch(mesh, Preamble(read.ids_BT, read.valid_BT))
        none = put_batch(mesh, np.zeros(ROWS, bool))
        with use(mesh):
            past = _read_rows(system.spec.model(agent), params[agent], None, none, own)
        pasts[agent] = (past,)
    prompts = dict.fromkeys(PAIR.agents, prompt(ROUNDS, ROWS))
    prompts = jax.tree.map(lambda x: x.astype(np.int32) if x.dtype == np.int64 else x, prompts)
    with use(mesh):
        own = engine.think.lower(
            topology=PAIR,
            spec=system.spec,
            steps=STEPS,
            record=False,
            on_turn=None,
            params=params,
            links=links,
            prompts=put_batch(mesh, prompts, axis=1),
            pasts=pasts,
        )
    assert program.lowered.as_text() == own.as_text()


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
def test_decoding_starts_where_a_run_starts(family):
    """States that programs hand on have the shapes and places of a run's."""
    mesh = mesh_of(2, 1, 2)
    system = abstract(mesh, one="qwen3", two=family)
    model = system.spec.model("two")
    start = programs.decode_start(system, "two", rows=ROWS, positions=TOKENS)
    params, _ = loaded(system.spec, mesh)
    read = dataclasses.replace(prompt(ROWS), slot_BT=np.full((ROWS, 16), -1, np.int32))

    @jax.jit
    def run(params, prompt):
        x_BTD = inputs(model, params, prompt, ())
        return decode.start(model, params, x_BTD, prompt.valid_BT)

    with use(mesh):
        waiting = run(params["two"], put_batch(mesh, read))
        state = decode.widen(16, CHUNK, waiting)
    same(start.outputs, waiting)
    running = programs.widen(system, start.outputs, size=CHUNK).outputs
    same(running, state)
    chunk = programs.decode_chunk(system, "two", running, Sampling(temperature=0.5))
    park = programs.park(system, running)
    extended = programs.extend(system, "two", running, tokens=5, size=2 * CHUNK)
    same(chunk.outputs[0], state)
    same(park.outputs, state)
    same(programs.admit(system, running, start.outputs).outputs, state)
    assert extended.outputs.tail.valid_BS.shape == (ROWS, 2 * CHUNK)
    retry = programs.decode_chunk(system, "two", extended.outputs, Sampling())
    same(retry.outputs[0], extended.outputs)


def same(one, other) -> None:
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


def test_memory_of_a_program():
    """Weights are arguments, split as they are placed; a turn has its prefill inside."""
    mesh = mesh_of(tensor=2)
    system = abstract(mesh, one="qwen3", two="qwen3")
    prefill = programs.prefill(system, "one", rows=ROWS, positions=TOKENS)
    turn = programs.rollout(system, "one", steps=STEPS, rows=ROWS, positions=TOKENS)
    weights = arguments.device_bytes(system.params["one"])
    prompts = arguments.device_bytes(prefill.arguments[1])
    read = prompts - 4 * ROWS * 16  # slots are not read: there are no messages
    assert prefill.memory.arguments == pytest.approx(weights + read, rel=0.05)
    assert turn.memory.arguments > prefill.memory.arguments
    assert prefill.memory.outputs > 0
    assert turn.memory.peak >= turn.memory.temporaries > 0


def test_shared_weights_count_once():
    system = arguments.abstract_system(
        PAIR,
        spec_of({"one": "qwen3", "two": "qwen3"}),
        mesh_of(),
        dtype=jnp.bfloat16,
        shares={"two": "one"},
    )
    assert system.params["one"] is system.params["two"]
    assert arguments.weight_bytes(system.params) == arguments.device_bytes(system.params["one"])
    assert {x.dtype for x in jax.tree.leaves(system.links)} == {np.dtype(np.float32)}
    program = programs.think(system, steps=3, rounds=2, rows=ROWS, tokens=16)
    apart = dataclasses.replace(system, params=dict(system.params))
    twice = programs.think(apart, steps=3, rounds=2, rows=ROWS, tokens=16)
    counted_again = twice.memory.arguments - program.memory.arguments
    # But for the head, which the first agent does not use.
    assert counted_again > 0.9 * arguments.device_bytes(system.params["two"])


class Refusing:
    """A lowered program whose compiler ends with a message."""

    def __init__(self, message: str) -> None:
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (23.22G) exceeds available HBM (15.75G).",
            int(23.22 * (1 << 30)),
            int(15.75 * (1 << 30)),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
            "arguments (1.50T)\nexceeds available HBM (512M).",
            3 << 39,
            1 << 29,
        ),
    ],
)
def test_too_large(message, needed, available):
    program = Program("think", Refusing(message), mesh_of())
    with pytest.raises(TooLargeError) as found:
        assert program.memory
    assert (found.value.program, found.value.needed) == ("think", needed)
    assert found.value.available == available
    assert str(found.value).startswith("think needs ")


def test_other_errors_are_raised_as_they_are():
    for message in ("INTERNAL: (1.5G) exceeds (2G)", "RESOURCE_EXHAUSTED: out of something"):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message.split(":")[0]):
            assert Program("think", Refusing(message), mesh_of()).text
