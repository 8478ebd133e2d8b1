"""Latent memory against its definition: turns one by one, caches joined as lists, no padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.errors import InputError
from rmas.links import LinkSpec
from rmas.models import ops
from rmas.parallel import put_batch, use
from rmas.system.batch import EMPTY, Line, stack
from rmas.system.memory import check_memory, think_in_memory
from rmas.system.topology import Edge, Topology
from rmas.system.turn import SystemSpec, rollout
from support.fake_devices import mesh_of
from support.tiny_families import family_params, family_spec
from support.tiny_systems import EVERYTHING, random_links

STEPS = 3
CIRCLE = Topology(
    name="circle",
    agents=("a", "out"),
    edges=(Edge("a", "out", "round"), Edge("out", "a", "feedback"), Edge("out", "out", "feedback")),
    output="out",
)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def norm(spec, x_TD, weight_D):
    y_TD = x_TD / np.sqrt(np.mean(x_TD**2, axis=-1, keepdims=True) + spec.norm_eps)
    return y_TD * (weight_D + (1.0 if spec.norm_offset else 0.0))


def rotated(rope, x_THK, pos_T):
    angle_TR = pos_T[:, None] * np.asarray(ops.inverse_frequencies(rope), np.float64)
    cos, sin = (f(angle_TR)[:, None] for f in (np.cos, np.sin))
    half = cos.shape[-1]
    a, b, rest = x_THK[..., :half], x_THK[..., half : 2 * half], x_THK[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def layers_of(spec, params):
    layers = params["layers"]
    for n in range(spec.n_periods):
        for j, layer in enumerate(spec.period):
            yield layer, jax.tree.map(lambda x, n=n: np.asarray(x[n]), layers["period"][str(j)])
    for j, layer in enumerate(spec.rest):
        yield layer, jax.tree.map(np.asarray, layers["rest"][str(j)])


def run_once(spec, params, x_TD, read):
    """States `[T, D]` of a sequence that stands behind turns, and its keys (not rotated), values.

    `read` are turns: by layer, `(k_SHK, v_SHK)`. Every position is computed anew.
    """
    before = sum(len(turn[0][0]) for turn in read)
    pos_T = before + np.arange(len(x_TD))
    pos_S = np.arange(before + len(x_TD))
    written = []
    for n, (layer, own) in enumerate(layers_of(spec, params)):
        attention = own["attention"]
        h_TD = norm(spec, x_TD, own["input_norm"]["weight"])

        def heads(name, attention=attention, h_TD=h_TD):
            y = h_TD @ attention[f"{name}_proj"]["kernel"]
            y = y.reshape(len(h_TD), -1, spec.head_dim)
            normed = spec.qk_norm and name != "v"
            return norm(spec, y, attention[f"{name}_norm"]["weight"]) if normed else y

        q_THK, k_SHK, v_SHK = heads("q"), heads("k"), heads("v")
        written.append((k_SHK, v_SHK))
        k_SHK = np.concatenate([*(turn[n][0] for turn in read), k_SHK])
        v_SHK = np.concatenate([*(turn[n][1] for turn in read), v_SHK])
        group = spec.n_heads // spec.n_kv_heads
        q_THK = rotated(layer.rope, q_THK, pos_T)
        k_SHK = np.repeat(rotated(layer.rope, k_SHK, pos_S), group, axis=1)
        distance_TS = pos_T[:, None] - pos_S
        seen_TS = distance_TS >= 0
        if layer.window is not None:
            seen_TS &= distance_TS < layer.window
        scores_HTS = np.einsum("thk,shk->hts", q_THK, k_SHK) * spec.query_scale
        p_HTS = np.exp(np.where(seen_TS, scores_HTS, -np.inf) - scores_HTS.max())
        p_HTS /= p_HTS.sum(-1, keepdims=True)
        o_TF = np.einsum("hts,shk->thk", p_HTS, np.repeat(v_SHK, group, axis=1))
        y_TD = o_TF.reshape(len(x_TD), -1) @ attention["o_proj"]["kernel"]
        post = spec.post_norms
        x_TD = x_TD + (norm(spec, y_TD, own["post_mixer_norm"]["weight"]) if post else y_TD)
        h_TD, mlp = norm(spec, x_TD, own["mlp_norm"]["weight"]), own["mlp"]
        gate_TF = np.asarray(ops.ACTIVATIONS[spec.activation](h_TD @ mlp["gate_proj"]["kernel"]))
        y_TD = (gate_TF * (h_TD @ mlp["up_proj"]["kernel"])) @ mlp["down_proj"]["kernel"]
        x_TD = x_TD + (norm(spec, y_TD, own["post_mlp_norm"]["weight"]) if post else y_TD)
    return norm(spec, x_TD, np.asarray(params["norm"]["weight"])), written


class Case:
    """Agents with one base model, and links of their own."""

    def __init__(self, family, topology=EVERYTHING, rounds=2, rows=3):
        self.topology, self.rounds, self.rows = topology, rounds, rows
        self.model = family_spec(family, num_hidden_layers=3 if family == "gemma3" else 2)
        self.params = family_params(self.model, dtype=np.float64)
        widths = tuple((a, self.model.d_model) for a in topology.agents)
        links = LinkSpec("linear", widths, topology.link_edges)
        self.spec = SystemSpec(tuple((a, self.model) for a in topology.agents), links)
        self.links = random_links(links, 5)

    def ids(self, agent, k, row):
        random = np.random.default_rng([row, self.topology.index(agent), k])
        return random.integers(0, 40, random.integers(1, 7)).tolist()

    def embedded(self, ids):
        return np.asarray(models.embed(self.model, self.params, np.array(ids)))

    def inner(self, agent, h_D):
        link = self.links["inner"][agent]["proj1"]
        return h_D @ np.asarray(link["kernel"]) + np.asarray(link["bias"])

    def prompts(self, rows):
        """Prompt arrays; a row of None only fills up the batch."""
        return {
            agent: stack(
                [
                    [EMPTY if r is None else Line.of_tokens(self.ids(agent, k, r)) for r in rows]
                    for k in range(self.rounds)
                ]
            )
            for agent in self.topology.agents
        }

    def state(self, prompts):
        return think_in_memory(
            topology=self.topology,
            spec=self.spec,
            steps=STEPS,
            params=dict.fromkeys(self.topology.agents, self.params),
            links=self.links,
            prompts=prompts,
        )

    @functools.cached_property
    def naive(self):
        return [self._naive(row) for row in range(self.rows)]

    def _naive(self, row):
        """The logits of the answer's first token, and how many positions stand before it."""
        turns = {}
        for k in range(self.rounds):
            for agent in self.topology.agents:
                read = [
                    turns[k - 1, e.src]
                    for e in self.topology.edges
                    if e.dst == agent and e.when == "feedback" and k
                ]
                read += [
                    turns[k, e.src]
                    for e in self.topology.edges
                    if e.dst == agent and e.when == "round"
                ]
                x_TD = self.embedded(self.ids(agent, k, row))
                h_TD, written = run_once(self.model, self.params, x_TD, read)
                if agent == self.topology.output and k == self.rounds - 1:
                    logits_V = models.unembed(self.model, self.params, jnp.asarray(h_TD[-1]))
                    return logits_V, sum(len(turn[0][0]) for turn in read) + len(x_TD)
                for _ in range(STEPS):
                    x_TD = np.concatenate([x_TD, self.inner(agent, h_TD[-1])[None]])
                    h_TD, written = run_once(self.model, self.params, x_TD, read)
                turns[k, agent] = written
        raise AssertionError("the output agent ends the last round")


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "topology", "rounds"),
    [("qwen3", EVERYTHING, 3), ("gemma3", CIRCLE, 2)],
)
def test_the_engine_is_the_loop(family, topology, rounds):
    """Senders in the same round, the one before, oneself; windows; padding; idle rows."""
    case = Case(family, topology, rounds)
    state = case.state(case.prompts([0, None, 1, 2]))
    for at, row in ((0, 0), (2, 1), (3, 2)):
        logits_V, count = case.naive[row]
        close(state.logits_BV[at], logits_V)
        positions = state.prefix.pos_BS[at][state.prefix.valid_BS[at]]
        np.testing.assert_array_equal(np.sort(positions), np.arange(count))
    np.testing.assert_array_equal(state.done_B, [False, True, False, False])
    # Neither the row's place nor the others count.
    state = case.state(case.prompts([2, 2, None, 0]))
    for at, row in ((0, 2), (1, 2), (3, 0)):
        close(state.logits_BV[at], case.naive[row][0])


