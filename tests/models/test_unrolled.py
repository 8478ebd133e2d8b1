"""Layers that run one by one against the same ones in a scan."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas import models
from rmas.models import abstract_params, append, open_tail, prefill, roll, unroll, unrolled, write
from rmas.models.spec import AttentionLayer, DeltaLayer, ModelSpec, RopeSpec
from rmas.parallel import single_device_mesh, use
from rmas.weights.quantize import quantize
from support.fake_devices import mesh_of

ROPE = RopeSpec(300.0, 4)
FULL, NEAR = AttentionLayer(None, ROPE), AttentionLayer(4, ROPE)
DELTA = DeltaLayer(key_heads=1, value_heads=2, key_dim=3, value_dim=5, conv_width=4)
SPEC = ModelSpec(
    family="qwen2", vocab_size=20, d_model=8, d_ff=12, n_heads=2, n_kv_heads=1, head_dim=4,
    query_scale=0.5, activation="silu", norm_eps=1e-5, norm_offset=False, post_norms=False,
    qkv_bias=True, out_bias=False, mlp_bias=False, qk_norm=False, gated_attention=False,
    embed_scale=None, logit_softcap=None, tied=True, max_positions=64, layers=(FULL,) * 3,
)  # fmt: skip
SPECS = {
    "uniform": SPEC,
    "period and rest": dataclasses.replace(SPEC, layers=(FULL, NEAR, NEAR, FULL, NEAR)),
    "one period": dataclasses.replace(SPEC, layers=(FULL, NEAR)),
    "recurrent": dataclasses.replace(
        SPEC, family="qwen3_5", gated_attention=True, layers=(DELTA, NEAR, DELTA, NEAR, DELTA)
    ),
}
STEPS = 2


@pytest.fixture
def one_cpu():
    with use(single_device_mesh()):
        yield


def random_params(spec):
    r = np.random.default_rng(3)
    return jax.tree.map(
        lambda a: jnp.asarray(0.4 * r.standard_normal(a.shape)), abstract_params(spec)
    )


@functools.partial(jax.jit, static_argnums=0)
def prefilled(spec, params):
    """The state, prefix and tail after a prompt of three rows, one with padding."""
    valid = np.arange(6) >= np.array([[0], [3], [5]])
    x = np.random.default_rng(4).standard_normal((3, 6, spec.d_model))
    h, prefix = prefill(spec, params, x, valid)
    return h, *open_tail(spec, prefix, STEPS, h.dtype)


@functools.partial(jax.jit, static_argnums=0)
def steps(spec, params, h, prefix, tail):
    """States of some steps that read the ones before, and the tail after them."""
    states, one = [], jnp.ones((len(h), 1), bool)
    start = models.length((prefix,))
    for t in range(STEPS):
        at = (start + t)[:, None]
        h, new = models.run(spec, params, h.reshape(len(h), 1, -1), one, at, past=(prefix, tail))
        tail = write(tail, new, one, at) if t else append(tail, new, at, t)
        states.append(h[:, 0])
    return jnp.stack(states), tail


@pytest.mark.parametrize(
    ("spec", "int8"),
    [*((spec, False) for spec in SPECS.values()), (SPEC, True)],
    ids=[*SPECS, "int8"],
)
@pytest.mark.usefixtures("one_cpu")
@jax.enable_x64(True)
def test_steps_of_unrolled_layers_are_those_of_scanned_ones(spec, int8):
    params = random_params(spec)
    if int8:
        params = quantize(params)
    before, prefix, tail = prefilled(spec, params)
    expected, after = steps(spec, params, before, prefix, tail)

    one_by_one, apart, (prefix_apart, tail_apart) = unroll(spec, params, (prefix, tail))
    assert one_by_one.unrolled
    assert one_by_one.layers == spec.layers
    assert (one_by_one.n_periods, one_by_one.rest) == (0, spec.layers)
    assert not jax.tree.leaves(apart["layers"]["period"])
    states, tail_apart = steps(one_by_one, apart, before, prefix_apart, tail_apart)
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-12)
    rolled = roll(spec, tail_apart)
    assert jax.tree.structure(rolled) == jax.tree.structure(after)
    for x, y in zip(jax.tree.leaves(rolled), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("one_cpu")
def test_roll_undoes_unroll_and_leaves_others_alone():
    spec = SPECS["recurrent"]
    params = random_params(spec)
    _, prefix, tail = prefilled(spec, params)
    for segment in (prefix, tail):
        _, _, (apart,) = unroll(spec, params, (segment,))
        again = roll(spec, apart)
        assert jax.tree.structure(again) == jax.tree.structure(segment)
        jax.tree.map(np.testing.assert_array_equal, again, segment)
        assert roll(spec, segment) is segment


@pytest.mark.parametrize("limit", ["MOST_LAYERS", "MOST_BYTES"])
@pytest.mark.usefixtures("one_cpu")
def test_models_at_the_limit_are_unrolled_and_larger_ones_are_not(monkeypatch, limit):
    spec = SPECS["period and rest"]
    params = random_params(spec)
    _, prefix, _ = prefilled(spec, params)
    stacked = jax.tree.leaves((params["layers"]["period"], prefix.entries.period))
    at = {"MOST_LAYERS": len(spec.layers), "MOST_BYTES": sum(x.nbytes for x in stacked)}[limit]
    monkeypatch.setattr(unrolled, limit, at)
    assert unroll(spec, params, (prefix,))[0].unrolled
    monkeypatch.setattr(unrolled, limit, at - 1)
    assert unroll(spec, params, (prefix,)) == (spec, params, (prefix,))


def test_layers_stay_in_a_scan_on_several_devices_and_without_a_mesh():
    params = random_params(SPEC)
    assert unroll(SPEC, params, ())[0] is SPEC
    for sizes in ({"data": 2}, {"fsdp": 2}, {"tensor": 2}):
        with use(mesh_of(**sizes)):
            assert unroll(SPEC, params, ())[0] is SPEC
