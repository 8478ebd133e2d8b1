"""Every family on eight fake devices: the same numbers as on one, and where they lie."""

import collections
import functools
import logging
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rmas import models
from rmas.links import LinkSpec, init_links
from rmas.models.cache import KV
from rmas.parallel import param_shardings, put_batch, replicated, use
from rmas.system import decode
from rmas.system.sampling import Sampling
from rmas.system.turn import SystemSpec, rollout
from rmas.weights.placement import heads_of
from support.fake_devices import mesh_of
from support.tiny_families import FAMILIES, HYBRIDS, family_params, family_spec

AGENT, ROWS, LENGTH, STEPS = "a", 8, 7, 3
GREEDY = Sampling()
START = np.array([0, 2, 5, 0, 1, 6, 3, 0])  # of each row's prompt; the one before is padding
BATCH = ("data", "fsdp")
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
extended = functools.partial(pytest.param, marks=pytest.mark.extended)


def system_of(spec) -> SystemSpec:
    """One agent that writes to itself."""
    links = LinkSpec("ln_res", ((AGENT, spec.d_model),), ((AGENT, AGENT),))
    return SystemSpec(((AGENT, spec),), links)


def links_of(system: SystemSpec, dtype):
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: init_links(system.links, jax.random.key(0)))
    return jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape) * x.shape[0] ** -0.5, dtype), shapes
    )


def prompt(vocab: int) -> tuple[np.ndarray, np.ndarray]:
    ids_BT = np.random.default_rng(0).integers(0, vocab, (ROWS, LENGTH), np.int32)
    return ids_BT, np.arange(LENGTH) >= START[:, None]


def turn(system: SystemSpec, gradient: bool, params, links, ids_BT, valid_BT):
    """A rollout whose messages are read back: a loss, its gradient, and what came about."""
    spec = system.model(AGENT)

    def loss(links):
        x_BTD = models.embed(spec, params, ids_BT)
        h_BMD, z_BMD = rollout(system, params, links, AGENT, x_BTD, valid_BT, STEPS)
        sent_BMD = system.links.outer(links, AGENT, AGENT, z_BMD)
        x_BTD = jnp.concatenate([x_BTD, sent_BMD.astype(x_BTD.dtype)], axis=1)
        seen_BT = jnp.concatenate([valid_BT, jnp.ones(sent_BMD.shape[:2], bool)], axis=1)
        state = started(spec, params, x_BTD, seen_BT, decode.CHUNK)
        scores_BV = jax.nn.log_softmax(state.logits_BV)
        return -jnp.mean(scores_BV[:, 3]), (h_BMD, sent_BMD, state)

    return jax.value_and_grad(loss, has_aux=True)(links) if gradient else (loss(links), None)


def started(spec, params, x_BTD, valid_BT, slots: int) -> decode.DecodeState:
    """After a prompt, with space for so many tokens."""
    state = decode.start(spec, params, x_BTD, valid_BT)
    return state.widened(valid_BT.shape[1], slots)


def whole(spec, params, ids_BT, valid_BT):
    """States and logits of all positions."""
    x_BTD = models.embed(spec, params, ids_BT)
    h_BTD, _ = models.run(spec, params, x_BTD, valid_BT, models.positions(valid_BT))
    return h_BTD, models.unembed(spec, params, h_BTD)


def outcome(system: SystemSpec, gradient: bool, mesh, params, links, ids_BT, valid_BT):
    """All of it, and the tokens that follow."""
    spec = system.model(AGENT)
    ids_BT, valid_BT = put_batch(mesh, (ids_BT, valid_BT))
    with use(mesh):
        h_BTD, logits_BTV = jax.jit(whole, static_argnums=0)(spec, params, ids_BT, valid_BT)
        (loss, (h_BMD, sent_BMD, state)), grads = jax.jit(turn, static_argnums=(0, 1))(
            system, gradient, params, links, ids_BT, valid_BT
        )
        keys = decode.row_keys(0, [str(row) for row in range(ROWS)])
        after, ids_BC, _ = decode.chunk(
            spec, GREEDY, params, state, keys, np.array([spec.vocab_size]), np.full(ROWS, 8)
        )
    numbers = {
        "states": h_BTD,
        "logits": logits_BTV,
        "latents": h_BMD,
        "messages": sent_BMD,
        "loss": loss,
        "grads": grads,
    }
    return numbers, ids_BC, (state, after)


