"""Floors are bytes and operations of a device, counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rmas import parallel
from rmas.models import abstract_params
from rmas.models.base import base_spec
from rmas.parallel.chips import CHIPS
from rmas.plans.floors import Share, Work
from support.tiny_families import family_spec

V5E = CHIPS["TPU v5 lite"]
QWEN = base_spec("Qwen/Qwen3-1.7B")
LAYER = 2048 * (2048 + 2 * 1024) + 2048 * 2048 + 3 * 2048 * 6144  # products of one of 28 layers
KEYS = 2 * 8 * 128 * 2  # bytes of one position of one layer


def share(spec=QWEN, mesh="single", rows=8, **more):
    sizes = parallel.parse_mesh(mesh)
    n = sizes.data * sizes.fsdp * sizes.tensor
    return Share(spec, parallel.abstract_mesh(sizes, n), rows, jnp.bfloat16, **more)


def test_a_latent_step_reads_weights_and_caches_once():
    found = share().latent_step(536)
    norms = 28 * (2 * 2048 + 2 * 128)
    assert found.bytes == 2 * (28 * LAYER + norms) + 8 * 536 * 28 * KEYS
    assert found.flops == 2 * 8 * 28 * LAYER
    assert found.seconds(V5E) == found.bytes / 819e9  # memory decides, not the matrix unit
    assert found.seconds(V5E) == pytest.approx(4.04e-3, rel=1e-3)
    linked = share(link=1000).latent_step(536)
    assert linked.bytes == found.bytes + 1000


def test_a_token_reads_the_head_too():
    step, token = share().latent_step(536), share().token(536)
    assert token.bytes - step.bytes == 2 * QWEN.vocab_size * 2048
    assert token.flops - step.flops == 2 * 8 * QWEN.vocab_size * 2048


def test_a_prefill_multiplies_every_position():
    found = share().prefill(512)
    scores = 28 * 2 * 16 * 128 * 512 * 256
    assert found.flops == 2 * 8 * (512 * 28 * LAYER + scores)
    assert found.seconds(V5E) == found.flops / 197e12


@pytest.mark.parametrize(("positions", "window"), [(64, None), (64, 100), (64, 64), (100, 64)])
def test_a_window_counts_the_keys_that_queries_see(positions, window):
    spec = family_spec("mistral", sliding_window=window)
    (layer,) = set(spec.layers)
    seen = sum(min(query, window or positions) for query in range(1, positions + 1))
    found = share(spec, rows=1).prefill(positions).flops / 2
    kernels = sum(
        x.size
        for path, x in jax.tree_util.tree_flatten_with_path(abstract_params(spec)["layers"])[0]
        if path[-1].key == "kernel"
    )
    scores = (found - positions * kernels) / (len(spec.layers) * 2 * spec.n_heads * spec.head_dim)
    # Half a key of each query is its own.
    assert layer.window == window
    assert scores == pytest.approx(seen, abs=positions / 2)
    assert scores < seen


def test_meshes_split_what_they_can():
    whole = share(rows=8)
    tensor = share(mesh="data=4,tensor=2")
    assert tensor.cache(512) == whole.cache(512) / 8
    assert tensor.latent_step(0).bytes == pytest.approx(whole.latent_step(0).bytes / 2, rel=1e-3)
    # fsdp gathers weights whole before they are read.
    fsdp = share(mesh="data=2,fsdp=2")
    assert fsdp.latent_step(0) == share(mesh="data=4").latent_step(0)
    # Key/value heads that do not divide are whole everywhere.
    odd = dataclasses.replace(QWEN, n_kv_heads=1)
    assert share(odd, "tensor=2").cache(100) == share(odd).cache(100)


def test_windows_and_states_do_not_grow():
    spec = family_spec("qwen3_5")
    recurrent = share(dataclasses.replace(spec, layers=(spec.delta,) * 2))
    assert recurrent.cache(10) == recurrent.cache(10_000) > 0
    window = family_spec("gemma3")
    local = [layer for layer in window.layers if getattr(layer, "window", None)]
    short = share(dataclasses.replace(window, layers=(local[0],)))
    assert short.cache(local[0].window) == short.cache(10_000)


def test_int8_halves_the_bytes():
    whole, eight = share().latent_step(0).bytes, share(quantize=True).latent_step(0).bytes
    assert 0.5 < eight / whole < 0.51


def test_work_adds_up():
    one = Work(1.0, 4.0)
    assert one + one == one.times(2) == Work(2.0, 8.0)
