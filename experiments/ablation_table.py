"""The table of `experiments.ablation`: a row per variant, over its seeds.

  python -m experiments.ablation_table runs/ablation
  python -m experiments.ablation_table runs/first runs/second --out=records.jsonl
  python -m experiments.ablation_table records.jsonl --page=docs/recipes.md --region=relay

Reads the records of workdirs, or files of records, that were made with one config, joins them and
prints the table; nothing is run. `--out` writes the joined records. The table is in Markdown;
`--page` puts it between the comments `ablation REGION: begin` and `ablation REGION: end` of a page.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import app
from experiments.ablation_variants import sweeps_of
from experiments.benchmarks.page_region import PageRegion
from experiments.benchmarks.ratios import markdown as table
from rmas.errors import InputError
from rmas.evaluation.json_lines import line_of, scan
from rmas.evaluation.statistics import t_quantile, wilson
from rmas.experiment.settings import Settings
from rmas.files import atomic_write_text
from rmas.places import expanded, has_file

RECORDS = "ablation.jsonl"
Record = Mapping[str, Any]
_OUT = flags.DEFINE_string("out", "", "A file for the joined records.")
_PAGE = flags.DEFINE_string("page", "", "A page whose marked part becomes the table.")
_REGION = flags.DEFINE_string("region", "relay", "The name in the comments of that part.")
_NEEDED = ("sweep", "variant", "seed", "base", "digest", "status", "changes", "rows")
_LEGEND = """\
Accuracy on {questions} fresh questions a seed by true rollouts of r rounds, a mean over seeds with
Student's 95 % interval (Wilson's, over questions, with one seed). Steps are those of inner and of
outer training, seconds those of the steps of outer training."""


def main(argv: list[str]) -> None:
    """Joins records and prints their table."""
    if not argv[1:]:
        raise InputError("name a workdir, as in python -m experiments.ablation_table runs/ablation")
    page = PageRegion.of(_PAGE.value, f"ablation {_REGION.value}")
    records = read_records([_file(expanded(word)) for word in argv[1:]])
    text = markdown(records)
    if _OUT.value:
        atomic_write_text(expanded(_OUT.value), "".join(f"{line_of(r)}\n" for r in records))
    if page:
        page.replace(text)
    print(text, end="")


def _file(path: Path) -> Path:
    found = path / RECORDS if path.is_dir() else path
    if not has_file(found):
        raise InputError(f"{found}: no such file; name workdirs of experiments.ablation")
    return found


def read_records(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of files, sorted; of one variant and seed the last one.

    Raises `InputError` for a line that is no record, and for records of different configs.
    """
    found: dict[tuple, dict[str, Any]] = {}

    def add(record: dict[str, Any], place: str) -> None:
        missing = [name for name in _NEEDED if name not in record]
        if missing:
            raise InputError(f"{place}: field {missing[0]!r} is missing")
        found[record["sweep"], record["variant"], record["seed"]] = record

    for path in filter(has_file, paths):
        try:
            scan(path, add)
        except InputError as error:
            raise InputError(f"{error}; take the line out, and its run is done again") from None
        bases = {record["base"] for record in found.values()}
        if len(bases) > 1:
            raise InputError(f"{path}: records of different configs; make a table of each config")
    order = [(v.sweep, v.name) for sweep in sweeps_of(Settings()).values() for v in sweep]
    places = {key: number for number, key in enumerate(order)}

    def place(record: dict[str, Any]) -> tuple:
        own = record["sweep"], record["variant"]
        return (places.get(own, len(places)), own, record["seed"])

    return sorted(found.values(), key=place)


def markdown(records: Sequence[Record]) -> str:
    """A section per sweep and in it a row per variant, in the order of the records."""
    counts = sorted({row["n"] for r in records for row in r["rows"]})
    parts = [_LEGEND.format(questions=" or ".join(f"{n:,}" for n in counts) or "no")]
    for sweep in dict.fromkeys(r["sweep"] for r in records):
        own = [r for r in records if r["sweep"] == sweep]
        rounds = sorted({row["rounds"] for r in own for row in r["rows"]})
        variants = dict.fromkeys(r["variant"] for r in own)
        lines = [_line([r for r in own if r["variant"] == name], rounds) for name in variants]
        head = ["variant", *(f"r={r}" for r in rounds), "seeds", "steps", "seconds", "settings"]
        parts.append(f"Sweep `{sweep}`:\n\n{table(head, [_ceiling(own, rounds), *lines])}")
    return "\n\n".join(parts) + "\n"


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


if __name__ == "__main__":
    app.run(main, words=1000, resumes=False)
