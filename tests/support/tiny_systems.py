"""Random tiny systems without tokenizers, and the method written naively for them.

`Case` holds agents of different families and widths under any topology, prompts of random ids
with the slots that the topology asks for, and `naive_logits`: the definition, one question at a
time, where every latent step re-reads the whole sequence and nothing is cached or scanned.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rmas import models
from rmas.links import LinkSpec, edge_name, init_links
from rmas.models import ModelSpec, abstract_params, parse_spec
from rmas.system.batch import Line, line, stack
from rmas.system.prompts import Slot
from rmas.system.recursion import recurse
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec, inputs, rollout, send, zero_messages

EVERYTHING = Topology(
    name="everything",
    agents=("a", "b", "out", "z"),
    edges=(
        Edge("z", "a", "feedback"),
        Edge("a", "b", "round"),
        Edge("a", "out", "round"),  # past b
        Edge("z", "out", "feedback"),  # into the output
        Edge("b", "out", "round"),
        Edge("out", "a", "feedback"),  # the second one into a
        Edge("out", "z", "round"),  # behind the output
        Edge("b", "z", "round"),
        Edge("b", "b", "feedback"),  # to itself
    ),
    output="out",
)
FAMILIES = (("qwen3", 16), ("llama", 24), ("qwen2", 32), ("mistral", 16))
LENGTH = 48  # of the naive sequences


def model_spec(family: str, width: int, vocab: int = 40, **changes) -> ModelSpec:
    """Two layers of four heads."""
    config = {
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 160,
        "sliding_window": 7 if family == "mistral" else None,
        "tie_word_embeddings": family != "llama",
        "rope_theta": 100.0,
    }
    return parse_spec(config | changes, where=family)


def random_tree(shapes, seed: int, dtype):
    """Numbers of the size that training gives, so that every part of a model matters."""
    random = np.random.default_rng(seed)

    def leaf(path, shape):
        names = [key.key for key in path]
        value = random.standard_normal(shape.shape)
        if names[-1] == "kernel":
            value *= shape.shape[-2] ** -0.5
        elif names[-1] == "bias":
            value *= 0.2
        elif names[-2] != "embed":
            value = 1 + 0.2 * value
        return jnp.asarray(value, dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_params(spec: ModelSpec, seed: int, dtype=np.float64):
    """Random weights of a model."""
    return random_tree(abstract_params(spec), seed, dtype)


def random_links(spec: LinkSpec, seed: int, dtype=np.float64):
    """Random links, norms included."""
    shapes = jax.eval_shape(lambda key: init_links(spec, key), jax.random.key(0))
    return random_tree(shapes, seed, dtype)


@functools.partial(jax.jit, static_argnums=0)
def _last_state(spec, params, x_TD, n):
    valid_BT = jnp.arange(LENGTH)[None] < n
    h_BTD, _ = models.run(spec, params, x_TD[None], valid_BT, models.positions(valid_BT))
    return h_BTD[0, n - 1]


@jax.jit
def _put(x_TD, n, value_D):
    return x_TD.at[n].set(value_D)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _inner(spec, links, agent, h):
    return spec.links.inner(links, agent, h)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _outer(spec, links, src, dst, h):
    return spec.links.outer(links, src, dst, h)


@dataclasses.dataclass
class Case:
    """One random system with `rows` questions; float64 under x64 unless told."""

    topology: Topology
    rounds: int
    steps: int
    rows: int = 2
    form: str = "ln_res"
    dtype: type = np.float64
    families: tuple[tuple[str, int], ...] = FAMILIES

    def __post_init__(self):
        agents = self.topology.agents
        specs = {a: model_spec(*f) for a, f in zip(agents, self.families, strict=False)}
        widths = tuple((a, specs[a].d_model) for a in agents)
        links = LinkSpec(self.form, widths, self.topology.link_edges)
        self.spec = SystemSpec(tuple(specs.items()), links)
        self.params = {a: random_params(s, i, self.dtype) for i, (a, s) in enumerate(specs.items())}
        self.links = random_links(links, 5, self.dtype)

    def encoded(self, agent: str, k: int, row: int):
        """Random ids around the slots, which come in another order than the messages."""
        random = np.random.default_rng([row, self.topology.index(agent), k > 0])

        def ids():
            return tuple(random.integers(0, 40, random.integers(1, 5)).tolist())

        runs = [ids()]
        for e in reversed(self.topology.incoming(agent)):
            if e.when == "round" or k > 0:
                runs += [Slot(e.src), ids()]
        return tuple(runs)

    def prompts(self, rows=None, length=None, filler=0):
        """Prompt arrays of the chosen rows, with empty rows behind them."""
        out = {}
        for agent in self.topology.agents:
            sources = tuple(e.src for e in self.topology.incoming(agent))
            lines = [
                [
                    line(self.encoded(agent, k, row), sources, self.steps)
                    for row in (range(self.rows) if rows is None else rows)
                ]
                + [Line((), ())] * filler
                for k in range(self.rounds)
            ]
            out[agent] = stack(lines, length)
        return out

    def logits(self, params, links, prompts, checkpoint=False):
        """The engine: what the output agent would write first, `[B, V]`."""
        topology, spec = self.topology, self.spec

        def turn(agent, prompt, incoming, _):
            x_BTD = inputs(spec.model(agent), params[agent], prompt, incoming)
            _, z_BMD = rollout(
                spec, params[agent], links, agent, x_BTD, prompt.valid_BT, self.steps, checkpoint
            )
            return send(topology, spec, links, agent, z_BMD), ()

        out = topology.output
        zeros = zero_messages(spec, links, prompts[out].ids_BT.shape[1], self.steps)
        incoming, _ = recurse(topology, prompts, turn, zeros)
        last = jax.tree.map(lambda x: x[-1], prompts[out])
        x_BTD = inputs(spec.model(out), params[out], last, incoming)
        h_BD, _ = models.prefill(spec.model(out), params[out], x_BTD, last.valid_BT)
        return models.unembed(spec.model(out), params[out], h_BD)

    def naive_logits(self, links, row: int):
        """The same by the definition, for one question."""
        messages, topology = {}, self.topology
        for k in range(self.rounds):
            for agent in topology.agents:
                spec, params = self.spec.model(agent), self.params[agent]
                table = np.asarray(params["embed"]["weight"])
                x_TD, n = np.zeros((LENGTH, spec.d_model)), 0
                for run in self.encoded(agent, k, row):
                    if isinstance(run, Slot):
                        (edge,) = (e for e in topology.incoming(agent) if e.src == run.source)
                        made = k - (edge.when == "feedback")
                        vectors = messages[made, edge_name(run.source, agent)]
                    else:
                        vectors = [table[i] for i in run]
                    for vector in vectors:
                        x_TD, n = _put(x_TD, n, vector), n + 1
                h = _last_state(spec, params, x_TD, n)
                if agent == topology.output and k == self.rounds - 1:
                    return models.unembed(spec, params, h)
                mapped = [_inner(self.spec, links, agent, h)]
                while len(mapped) < self.steps:
                    x_TD, n = _put(x_TD, n, mapped[-1]), n + 1
                    h = _last_state(spec, params, x_TD, n)
                    mapped.append(_inner(self.spec, links, agent, h))
                for e in topology.outgoing(agent):
                    sent = [_outer(self.spec, links, e.src, e.dst, z) for z in mapped]
                    messages[k, edge_name(e.src, e.dst)] = sent
        raise AssertionError("the output agent ends the last round")


def mixture(logits):
    """A scalar that depends on every logit, each by another weight."""
    return jnp.sum(logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape))
