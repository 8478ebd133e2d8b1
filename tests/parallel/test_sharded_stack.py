"""A small decoder written out in JAX: its parameters placed by the rules, its arrays constrained.

Values and gradients on a mesh equal those of one device, whatever divides and whatever does not.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmas.parallel import Heads, batch_multiple, constrain, placer, put_batch, use
from support.fake_devices import dense_shapes, mesh_of, nested, random_arrays

SIZE, WIDTH, LAYERS = 4, 8, 3
REST = "layers/rest/0/"


def norm(x, weight):
    return weight["weight"] * x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def linear(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def layer(heads: Heads, x_BTD, p):
    """Grouped-query attention and a gated MLP."""
    B, T, _ = x_BTD.shape
    x_BTD = constrain(x_BTD, "batch", None, None)
    a, seen = p["attention"], norm(x_BTD, p["input_norm"])
    q = linear(seen, a["q_proj"]).reshape(B, T, heads.query, SIZE)
    k = linear(seen, a["k_proj"]).reshape(B, T, heads.kv, SIZE)
    v = linear(seen, a["v_proj"]).reshape(B, T, heads.kv, SIZE)
    q = constrain(norm(q, a["q_norm"]), "batch", None, "heads", None)
    k = constrain(norm(k, a["k_norm"]), "batch", None, "kv_heads", None)
    v = constrain(v, "batch", None, "kv_heads", None)
    q = q.reshape(B, T, heads.kv, -1, SIZE)
    weights = jax.nn.softmax(jnp.einsum("BTHGK,BSHK->BHGTS", q, k) / SIZE, axis=-1)
    mixed = jnp.einsum("BHGTS,BSHK->BTHGK", weights, v).reshape(B, T, -1)
    x_BTD = x_BTD + linear(mixed, a["o_proj"])
    m, seen = p["mlp"], norm(x_BTD, p["mlp_norm"])
    hidden = jax.nn.silu(linear(seen, m["gate_proj"])) * linear(seen, m["up_proj"])
    return constrain(x_BTD + linear(hidden, m["down_proj"]), "batch", None, None), (k, v)


def run(heads: Heads, tied: bool, params, ids_BT):
    """Mean loss of the next id, with logits, the last states and all layers' keys and values."""
    table = constrain(params["embed"]["weight"], "vocab", None)
    x_BTD = jnp.take(table, ids_BT, axis=0)
    step = jax.checkpoint(functools.partial(layer, heads))
    x_BTD, cache = lax.scan(step, x_BTD, params["layers"]["period"]["0"])
    h_BTD = norm(x_BTD, params["norm"])
    head = table.T if tied else params["head"]["kernel"]
    logits_BTV = constrain(h_BTD @ head, "batch", None, "vocab")
    scores = jax.nn.log_softmax(logits_BTV)
    loss = -jnp.mean(jnp.take_along_axis(scores[:, :-1], ids_BT[:, 1:, None], axis=-1))
    return loss, (logits_BTV, h_BTD, cache)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("sizes", "heads", "vocab", "tied"),
    [
        ((2, 2, 2), Heads(4, 2), 32, True),
        ((1, 2, 4), Heads(6, 2), 21, False),  # neither heads nor the vocabulary divide
        slow((2, 2, 2), Heads(4, 2), 32, False),
        slow((2, 1, 4), Heads(4, 2), 32, True),  # KV heads do not divide
        slow((8, 1, 1), Heads(4, 2), 32, True),
        slow((1, 8, 1), Heads(4, 2), 32, True),
        slow((1, 1, 8), Heads(8, 8), 32, True),
    ],
    ids=str,
)
def test_mesh_equals_one_device(sizes, heads, vocab, tied):
    mesh = mesh_of(*sizes)
    with jax.enable_x64(True):
        shapes = dense_shapes(heads, LAYERS, vocab, WIDTH, SIZE)
        arrays = {p: x for p, x in random_arrays(shapes).items() if not p.startswith(REST)}
        ids_BT = np.random.default_rng(1).integers(0, vocab, (8, 6), np.int32)
        place = placer(mesh, heads)
        placed = {p: place(p, x.shape, x.dtype, x.__getitem__) for p, x in arrays.items()}
        f = jax.jit(jax.value_and_grad(functools.partial(run, heads, tied), has_aux=True))
        expected = f(nested(arrays), ids_BT)
        with use(mesh):
            found = f(nested(placed), put_batch(mesh, ids_BT))
    (loss, aux), grads = found
    assert loss.dtype == np.float64
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, expected
    )
    moved = {name for name, g in grads.items() if any(np.any(x) for x in jax.tree.leaves(g))}
    assert moved == {"embed", "layers", "norm"} | (set() if tied else {"head"})

    def shard(x):
        return x.addressable_shards[0].data.shape

    def split(n: int) -> int:
        return n if n % sizes[2] else n // sizes[2]

    logits_BTV, h_BTD, (k_LBTHK, _) = aux
    rows = len(ids_BT) // batch_multiple(mesh)
    assert shard(h_BTD) == (rows, 6, WIDTH)
    assert shard(logits_BTV) == (rows, 6, split(vocab))
    assert shard(k_LBTHK) == (LAYERS, rows, 6, split(heads.kv), SIZE)


def collectives(compiled: str) -> dict[str, int]:
    """How many of each exchange between devices a compiled program holds."""
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    found = {
        name: compiled.count(f" {name}(") + compiled.count(f" {name}-start(") for name in names
    }
    return {name: n for name, n in found.items() if n}


@pytest.mark.usefixtures("optimized")
def test_tensor_split_layer_exchanges_only_sums():
    """One sum for each half of a layer: the point of column- then row-parallel matrices."""
    mesh, heads = mesh_of(data=2, tensor=4), Heads(4, 4)
    arrays = random_arrays(dense_shapes(heads, LAYERS, 32, WIDTH, SIZE), np.float32)
    place = placer(mesh, heads)
    params = nested(
        {
            path.removeprefix(REST): place(path, x.shape, x.dtype, x.__getitem__)
            for path, x in arrays.items()
            if path.startswith(REST)
        }
    )
    x_BTD = put_batch(mesh, np.ones((8, 6, WIDTH), np.float32))
    with use(mesh):
        compiled = jax.jit(functools.partial(layer, heads)).lower(x_BTD, params).compile()
    assert collectives(compiled.as_text()) == {"all-reduce": 2}
