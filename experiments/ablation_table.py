"""The table of `experiments.ablation`: a row per variant, over its seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.ratios import markdown as table
from rmas.evaluation.statistics import t_quantile, wilson
from rmas.experiment.ablation import Variant

Record = Mapping[str, Any]
_LEGEND = """\
Accuracy on fresh questions by true rollouts of r rounds, a mean over seeds with Student's 95 %
interval (Wilson's, over questions, with one seed). Steps are those of inner and of outer training,
seconds those of the steps of outer training."""


def markdown(records: Sequence[Record], sweeps: Mapping[str, Sequence[Variant]]) -> str:
    """A section per sweep that has records, in the order of `sweeps`."""
    parts = []
    for sweep, variants in sweeps.items():
        own = [r for r in records if r["sweep"] == sweep]
        rounds = sorted({row["rounds"] for r in own for row in r["rows"]})
        lines = [
            _line([r for r in own if r["variant"] == variant.name], rounds) for variant in variants
        ]
        if own:
            head = ["variant", *(f"r={r}" for r in rounds), "seeds", "steps", "seconds", "settings"]
            cells = [_ceiling(own, rounds), *(line for line in lines if line)]
            parts.append(f"### {sweep}\n\n{table(head, cells)}")
    return "\n\n".join([_LEGEND, *parts]) + "\n"


def words_of(stages: Sequence[Mapping[str, Any]]) -> str:
    """What the stages of a variant change, in words."""
    told = [", ".join(f"{k}={v}" for k, v in changes.items()) or "the config" for changes in stages]
    return "; then ".join(told)


def interval(values: Sequence[float], n: int) -> tuple[float, float, float]:
    """A mean over seeds with its 95 % interval: Student's, or with one seed Wilson's.

    `n` is the number of a seed's questions.
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, *wilson(mean * n, n)
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def _line(records: Sequence[Record], rounds: Sequence[int]) -> list[str]:
    if not records:
        return []
    ok = [r for r in records if r["status"] == "ok"]
    cells = [_accuracy(ok, n) for n in rounds]
    steps = f"{records[0]['inner_steps']} + {records[0]['steps']}"
    seconds = [r["seconds"] for r in ok]
    mean = f"{np.mean(seconds):.0f}" if seconds else ""
    lost = len(records) - len(ok)
    notes = [f"diverged: {lost} of {len(records)}"] if lost else []
    notes.append(words_of(records[0]["changes"]))
    return [records[0]["variant"], *cells, str(len(records)), steps, mean, "; ".join(notes)]


def _accuracy(records: Sequence[Record], rounds: int) -> str:
    rows = [row for r in records for row in r["rows"] if row["rounds"] == rounds]
    if not rows:
        return ""
    mean, low, high = interval([row["accuracy"] for row in rows], rows[0]["n"])
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _ceiling(records: Sequence[Record], rounds: Sequence[int]) -> list[str]:
    by_seed = {r["seed"]: r for r in records if r["rows"]}
    cells = []
    for n in rounds:
        rows = [row for r in by_seed.values() for row in r["rows"] if row["rounds"] == n]
        known = [row["ceiling"] for row in rows if row["ceiling"] is not None]
        cells.append(f"{np.mean(known):.3f}" if known else "")
    return ["*ceiling*", *cells, "", "", "", ""]
