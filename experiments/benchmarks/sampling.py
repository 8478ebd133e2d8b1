"""What it costs to find the tokens that top-k and top-p keep: by a threshold, and by sorting.

  python -m experiments.benchmarks.sampling
  python -m experiments.benchmarks.sampling --batch=1,8 --vocabulary=262208 --top_p=0.9 --top_k=64

Both read the same random logits on the first device, one after the other in each repetition, each
as a program of its own. The table has the medians, from the shortest to the longest time of the
threshold, how many times as long sorting takes, and in how many rows the kept tokens differ (they
may where a sum is rounded just at top-p).
"""

import functools
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import app
from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.shapes import Array
from rmas.system.sampling import Sampling, keep_likeliest

_BATCH = flags.DEFINE_list("batch", ["8", "32"], "Numbers of rows.")
_VOCABULARY = flags.DEFINE_integer("vocabulary", 151_936, "Tokens (default: those of Qwen3).", 1)
_TOP_P = flags.DEFINE_float("top_p", 0.95, "Probability mass of the likeliest tokens.", 1e-9, 1.0)
_TOP_K = flags.DEFINE_integer("top_k", 20, "Number of the likeliest tokens.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", 1)


def main(_: list[str]) -> None:
    """Measures how tokens are left out before a draw."""
    parallel.start()
    try:
        batches = [int(n) for n in _BATCH.value]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise InputError(f"--batch={','.join(_BATCH.value)}; wanted numbers, as in 8,32")
    p, k = _TOP_P.value, _TOP_K.value
    ways = [Sampling(1.0, top_p=p), Sampling(1.0, top_k=k), Sampling(1.0, top_p=p, top_k=k)]
    rows = [compare(way, n, _VOCABULARY.value, _REPEATS.value) for n in batches for way in ways]
    cells = [["rows", "top_p", "top_k", "threshold", "from - to", "sorting", "ratio", "differ"]]
    for row in rows:
        cells.append(
            [
                f"{row['batch']}",
                f"{row['top_p']:g}",
                f"{row['top_k'] or '-'}",
                f"{1e3 * row['threshold']:.2f} ms",
                f"{1e3 * row['least']:.2f} - {1e3 * row['most']:.2f}",
                f"{1e3 * row['sorting']:.2f} ms",
                f"{row['ratio']:.2f}",
                f"{row['differ']}",
            ]
        )
    print(aligned(cells))
    facts = {"benchmark": "sampling", "device": jax.devices()[0].device_kind}
    print(json.dumps(facts | {"vocabulary": _VOCABULARY.value, "rows": rows}))


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


if __name__ == "__main__":
    app.run(main)
