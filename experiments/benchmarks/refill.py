"""What continuous batching saves: rows are filled again, or each batch waits for its slowest row.

  python -m experiments.benchmarks.refill
  python -m experiments.benchmarks.refill --size=tiny --batch=8 --texts=64
  python -m experiments.benchmarks.refill --size=full --dtype=bfloat16 --limit=1024 --json=a.json

One agent with random weights writes texts whose lengths are drawn as those of answers are: half
are below a quarter of the limit, a tenth reach it. Both ways write the same texts and prefill the
same prompts, in turn in each repetition. Both are run once beforehand, to compile.
"""

import dataclasses
import statistics

import jax
import jax.numpy as jnp
from absl import flags

from experiments import app
from experiments.benchmarks import random_system
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.ratios import alternate, named, ratio, ratio_cells
from experiments.benchmarks.static_batches import Run, Texts, drawn_lengths, run
from rmas import models, parallel
from rmas.console import aligned
from rmas.files import atomic_write_json

_MODEL = flags.DEFINE_string("model", "Qwen/Qwen3-1.7B", "Architecture (experiments.inspect).")
_SIZE = flags.DEFINE_enum("size", "small", ["full", "small", "tiny"], "Of the architecture.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of weights and caches.")
_BATCH = flags.DEFINE_integer("batch", 32, "Rows.", 1)
_TEXTS = flags.DEFINE_integer("texts", 512, "Texts in all.", 1)
_PROMPT = flags.DEFINE_integer("prompt", 64, "Tokens of a prompt.", 1)
_LIMIT = flags.DEFINE_integer("limit", 256, "Tokens of the longest text.", 4)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of lengths.", 0)
_JSON = flags.DEFINE_string("json", "", "A file for the same numbers.")


def main(_: list[str]) -> None:
    """Measures continuous batching."""
    parallel.start()
    file = output_file("json", _JSON.value)
    model = random_system.model_spec(_MODEL.value, _SIZE.value)
    dtype = jnp.dtype(_DTYPE.value)
    params = models.init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    lengths = drawn_lengths(_TEXTS.value, _LIMIT.value, _SEED.value)
    texts = Texts(lengths, _PROMPT.value, _BATCH.value)
    refills = {"static": False, "refilled": True}
    for way in refills.values():
        run(model, params, texts, refills=way)
    runs = alternate(
        {name: lambda _, way=way: run(model, params, texts, way) for name, way in refills.items()},
        _REPEATS.value,
    )
    found: dict[str, tuple[Run, ...]] = {name: own.results for name, own in runs.items()}
    tokens = int(lengths.sum())
    saved = named(ratio(*([one.seconds for one in own] for own in found.values())))
    cells = [["batches", "tokens/s", "from - to", "chunks", "rows that write"]]
    for name, own in found.items():
        speeds = sorted(tokens / one.seconds for one in own)
        cells.append(
            [
                name,
                f"{statistics.median(speeds):.0f}",
                f"{speeds[0]:.0f} - {speeds[-1]:.0f}",
                f"{own[0].chunks}",
                f"{own[0].busy:.0%}",
            ]
        )
    print(aligned(cells))
    value, ends = ratio_cells(saved)
    interval = f", 95 % interval {ends}" if ends else ""
    print(f"seconds, static / refilled: {value}{interval} ({_REPEATS.value} repetitions)")
    facts = {
        "benchmark": "refill",
        "device": jax.devices()[0].device_kind,
        "model": _MODEL.value,
        "size": _SIZE.value,
        "dtype": _DTYPE.value,
        "batch": texts.batch,
        "texts": len(lengths),
        "prompt": texts.prompt,
        "limit": _LIMIT.value,
        "seed": _SEED.value,
        "tokens": tokens,
        "ratio": saved,
    }
    if file:
        each = {name: [dataclasses.asdict(one) for one in own] for name, own in found.items()}
        atomic_write_json(file, facts | each)


if __name__ == "__main__":
    app.run(main)