@pytest.mark.extended
def test_a_mesh_changes_nothing():
    case, mesh = Case("qwen3"), mesh_of(2, 1, 2)
    with use(mesh):
        state = case.state(put_batch(mesh, case.prompts([0, 1, 2, None]), axis=1))
    for row in range(3):
        close(state.logits_BV[row], case.naive[row][0])


def test_one_reader_is_one_sequence():
    """Where nothing is left out, memory is a prompt that goes on: one pass without a cache."""
    topology = Topology("pair", ("a", "out"), (Edge("a", "out", "round"),), "out")
    case = Case("qwen3", topology, rounds=1)
    prompts = case.prompts([0, 1, 2])
    state = case.state(prompts)
    for row in range(case.rows):
        x_BTD = case.embedded([case.ids("a", 0, row)])
        valid_BT = np.ones(x_BTD.shape[:2], bool)
        _, z_BMD = rollout(case.spec, case.params, case.links, "a", x_BTD, valid_BT, STEPS)
        last_BTD = case.embedded([case.ids("out", 0, row)])
        x_BTD = jnp.concatenate([x_BTD, z_BMD, last_BTD], axis=1)
        h_BTD = models.Model(case.model).run(case.params, x_BTD, np.ones(x_BTD.shape[:2], bool))
        close(state.logits_BV[row], models.unembed(case.model, case.params, h_BTD[0, -1]))


