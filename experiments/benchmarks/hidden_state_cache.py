"""What an epoch of inner training takes with cached hidden states, and without.

  python -m experiments.benchmarks.hidden_state_cache
  python -m experiments.benchmarks.hidden_state_cache --config=my.py --steps=100

For each agent of the config: seconds of an epoch (every row once) that runs the agent at every
step, those of one that reads cached states, and those of caching them, which is paid once. Half of
each run warms up; the rest is measured.
"""

import json
import tempfile
import time
from pathlib import Path

from absl import flags

from experiments import app
from experiments import config as configs
from rmas import parallel
from rmas.console import aligned, printable
from rmas.experiment import Experiment
from rmas.training.hidden_state_cache import cache_hidden_states
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.optim import Optim

_STEPS = flags.DEFINE_integer("steps", 100, "Steps that are timed; an epoch is scaled to.", 10)


def main(_: list[str]) -> None:
    """Measures training with and without cached hidden states."""
    parallel.start()
    settings = configs.settings_of(flags.FLAGS.config)
    with tempfile.TemporaryDirectory() as folder:
        run = Experiment(settings, folder)
        rows = [measure(run, agent, Path(folder)) for agent in run.system.topology.agents]
    names = ("agent", "epoch", "epoch with cache", "caching", "speed-up")
    cells = [list(names)]
    for row in rows:
        seconds = [f"{row[name]:.1f} s" for name in ("without", "cached", "caching")]
        cells.append([printable(row["agent"]), *seconds, f"{row['speed_up']:.1f}x"])
    print(aligned(cells))
    print(json.dumps({"benchmark": "hidden_state_cache", "rows": rows}))


def measure(run: Experiment, agent: str, folder: Path) -> dict[str, float | str]:
    """Seconds of one agent."""
    s, source, own = run.settings, run.data.split("train"), run.system.agents[agent]
    examples = run.examples("inner", agent)
    steps = _STEPS.value

    def schedule(n: int) -> Schedule:
        return Schedule(Optim(steps=n, lr=1e-3), s.inner.batch_size, save_every=n + 1)

    def cached(n: int, name: str):
        return cache_hidden_states(
            agent,
            folder=folder / name,
            model=own.model,
            params=own.params,
            examples=examples,
            source=source,
            schedule=schedule(n),
            seed=s.seed,
            dtype="float32",
            key={"steps": n},
        )

    def seconds(name: str, states) -> float:
        """Of the last steps: the first ones compile, and read what is read for the first time."""
        at = folder / f"{agent}-{name}"
        train_inner(
            agent,
            folder=at,
            context=run.context,
            params=own.params,
            links=run.initial_links(),
            examples=examples,
            source=source,
            schedule=schedule(2 * steps),
            seed=s.seed,
            cached=states,
        )
        lines = (at / "timings.jsonl").read_text().splitlines()[steps:]
        return sum(json.loads(line)["seconds"] for line in lines)

    cached(10, "warm")
    began = time.perf_counter()
    states = cached(2 * steps, "states")
    caching = time.perf_counter() - began
    epoch = len(source) / (steps * s.inner.batch_size)
    without, read = seconds("without", None) * epoch, seconds("cached", states) * epoch
    return {
        "agent": agent,
        "without": without,
        "cached": read,
        "caching": caching * epoch / 2,
        "speed_up": without / read,
    }


if __name__ == "__main__":
    app.run(main, config="experiments/configs/tiny_sequential.py", resumes=False)
