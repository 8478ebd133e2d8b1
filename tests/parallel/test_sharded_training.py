"""Objectives of a system of two families on eight fake devices: losses and links' gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.links import LinkSpec, init_links
from rmas.parallel import param_shardings, put_batch, replicated, use
from rmas.system.batch import line, stack, with_states
from rmas.system.preamble import Preamble, Prompts
from rmas.system.prompts import Slot
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec
from rmas.training.examples import Text
from rmas.training.objectives import OBJECTIVES, TrainingContext
from rmas.training.objectives.align import EdgeTargets, Targets
from rmas.weights.placement import heads_of
from support.fake_devices import mesh_of
from support.tiny_families import family_params, family_spec

ROUNDS, ROWS, STEPS, VOCAB = 2, 8, 3, 42
TOPOLOGY = Topology(
    name="pair",
    agents=("one", "two"),
    edges=(Edge("one", "two", "round"), Edge("two", "one", "feedback")),
    output="two",
)


def context_of(families: tuple[str, str]) -> TrainingContext:
    """The agents differ in width; half of the rows of `align` hear the links' own messages."""
    small = functools.partial(family_spec, num_hidden_layers=2)
    specs = {"one": small(families[0]), "two": small(families[1], hidden_size=48)}
    widths = tuple((agent, spec.d_model) for agent, spec in specs.items())
    links = LinkSpec("ln_res", widths, TOPOLOGY.link_edges)
    return TrainingContext(TOPOLOGY, SystemSpec(tuple(specs.items()), links), STEPS, 0.5, 0.1)


def lines(agent: str, text: int) -> list:
    """Random prompts of every round, with slots, that end in `text` tokens or fewer."""
    random = np.random.default_rng(TOPOLOGY.index(agent))
    incoming = TOPOLOGY.incoming(agent)

    def one(k: int):
        ids = tuple(random.integers(0, VOCAB, random.integers(1, 4)).tolist())
        slots = [Slot(e.src) for e in incoming if e.when == "round" or k > 0]
        own = random.integers(0, VOCAB, random.integers(min(text, 1), text + 1))
        return line([ids, *slots, ids], [e.src for e in incoming], STEPS, text=own.tolist())

    return [[one(k) for _ in range(ROWS)] for k in range(ROUNDS)]


def mask(rounds: list, prompt) -> np.ndarray:
    counts = np.array([[row.text_length for row in rows] for rows in rounds])
    T = prompt.ids_BT.shape[-1]
    return np.arange(T) >= T - counts[..., None]


def prepared(name: str):
    """What an objective reads; rows are the second axis, or the first of a single round."""
    out, random = TOPOLOGY.output, np.random.default_rng(9)
    lengths = np.arange(ROWS)[:, None] % 5  # some rows have no preamble
    preambles = {
        agent: Preamble(random.integers(0, VOCAB, (ROWS, 6)), np.arange(6) >= 6 - lengths)
        for agent in TOPOLOGY.agents
    }
    prompts = Prompts(preambles, {agent: stack(lines(agent, 0)) for agent in TOPOLOGY.agents})
    if name == "teacher_forced":
        texts = {agent: lines(agent, 5) for agent in TOPOLOGY.agents}
        rest = {
            agent: with_states(stack(rounds), rounds, STEPS, shift=0)
            for agent, rounds in texts.items()
        }
        return Prompts(preambles, rest), {a: mask(texts[a], p) for a, p in rest.items()}
    if name == "rollout":
        last = lines(out, 5)[-1:]
        prompt = stack(last)
        return prompts, jax.tree.map(lambda x: x[0], Text(prompt, mask(last, prompt)))

    def target(agent: str) -> Targets:
        shape = (ROUNDS, ROWS, STEPS)
        ids, weights = random.integers(0, VOCAB, shape), random.random((*shape, 4))
        valid = np.arange(STEPS) < random.integers(1, STEPS + 1, (ROUNDS, ROWS, 1))
        (edge,) = TOPOLOGY.outgoing(agent)
        reader = EdgeTargets(random.integers(0, VOCAB, (ROUNDS, ROWS, 4)), weights)
        return Targets(ids, valid, {f"{edge.src}->{edge.dst}": reader})

    return prompts, {agent: target(agent) for agent in TOPOLOGY.agents}


def put(mesh, name: str, batch):
    """Rows split over the mesh."""
    return put_batch(mesh, batch, OBJECTIVES[name].axes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_grad(name: str, context: TrainingContext, params, links, batch):
    def loss(links):
        return OBJECTIVES[name].loss(context, params, links, batch, jax.random.key(3))[0]

    return jax.value_and_grad(loss)(links)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("teacher_forced", ("llama", "qwen3")),
        pytest.param("rollout", ("llama", "qwen2"), marks=pytest.mark.extended),
        pytest.param("rollout", ("qwen3_5", "qwen2"), marks=pytest.mark.extended),
        pytest.param("align", ("mistral", "gemma3"), marks=pytest.mark.extended),
    ],
)
def test_objective_on_a_mesh(name, families, capfd):
    context, batch, mesh = context_of(families), prepared(name), mesh_of(2, 2, 2)
    shapes = jax.eval_shape(lambda: init_links(context.spec.links, jax.random.key(0)))
    random = np.random.default_rng(1)
    with jax.enable_x64(True):
        links = jax.tree.map(
            lambda x: jnp.asarray(random.standard_normal(x.shape) * x.shape[0] ** -0.5), shapes
        )
        params = {
            agent: family_params(spec, i, np.float64)
            for i, (agent, spec) in enumerate(context.spec.models)
        }
        loss, grads = value_and_grad(name, context, params, links, put(mesh_of(), name, batch))
        placed = {
            agent: jax.device_put(params[agent], param_shardings(mesh, params[agent], heads_of(s)))
            for agent, s in context.spec.models
        }
        links, batch = jax.device_put(links, replicated(mesh)), put(mesh, name, batch)
        with use(mesh):
            found, found_grads = value_and_grad(name, context, placed, links, batch)
    assert loss.dtype == np.float64
    np.testing.assert_allclose(found, loss, rtol=0, atol=1e-9)
    for x, y in zip(jax.tree.leaves(found_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9 * max(1.0, np.abs(y).max()))
        assert np.any(y)
        assert x.is_fully_replicated
    assert "rematerialization" not in capfd.readouterr().err