@functools.cache
def single(family: str, dtype: str, gradient: bool):
    """The same on one device."""
    with jax.enable_x64(dtype == "float64"):
        spec = family_spec(family)
        system = system_of(spec)
        params, links = family_params(spec, 0, dtype), links_of(system, dtype)
        numbers, ids_BC, _ = outcome(
            system, gradient, mesh_of(), params, links, *prompt(spec.vocab_size)
        )
        return system, params, links, jax.device_get(numbers), np.asarray(ids_BC)


def agree(found, expected, tolerance: float) -> None:
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert x.dtype == y.dtype
        where = jax.tree_util.keystr(path)
        limit = tolerance * max(1.0, np.abs(y).max())
        np.testing.assert_allclose(x, y, rtol=0, atol=limit, err_msg=where)


def lies(x, mesh, *spec) -> bool:
    return x.sharding.is_equivalent_to(NamedSharding(mesh, P(*spec)), x.ndim)


def check_params(spec, params, mesh, heads, vocab) -> None:
    """`heads` and `vocab` are what the axes of KV heads and of the vocabulary are split over."""
    assert lies(params["embed"]["weight"], mesh, vocab, "fsdp")
    layers = [params["layers"]["period"]["0"], params["layers"]["period"].get("1", {})]
    mixer = next(layer["attention"] for layer in layers if "attention" in layer)
    assert lies(mixer["q_proj"]["kernel"], mesh, None, "fsdp", "tensor")
    assert lies(mixer["k_proj"]["kernel"], mesh, None, "fsdp", heads)
    assert lies(mixer["o_proj"]["kernel"], mesh, None, "tensor", "fsdp")
    assert lies(layers[0]["mlp"]["down_proj"]["kernel"], mesh, None, "tensor", "fsdp")
    if spec.delta:
        delta = layers[0]["delta"]
        assert lies(delta["q_proj"]["kernel"], mesh, None, "fsdp", heads)
        assert lies(delta["v_proj"]["kernel"], mesh, None, "fsdp", "tensor")
        assert lies(delta["q_conv"]["kernel"], mesh, None, None, heads)
        assert lies(delta["a_log"], mesh, None, "tensor")


def check_cache(state: decode.DecodeState, mesh, heads) -> None:
    """Rows over both batch axes, heads over `heads`, in stacks as in single layers."""
    assert lies(state.logits_BV, mesh, BATCH, heads)
    for segment in (state.prefix, state.tail):
        assert lies(segment.valid_BS, mesh, BATCH)
        assert lies(segment.pos_BS, mesh, BATCH)
        for stacked, entries in ((True, segment.entries.period), (False, segment.entries.rest)):
            lead = (None,) * stacked
            for entry in entries:
                if isinstance(entry, KV):
                    assert lies(entry.k_BHSK, mesh, *lead, BATCH, heads)
                    assert lies(entry.v_BHSK, mesh, *lead, BATCH, heads)
                elif segment is state.tail:
                    assert lies(entry.s_BHGKU, mesh, *lead, BATCH, heads)
                    assert lies(entry.q_BWC, mesh, *lead, BATCH, None, heads)
                    assert lies(entry.v_BWC, mesh, *lead, BATCH, None, "tensor")


MESHES = {"whole": (2, 2, 2), "uneven": (1, 2, 4)}


@pytest.mark.parametrize(
    ("family", "mesh", "dtype", "gradient"),
    [
        ("qwen3", "whole", "float64", True),
        slow("qwen3_5", "uneven", "float64", True),
        extended("llama", "whole", "float32", True),
        *(extended(f, "whole", "float64", True) for f in FAMILIES if f != "qwen3"),
        *(extended(f, "uneven", "float64", True) for f in FAMILIES if f != "qwen3_5"),
        extended("qwen3_5", "whole", "float32", True),
    ],
)
def test_family_on_a_mesh(family, mesh, dtype, gradient, caplog, capfd):
    """KV heads, delta key heads and the vocabulary do not divide over the uneven mesh."""
    system, params, links, expected, ids_BC = single(family, dtype, gradient)
    spec, sizes = system.model(AGENT), MESHES[mesh]
    mesh = mesh_of(*sizes)
    heads = vocab = "tensor" if sizes[2] == 2 else None
    with jax.enable_x64(dtype == "float64"), caplog.at_level(logging.WARNING):
        shardings = param_shardings(mesh, params, heads_of(spec))
        params = jax.device_put(params, shardings)
        links = jax.device_put(links, replicated(mesh))
        numbers, found_BC, states = outcome(
            system, gradient, mesh, params, links, *prompt(spec.vocab_size)
        )
    tolerance = 1e-9 if dtype == "float64" else 5e-4 if family in HYBRIDS else 2e-4
    agree(numbers, expected, tolerance)
    np.testing.assert_array_equal(found_BC, ids_BC)
    assert len(np.unique(ids_BC)) > 4

    check_params(spec, params, mesh, heads, vocab)
    for state in states:
        check_cache(state, mesh, heads)
    for name in ("states", "latents", "messages"):
        assert lies(numbers[name], mesh, BATCH), name
    assert lies(numbers["logits"], mesh, BATCH, None, vocab)
    assert all(x.is_fully_replicated for x in jax.tree.leaves((links, numbers["grads"])))
    told = {record.getMessage().split(" does not")[0] for record in caplog.records}
    expected_logs = {"kv_heads=2", "vocab=42"} | ({"delta_heads=2"} if spec.delta else set())
    assert told == (set() if heads else expected_logs)
    assert "rematerialization" not in capfd.readouterr().err


