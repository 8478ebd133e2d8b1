"""A small training run in a process of its own, which tests kill: `kill_program.py FOLDER STEPS`.

The task compiles at once; each step's line of metrics has a sum that tells which rows it had.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rmas.parallel import start
from rmas.tasks.rows import Row
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.optim import Optim
from rmas.weights.links import save_links

ROWS = [Row(str(n), "", "") for n in range(997)]


def loss(links, frozen, batch, key):
    noise = jax.random.normal(key, batch.shape)
    w = links["outer"]["a->b"]["w"]
    off = jnp.sin(frozen * batch / 1000) @ w[: len(batch)] + noise @ w[len(batch) :] - 1
    return jnp.mean(off**2), {"rows": jnp.sum(batch * jnp.arange(1, 1 + len(batch)))}


def main(folder: Path, steps: int) -> None:
    start(folder.parent / "cache")
    begin = {"outer": {"a->b": {"w": np.linspace(-1, 1, 16 * 64, dtype=np.float32)}}}
    begin["outer"]["a->b"]["w"] = begin["outer"]["a->b"]["w"].reshape(16, 64)
    task = TrainingTask(
        label="killed",
        loss=loss,
        links=lambda: jax.tree.map(jnp.asarray, begin),
        template=begin,
        frozen=jnp.float32(0.7),
        source=ROWS,
        prepare=lambda rows, step: np.float32([int(row.id) for row in rows]),
        count_tokens=len,
        seed=5,
    )
    schedule = Schedule(Optim(steps=steps, lr=0.01), batch_size=8, save_every=7)
    links = fit(task, schedule, folder)
    save_links(folder / "links", links, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
