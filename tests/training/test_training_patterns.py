"""Training is one code for all patterns, with rows in the columns of the public training sets."""

import json

import jax
import numpy as np
import pytest

from rmas.experiment import embedded
from rmas.links import init_links
from rmas.system.load import Agent, System
from rmas.system.prompts import from_json
from rmas.system.rendered import Renderer
from rmas.system.styles import DELIBERATION, MIXTURE
from rmas.system.topology import Topology
from rmas.tasks.files import parse_rows
from rmas.training.examples import Examples
from rmas.training.objectives import OBJECTIVES, TrainingContext, inner_loss, system_loss
from support.tiny_systems import model_spec, random_params
from support.tiny_training import word_tokenizer

COLUMNS = {
    MIXTURE: ("hie_math_expert", "hie_code_expert", "hie_science_expert", "hie_summarizer"),
    DELIBERATION: ("deliberation_reflector", "deliberation_toolcaller"),
}
DEBATE = embedded("debate").system.graph()
TEXTS = ("ab c", "def g hi", "kk l", "m ab", "c def g")
# None with a window, which would hide early slots from the answer.
FAMILIES = (("qwen3", 16), ("llama", 24), ("qwen2", 32), ("qwen3", 32), ("llama", 16))


def make_system(topology: Topology) -> System:
    agents, roles = {}, {}
    for i, (agent, (family, width)) in enumerate(zip(topology.agents, FAMILIES, strict=False)):
        spec = model_spec(family, width, vocab=24, num_hidden_layers=1)
        params = random_params(spec, i, np.float32)
        agents[agent] = Agent(spec, params, word_tokenizer(i), (0,), agent)
        incoming = topology.incoming(agent)
        now = "".join(f"{{slot:{e.src}}} " for e in incoming if e.when == "round")
        later = "".join(f"{{slot:{e.src}}} " for e in incoming)
        phases = {"first": f"{now}{{question}}", "later": f"{later}{{question}}"}
        roles[agent] = {"toy": phases}
    prompts = {"name": "toy", "system": {"default": ""}, "roles": roles}
    return System(topology, agents, from_json(json.dumps(prompts), "test"), "toy")


def make_rows(topology: Topology):
    """Three rows as a file has them: flat columns, or texts by role."""
    rows = []
    for n in range(3):
        row = {"question": f"{TEXTS[n]} l", "answer": TEXTS[n]}
        texts = [TEXTS[(n + i) % 5] for i in range(5)]
        if topology in COLUMNS:
            row |= dict(zip(COLUMNS[topology], texts, strict=False))
        else:
            row["texts"] = dict(zip(topology.agents, texts, strict=False))
        rows.append(row)
    lines = "\n".join(json.dumps(row) for row in rows)
    wrapped = json.dumps({"data": rows})
    made = parse_rows(lines.encode(), "f.jsonl")
    assert parse_rows(wrapped.encode(), "f.json") == made
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology",
    [DELIBERATION, *(pytest.param(t, marks=pytest.mark.extended) for t in (MIXTURE, DEBATE))],
    ids=lambda t: t.name,
)
def test_every_objective_trains_every_pattern(topology):
    """All links move: inner ones alone, and all of them with every objective."""
    system = make_system(topology)
    rows, rounds = make_rows(topology), 2
    examples = Examples(Renderer(system), rounds, 2, 4, 64, 0, 0)
    context = TrainingContext(topology, system.spec("ln_res"), 2, on_policy=0.5, earlier_rounds=0.1)
    links = init_links(context.spec.links, jax.random.key(0))
    batches = {name: own.prepare(examples, rows) for name, own in OBJECTIVES.items()}
    key, params = jax.random.key(1), system.params()

    @jax.jit
    def gradients(links, params, batches):
        def of(name):
            parts = ((name, 1.0),)
            return jax.grad(
                lambda x: system_loss(context, parts, params, x, {name: batches[name]}, key)[0]
            )(links)

        return {name: of(name) for name in OBJECTIVES}

    for name, gradient in gradients(links, params, batches).items():
        for part in ("inner", "outer"):
            for where, own in gradient[part].items():
                leaves = jax.tree.leaves(own)
                assert all(np.isfinite(leaf).all() for leaf in leaves), (name, where)
                assert any(np.any(leaf) for leaf in leaves), (name, where)
    for agent in topology.agents:
        at = examples.draw_rounds(np.random.default_rng(0), len(rows))
        batch = examples.inner(agent, rows, at)
        loss, gradient = jax.jit(
            jax.value_and_grad(lambda x, a=agent, b=batch: inner_loss(context, a, params[a], x, b))
        )(links)
        assert 0 < loss < 2
        assert np.any(jax.tree.leaves(gradient["inner"][agent])[0])
