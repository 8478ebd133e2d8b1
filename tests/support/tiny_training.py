"""A tiny random system with tokenizers, rows with texts, and what training is by definition.

The naive functions take one row at a time, write its sequences out, hold nothing in a cache, scan
over nothing, and never pad in front: they follow the method's description.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rmas import models as agent_models
from rmas.links import edge_name, init_links
from rmas.parallel import param_shardings
from rmas.system.encode import ChatTokenizer
from rmas.system.load import Agent, System
from rmas.system.prompts import Slot, from_json
from rmas.system.rendered import Renderer, phase
from rmas.system.styles import SEQUENTIAL
from rmas.system.topology import Edge, Topology
from rmas.tasks.rows import Row
from rmas.training.alignment import align
from rmas.training.examples import Examples
from rmas.training.objectives import TrainingContext
from rmas.weights.placement import heads_of
from support.tiny_systems import model_spec, random_params

LENGTH = 64  # of the naive sequences, which are padded behind
SPECIAL = ("<u>", "<e>", "<a>")
WORDS = ("ab", "c", "def", "g", "hi", "kk", "l", "m")
TEMPLATE = (
    "{% for m in messages %}{{ '<u>' if m['role'] == 'user' else '<a>' }}{{ m['content'] }}<e>"
    "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
# Two agents; every kind of edge: within the round, back, to oneself, two into each agent.
PAIR = Topology(
    name="pair",
    agents=("critic", "solver"),
    edges=(
        Edge("critic", "critic", "feedback"),
        Edge("critic", "solver", "round"),
        Edge("solver", "solver", "feedback"),
        Edge("solver", "critic", "feedback"),
    ),
    output="solver",
)
# One agent that hears itself.
SELF = Topology("self", ("solver",), (Edge("solver", "solver", "feedback"),), "solver")
# An agent behind the output agent.
BEHIND = Topology(
    name="behind",
    agents=("solver", "critic"),
    edges=(Edge("solver", "critic", "round"), Edge("critic", "solver", "feedback")),
    output="solver",
)


def word_tokenizer(order: int, extra: tuple[str, ...] = ()) -> ChatTokenizer:
    """Whole words; `order` shuffles the ids. One closing token."""
    vocabulary = ["[UNK]", *SPECIAL, *WORDS, *extra]
    ids = np.random.default_rng(order).permutation(len(vocabulary)).tolist()
    core = Tokenizer(models.WordLevel(dict(zip(vocabulary, ids, strict=True)), "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _chat(core, TEMPLATE)


def letter_tokenizer() -> ChatTokenizer:
    """Single characters, blanks too. Two closing tokens: the turn's end and a line's."""
    vocabulary = ["[UNK]", *SPECIAL, "\n", " ", *sorted({c for w in WORDS for c in w})]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return _chat(core, TEMPLATE.replace("<e>", "<e>\n"))


def _chat(core: Tokenizer, template: str) -> ChatTokenizer:
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<e>",
        unk_token="[UNK]",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return ChatTokenizer(tokenizer, date="today", where="test")


AGENTS = {
    "planner": ("qwen3", 16, functools.partial(word_tokenizer, 1)),
    "critic": ("llama", 24, functools.partial(word_tokenizer, 2)),
    "solver": ("qwen2", 32, letter_tokenizer),
}


@functools.cache
def make_system(
    topology: Topology = SEQUENTIAL, dtype=None, question_first: bool = False
) -> System:
    """Agents of different families; the solver reads letters, the others words.

    Without `dtype` they have no weights. With `question_first` the question stands before slots.
    """
    agents, roles = {}, {}
    for i, agent in enumerate(topology.agents):
        family, width, chat = AGENTS[agent]
        spec = model_spec(family, width, vocab=24, num_hidden_layers=1)
        params = {} if dtype is None else random_params(spec, i, dtype)
        agents[agent] = Agent(spec, params, chat(), (0,), f"print {agent}")
        incoming = topology.incoming(agent)
        # Slots stand in another order than the messages behind them.
        later = "".join(f"{{slot:{e.src}}} " for e in reversed(incoming))
        first = "".join(f"{{slot:{e.src}}} " for e in reversed(incoming) if e.when == "round")
        phases = {"first": f"c {first}kk {{question}}", "later": f"g {later}{{question}} m"}
        if question_first:
            phases = {"first": f"c {{question}} kk {first}", "later": f"c {{question}} {later}m"}
        roles[agent] = {"toy": phases}
    prompts = {"name": "toy", "system": {"default": ""}, "roles": roles}
    return System(topology, agents, from_json(json.dumps(prompts), "test"), "toy")


def make_rows(count: int = 3) -> list[Row]:
    """Questions and texts of different lengths; each role writes another text each round."""
    rows = []
    for n in range(count):
        random = np.random.default_rng([7, n])

        def text(most, random=random):
            return " ".join(random.choice(WORDS, random.integers(1, most + 1)))

        longest = {"planner": 6, "critic": 6, "solver": 3}
        texts = {role: tuple(text(most) for _ in range(3)) for role, most in longest.items()}
        rows.append(Row(f"row-{n}", text(4), "c", texts))
    return rows


def make_examples(
    topology: Topology = SEQUENTIAL, dtype=None, question_first: bool = False, **changes
) -> Examples:
    """Rounds 3, latent steps 3, four states of a text, nothing cut, the release's positions."""
    settings = {
        "rounds": 3,
        "latent_steps": 3,
        "max_latent_tokens": 4,
        "max_length": 64,
        "message_tokens": 0,
        "shift": 0,
    }
    return Examples(
        renderer=Renderer(make_system(topology, dtype, question_first)), **(settings | changes)
    )