def test_a_segment_at_another_start():
    """It is what the same prompt writes there; slots without a position stay so."""
    spec = family_spec("gemma3")  # two kinds of rotary angles, and layers after the last period
    params = family_params(spec, dtype=np.float64)
    x_BTD = models.embed(spec, params, np.arange(10).reshape(2, 5))
    valid_BT = np.array([[False, False, True, True, True], [True] * 5])

    def written(start_B):
        pos_BT = models.positions(valid_BT, start_B)
        _, entries = models.run(spec, params, x_BTD, valid_BT, pos_BT, left_padded=True)
        return models.Segment(entries, jnp.asarray(valid_BT), pos_BT)

    to_B = np.array([9, 0])
    moved, wanted = models.start_at(spec, written(np.array([4, 7])), to_B), written(to_B)
    for one, other in zip(
        jax.tree.leaves(moved.entries), jax.tree.leaves(wanted.entries), strict=True
    ):
        valid = valid_BT[:, None, :, None]
        close(np.where(valid, one, 0), np.where(valid, other, 0))
    np.testing.assert_array_equal(moved.pos_BS, np.where(valid_BT, wanted.pos_BS, 0))
    nothing = models.empty_segment(spec, 2, 3, np.float64)
    assert not models.start_at(spec, nothing, to_B).pos_BS.any()


def test_agents_that_cannot_read_each_other_are_refused():
    spec, hybrid = family_spec("qwen3"), family_spec("qwen3_5")
    check_memory(EVERYTHING, [spec])
    with pytest.raises(InputError, match="share one base model; those of everything have 2: leave"):
        check_memory(EVERYTHING, [spec, spec])
    with pytest.raises(InputError, match="recurrent layers have none: leave the method out, or"):
        check_memory(EVERYTHING, [hybrid])