# What devices exchange.


EVEN = {
    "num_key_value_heads": 4,
    "vocab_size": 40,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
}


def compiled(family: str, sizes: tuple[int, int, int], gradient: bool):
    """The program of a turn in which all heads divide, and its architecture."""
    spec, mesh = family_spec(family, **EVEN), mesh_of(*sizes)
    system = system_of(spec)
    params, links = family_params(spec), links_of(system, np.float32)
    params = jax.device_put(params, param_shardings(mesh, params, heads_of(spec)))
    links = jax.device_put(links, replicated(mesh))
    ids_BT, valid_BT = put_batch(mesh, prompt(spec.vocab_size))
    program = jax.jit(turn, static_argnums=(0, 1))
    with use(mesh):
        text = program.lower(system, gradient, params, links, ids_BT, valid_BT).compile().as_text()
    return spec, text


def exchanged(text: str, name: str) -> list[int]:
    """Numbers in the results of each exchange of a kind."""
    results = re.findall(rf"= (.*) {name}(?:-start)?\(", text)
    shapes = [re.findall(r"\w\[([\d,]*)\]", result) for result in results]
    return [max(math.prod(int(n) for n in s.split(",") if n) for s in shape) for shape in shapes]


OTHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.mark.parametrize(
    ("family", "gradient"),
    [
        ("qwen3", False),
        ("qwen3_5", False),
        slow("gemma3", False),
        *(slow(family, True) for family in ("qwen3", "qwen3_5")),
        extended("gemma3", True),
    ],
)
def test_tensor_split_turn_exchanges_only_sums(family, gradient, capfd):
    """Neither weights nor caches move: not in prefill, in latent steps, or back through them."""
    _, text = compiled(family, (2, 1, 4), gradient)
    assert {name: exchanged(text, name) for name in OTHERS} == {name: [] for name in OTHERS}
    assert exchanged(text, "all-reduce")
    assert "rematerialization" not in capfd.readouterr().err
    if family == "qwen3_5":
        # Each device solves for its own rows and heads: half of 8 by a quarter of 4.
        solved = re.findall(r"= f32\[([\d,]+)\]\S* custom-call\(.*trsm", text)
        assert solved
        assert {tuple(map(int, shape.split(",")[:3])) for shape in solved} == {(4, 1, 2)}


def test_fsdp_split_turn_gathers_weights_alone(capfd):
    """Nothing of the stream: in prefill each matrix where it is used; the embedding and the head
    once; and once, before the latent steps, those of all layers."""
    spec, text = compiled("qwen3", (2, 2, 2), False)
    d, f, v = spec.d_model, spec.d_ff // 2, spec.vocab_size // 2
    q, kv = spec.n_heads // 2 * spec.head_dim, spec.n_kv_heads // 2 * spec.head_dim
    gathered = exchanged(text, "all-gather")
    stacked = {len(spec.layers) * d * n for n in (q, kv, f)}
    assert set(gathered) == {d * n for n in (q, kv, f, v)} | stacked
    assert {name: exchanged(text, name) for name in OTHERS[1:]} == {name: [] for name in OTHERS[1:]}
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("family", ["qwen3", slow("gemma3"), slow("qwen3_5")])
def test_decoding_moves_no_cache(family):
    """Where KV heads do not divide either: only who says the likeliest token is exchanged."""
    spec, mesh = family_spec(family, **EVEN | {"num_key_value_heads": 2}), mesh_of(2, 1, 4)
    params = family_params(spec)
    params = jax.device_put(params, param_shardings(mesh, params, heads_of(spec)))

    @jax.jit
    def start(params, ids_BT, valid_BT):
        x_BTD = models.embed(spec, params, ids_BT)
        return started(spec, params, x_BTD, valid_BT, decode.CHUNK)

    keys = decode.row_keys(0, [""] * ROWS)
    with use(mesh):
        state = start(params, *put_batch(mesh, prompt(spec.vocab_size)))
        program = decode.chunk.lower(
            spec, GREEDY, params, state, keys, np.array([0]), np.full(ROWS, 8)
        )
    text = program.compile().as_text()
    assert max(exchanged(text, "all-gather")) <= ROWS // 2 * 4
    assert {name: exchanged(text, name) for name in OTHERS[1:]} == {name: [] for name in OTHERS[1:]}


@pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 1, 4)], ids=str)
def test_all_chunks_are_one_program(sizes):
    """What a chunk returns lies as what it was given: the second one compiles nothing."""
    spec, mesh = family_spec("qwen3", num_hidden_layers=1), mesh_of(*sizes)
    params = family_params(spec)
    params = jax.device_put(params, param_shardings(mesh, params, heads_of(spec)))

    @jax.jit
    def start(params, ids_BT, valid_BT):
        x_BTD = models.embed(spec, params, ids_BT)
        return started(spec, params, x_BTD, valid_BT, 3 * decode.CHUNK)

    keys = decode.row_keys(0, [""] * ROWS)
    with use(mesh):
        state = start(params, *put_batch(mesh, prompt(spec.vocab_size)))
        compiled = collections.Counter()

        def count(name: str, *_, **__) -> None:
            compiled[name] += 1

        jax.monitoring.register_event_duration_secs_listener(count)
        eos = np.array([spec.vocab_size])
        try:
            for _ in range(3):
                state, _, _ = decode.chunk(
                    spec, GREEDY, params, state, keys, eos, np.full(ROWS, 99)
                )
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
    assert compiled["/jax/core/compile/backend_compile_duration"] == 1


def test_the_compiler_would_tell_of_a_rematerialization(capfd):
    """What the tests above look for on the error stream is what XLA writes there."""

    def clumsy(x_XY):
        x_XY = jax.lax.with_sharding_constraint(jnp.sin(x_XY), P("data", None))
        return jax.lax.with_sharding_constraint(jnp.sin(x_XY), P(None, ("fsdp", "data")))

    with use(mesh_of(2, 2, 2)):
        jax.jit(clumsy).lower(jnp.ones((16, 16))).compile()
    assert "rematerialization" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "qwen3_5"])
def test_rows_taken_back_read_on_alike(family):
    """What a tool call does to a decoding: one row goes back and reads on, the others stay."""
    with jax.enable_x64(True):
        spec, keys = family_spec(family), decode.row_keys(0, [str(row) for row in range(ROWS)])
        back_B = np.arange(ROWS) == 2
        told_BT = np.where(back_B[:, None], np.arange(1, 6), 0).astype(np.int32)
        reads_BT = np.broadcast_to(back_B[:, None], told_BT.shape)

        @functools.partial(jax.jit, static_argnums=0)
        def start(spec, params, ids_BT, valid_BT):
            x_BTD = models.embed(spec, params, ids_BT)
            return started(spec, params, x_BTD, valid_BT, 2 * decode.CHUNK)

        def run(mesh, params):
            with use(mesh):
                before = start(spec, params, *put_batch(mesh, prompt(spec.vocab_size)))
                eos = np.array([spec.vocab_size])
                after, _, _ = decode.chunk(
                    spec, GREEDY, params, before, keys, eos, np.full(ROWS, 99)
                )
                state = decode.park(before, after, back_B)
                state = decode.extend(
                    spec, 3 * decode.CHUNK, params, state, told_BT, reads_BT, 2 * back_B
                )
                ended, ids_BC, _ = decode.chunk(
                    spec, GREEDY, params, state, keys, eos, np.full(ROWS, 99)
                )
            return jax.device_get((state.logits_BV, ended.logits_BV, ended.count_B, ids_BC))

        params = family_params(spec, 0, "float64")
        mesh = mesh_of(2, 2, 2)
        sharded = jax.device_put(params, param_shardings(mesh, params, heads_of(spec)))
        for one, other in zip(run(mesh_of(), params), run(mesh, sharded), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
