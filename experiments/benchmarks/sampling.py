"""What it costs to find the tokens that top-k and top-p keep: by a threshold, and by sorting.

  python -m experiments.benchmarks.sampling
  python -m experiments.benchmarks.sampling --batch=1,8 --vocabulary=262208 --top_p=0.9 --top_k=64

Both read the same random logits on the first device, one after the other in each repetition, each
as a program of its own. The table has the medians, from the shortest to the longest time of the
threshold, how many times as long sorting takes, and in how many rows the kept tokens differ (they
may where a sum is rounded just at top-p).
"""

import json

import jax
from absl import flags

from experiments import app
from experiments.benchmarks.sorted_sampling import compare
from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.system.sampling import Sampling

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


if __name__ == "__main__":
    app.run(main)