def on_mesh(examples: Examples, mesh: jax.sharding.Mesh) -> Examples:
    """The same examples of a system whose weights lie on a mesh."""
    system = examples.renderer.system

    def placed(agent: Agent) -> Agent:
        shardings = param_shardings(mesh, agent.params, heads_of(agent.model))
        params = jax.device_put(agent.params, shardings)
        return dataclasses.replace(agent, params=params, mesh=mesh)

    agents = {name: placed(agent) for name, agent in system.agents.items()}
    renderer = Renderer(dataclasses.replace(system, agents=agents))
    return dataclasses.replace(examples, renderer=renderer)


def random_links(spec, dtype) -> dict:
    """Links with every part at work."""
    random = np.random.default_rng(3)

    def leaf(path, shape):
        value = random.standard_normal(shape.shape)
        if path[-1].key == "kernel":
            value *= shape.shape[0] ** -0.5
        elif path[-1].key == "scale":
            value = 1 + 0.2 * value
        else:
            value *= 0.2
        return jnp.asarray(value, dtype)

    shapes = jax.eval_shape(lambda: init_links(spec, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@dataclasses.dataclass
class Case:
    """A system with links, and every objective by its definition, row by row."""

    examples: Examples
    on_policy: float = 0.0
    earlier_rounds: float = 0.0

    def __post_init__(self):
        ex, system = self.examples, self.examples.renderer.system
        self.system, self.topology, self.params = system, system.topology, system.params()
        self.spec = system.spec("ln_res")
        dtype = jax.tree.leaves(self.params)[0].dtype
        self.links = random_links(self.spec.links, dtype)
        self.context = TrainingContext(
            self.topology, self.spec, ex.latent_steps, self.on_policy, self.earlier_rounds
        )

    def ids(self, agent, row, k):
        """Ids of a role's text, as the agent would write it."""
        chat = self.system.agents[agent].chat
        return [*chat.data_ids(row.text(agent, k)), *chat.close]

    def sequence(self, agent, row, k, messages, text=()):
        """Ids and vectors `[LENGTH, D]` of a prompt and a text, and their number.

        `messages[round, edge]` is `([M, D], how many of them count)`.
        """
        ids, put = [], {}
        for run in self.examples.renderer.encoded(agent, row.question, phase(k)):
            if isinstance(run, Slot):
                (edge,) = (e for e in self.topology.incoming(agent) if e.src == run.source)
                z_MD, n = messages[k - (edge.when == "feedback"), edge_name(run.source, agent)]
                put |= {len(ids) + i: (z_MD, i) for i in range(n)}
                ids += [0] * n
            else:
                ids += run
        ids += text
        # Rows that end in a text are cut from the left; prompts are not.
        gone = max(len(ids) - self.examples.max_length, 0) if text else 0
        ids = ids[gone:]
        ids_T = np.array(ids + [0] * (LENGTH - len(ids)))
        x_TD = _embed(self.params[agent], ids_T)
        for at, (z_MD, i) in put.items():
            if at >= gone:
                x_TD = _put(x_TD, at - gone, z_MD, i)
        return ids_T, x_TD, len(ids)

    def states(self, agent, x_TD, n):
        """The state at every position."""
        return _states(self.spec.model(agent), self.params[agent], x_TD, n)

    def turns(self):
        """All turns in order, and whether it is the last, in which the answer is written."""
        for k in range(self.examples.rounds):
            for agent in self.topology.agents:
                last = k == self.examples.rounds - 1 and agent == self.topology.output
                yield k, agent, last
                if last:
                    return

    def cross_entropy(self, agent, row, k, messages):
        """Of a role's text after a prompt; the mean over its tokens."""
        text = self.ids(agent, row, k)
        ids_T, x_TD, n = self.sequence(agent, row, k, messages, text)
        h_TD = self.states(agent, x_TD, n)
        loss_T = _surprise(self.spec.model(agent), self.params[agent], h_TD, ids_T)
        counted = [t for t in range(n - len(text), n) if t >= 1]
        return sum(loss_T[t - 1] for t in counted) / len(counted)

    def send(self, messages, links, agent, k, z_MD, count):
        for e in self.topology.outgoing(agent):
            sent = _outer(self.spec.links, e, links, z_MD)
            messages[k, edge_name(e.src, e.dst)] = sent, count

    def inner(self, links, batch_row, agent, k, row):
        """`batch_row` is the whole sequence of ids; its end is the text."""
        n, text = len(batch_row), self.ids(agent, row, k)
        ids_T = np.array([*batch_row, *[0] * (LENGTH - n)])
        x_TD = _embed(self.params[agent], ids_T)
        z_TD = _inner(self.spec.links, agent, links, self.states(agent, x_TD, n))
        cosines = []
        for t in range(n - len(text), n):
            if t >= 1:
                a, b = z_TD[t - 1], x_TD[t]
                cosines.append(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))
        return 1 - sum(cosines) / len(cosines)

    def teacher_forced(self, links, row):
        messages, losses, ex = {}, [], self.examples
        for k, agent, last in self.turns():
            if agent == self.topology.output:
                losses.append(self.cross_entropy(agent, row, k, messages))
            if last:
                break
            text = self.ids(agent, row, k)
            _, x_TD, n = self.sequence(agent, row, k, messages, text)
            h_TD = self.states(agent, x_TD, n)
            count = min(len(text), ex.max_latent_tokens)
            first = n - len(text) - ex.shift
            at = np.minimum(first + np.arange(ex.max_latent_tokens), n - 1)
            z_MD = _inner(self.spec.links, agent, links, h_TD[at])
            self.send(messages, links, agent, k, z_MD, count)
        loss = losses[-1]
        if ex.rounds > 1:
            loss += self.earlier_rounds * sum(losses[:-1]) / (ex.rounds - 1)
        return loss

    def thoughts(self, links, agent, row, k, messages):
        """Inner-mapped states of a rollout that re-reads its whole sequence at every step."""
        _, x_TD, n = self.sequence(agent, row, k, messages)
        z = []
        for i in range(self.examples.latent_steps):
            h_D = self.states(agent, x_TD, n + i)[n + i - 1]
            z.append(_inner(self.spec.links, agent, links, h_D))
            x_TD = _put(x_TD, n + i, z[-1][None], 0)
        return jnp.stack(z)

    def rollout(self, links, row):
        messages = {}
        for k, agent, last in self.turns():
            if last:
                return self.cross_entropy(agent, row, k, messages)
            z_MD = self.thoughts(links, agent, row, k, messages)
            self.send(messages, links, agent, k, z_MD, len(z_MD))
        raise AssertionError("the output agent ends the last round")

    def align(self, links, row, own):
        """`own`: whether slots hold the links' own messages or the teacher's."""
        messages, losses = {}, []
        for k, agent, last in self.turns():
            if last:
                break
            z_MD = self.thoughts(links, agent, row, k, messages)
            m, table_VD = len(z_MD), self.params[agent]["embed"]["weight"]
            text = self.ids(agent, row, k)[:m]
            loss = _relative(z_MD[: len(text)], table_VD[np.array(text)])
            for e in self.topology.outgoing(agent):
                sent_MD = _outer(self.spec.links, e, links, z_MD)
                chats = [self.system.agents[a].chat for a in (e.src, e.dst)]
                ids, weights_MN = align(*chats, row.text(agent, k), m)
                taught_MD = weights_MN @ np.asarray(self.params[e.dst]["embed"]["weight"])[[*ids]]
                known = np.flatnonzero(weights_MN.sum(axis=1))
                loss += _relative(sent_MD[known], taught_MD[known])
                chosen = jax.lax.stop_gradient(sent_MD) if own else jnp.asarray(taught_MD)
                messages[k, edge_name(e.src, e.dst)] = chosen, m
            losses.append(loss)
        return sum(losses) / len(losses)


def _relative(z_MD, y_MD):
    """Squared error in units of the wanted vectors' squares."""
    return jnp.sum((z_MD - y_MD) ** 2) / np.sum(np.asarray(y_MD) ** 2)


@jax.jit
def _embed(params, ids_T):
    return params["embed"]["weight"][ids_T]


@jax.jit
def _put(x_TD, at, z_MD, i):
    return x_TD.at[at].set(z_MD[i])


@functools.partial(jax.jit, static_argnums=0)
def _states(spec, params, x_TD, n):
    valid_BT = jnp.arange(LENGTH)[None] < n
    pos_BT = agent_models.positions(valid_BT)
    h_BTD, _ = agent_models.run(spec, params, x_TD[None], valid_BT, pos_BT)
    return h_BTD[0]


@functools.partial(jax.jit, static_argnums=0)
def _surprise(spec, params, h_TD, ids_T):
    """Minus the log probability of every token after the first."""
    logits_TV = agent_models.unembed(spec, params, h_TD)
    p_TV = jnp.exp(logits_TV) / jnp.sum(jnp.exp(logits_TV), axis=1, keepdims=True)
    return -jnp.log(p_TV[jnp.arange(LENGTH - 1), ids_T[1:]])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _inner(spec, agent, links, h):
    return spec.inner(links, agent, h)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outer(spec, edge, links, z):
    return spec.outer(links, edge.src, edge.dst, z)
