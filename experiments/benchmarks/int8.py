"""What int8 weights save and what they change, for one or several model folders.

  python -m experiments.benchmarks.int8                     # the packaged tiny agents
  python -m experiments.benchmarks.int8 --models=DIR,DIR

For each model: bytes of its weights as they are and with int8 matrices; and on sequences that it
wrote itself (sampled after a random first token, so that no data is needed) the mean absolute
change of its logits relative to their spread, the largest change, the mean KL divergence of its
next-token distributions, and how often the likeliest token is the same.
"""

import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import rmas
from experiments import app
from rmas import models, parallel
from rmas.console import aligned, printable
from rmas.models import Model
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.batching import Prefilled, RunningBatch
from rmas.system.sampling import Sampling
from rmas.weights.quantize import quantize

_MODELS = flags.DEFINE_list("models", [], "Folders or Hub ids (default: the packaged agents).")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type beside int8.")
_TOKENS = flags.DEFINE_integer("tokens", 64, "Positions of each sequence.", 2)
_ROWS = flags.DEFINE_integer("rows", 8, "Sequences.", 1)


def main(_: list[str]) -> None:
    """Measures what 8-bit weights save and change."""
    parallel.start()
    tiny = resources.files("rmas") / "tiny"
    names = _MODELS.value or [str(tiny / agent) for agent in ("planner", "critic", "solver")]
    rows = [compare(name) for name in names]
    cells = [["model", "full", "int8", "saved", "logit change", "largest", "KL", "same token"]]
    for row in rows:
        cells.append(
            [
                printable(row["model"].rstrip("/").rsplit("/", 1)[-1]),
                f"{row['full'] / 1e6:.2f} MB",
                f"{row['int8'] / 1e6:.2f} MB",
                f"{1 - row['int8'] / row['full']:.1%}",
                f"{row['change']:.2%}",
                f"{row['largest']:.3f}",
                f"{row['kl']:.5f}",
                f"{row['same']:.2%}",
            ]
        )
    print(aligned(cells))
    print(json.dumps({"benchmark": "int8", "dtype": _DTYPE.value, "rows": rows}))


def compare(name: str) -> dict[str, float | str]:
    """One model against itself in int8."""
    model, params = rmas.load_model(name, dtype=_DTYPE.value)
    small = quantize(params)
    ids_BT = written(model, params, _ROWS.value, _TOKENS.value)
    valid_BT = np.ones(ids_BT.shape, bool)

    def logits(tree: Params) -> jax.Array:
        return model.unembed(tree, model.run(tree, model.embed(tree, ids_BT), valid_BT))

    full, quantized = logits(params), logits(small)
    log_p, log_q = jax.nn.log_softmax(full), jax.nn.log_softmax(quantized)
    change = jnp.abs(quantized - full)
    return {
        "model": name,
        "full": sum(x.nbytes for x in jax.tree.leaves(params)),
        "int8": sum(x.nbytes for x in jax.tree.leaves(small)),
        "change": float(jnp.mean(change) / jnp.std(full)),
        "largest": float(jnp.max(change)),
        "kl": float(jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))),
        "same": float(jnp.mean(full.argmax(-1) == quantized.argmax(-1))),
    }


def written(model: Model, params: Params, rows: int, tokens: int) -> np.ndarray:
    """What the model says after a random token, `[rows, tokens]`; it is never stopped."""

    @jax.jit
    def start(params: Params, first_B1: np.ndarray) -> decode.DecodeState:
        x_B1D = models.embed(model.spec, params, first_B1)
        return decode.start(model.spec, params, x_B1D, np.ones((rows, 1), bool))

    first_B1 = np.random.default_rng(0).integers(0, model.spec.vocab_size, (rows, 1), np.int32)
    batch = Prefilled(
        start(params, first_B1),
        key_B=decode.row_keys(0, [str(row) for row in range(rows)]),
        limit_B=np.full(rows, tokens - 1, np.int32),
        texts=rows,
    )
    drawn = Sampling(temperature=1.0)
    rest = RunningBatch(model.spec, params, drawn, [batch], eos=()).run()
    return np.concatenate([first_B1, np.array(rest, np.int32)], axis=1)


if __name__ == "__main__":
    app.run(main)
