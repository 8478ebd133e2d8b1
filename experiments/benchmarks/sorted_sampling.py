"""The threshold search of `rmas.system.sampling` against its definition by sorting."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rmas.shapes import Array
from rmas.system.sampling import Sampling, keep_likeliest


def compare(sampling: Sampling, batch: int, size: int, repeats: int) -> dict[str, float]:
    """The threshold against sorting on logits `[batch, size]`; times in seconds."""
    random = np.random.default_rng(0)
    logits_BV = jnp.asarray(3 * random.normal(size=(batch, size)), jnp.float32)
    programs = [jax.jit(functools.partial(f, sampling)) for f in (keep_likeliest, by_sorting)]
    kept, expected = (np.asarray(program(logits_BV)) for program in programs)
    times = np.array([[_seconds(f, logits_BV) for f in programs] for _ in range(repeats)])
    threshold, sorting = np.median(times, axis=0).tolist()
    return {
        "batch": batch,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "threshold": threshold,
        "least": times[:, 0].min(),
        "most": times[:, 0].max(),
        "sorting": sorting,
        "ratio": sorting / threshold,
        "differ": int(np.sum(np.any(kept != expected, axis=1))),
    }


def _seconds(program: Callable[[Array], Array], logits_BV: Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(logits_BV))
    return time.perf_counter() - start


def by_sorting(sampling: Sampling, logits_BV: Array) -> Array:
    """The definition of `keep_likeliest`: the likeliest tokens in order, cut after `top_k`, then
    where their sum reaches `top_p`; ties of the last one stay."""
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    keep_BV = jnp.ones_like(sorted_BV, bool)
    if sampling.top_k > 0:
        keep_BV &= jnp.arange(sorted_BV.shape[1]) < sampling.top_k
    if sampling.top_p < 1:
        kept = jnp.where(keep_BV, sorted_BV, -jnp.inf)
        p_BV = jax.nn.softmax(kept, axis=-1)
        # The smallest set of tokens that reaches top_p, counting the one that crosses it.
        keep_BV &= jnp.cumsum(p_BV, axis=-1) - p_BV < sampling.top_p
    floor_B1 = jnp.min(jnp.where(keep_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV >= floor_B1, logits_BV, -jnp.inf)
