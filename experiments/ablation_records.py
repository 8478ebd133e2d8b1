"""The records of `experiments.ablation`: read, added to, and as a table."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablation_variants import sweeps_of
from experiments.benchmarks.ratios import markdown as table
from rmas.errors import InputError
from rmas.evaluation.json_lines import (
    integer_field,
    is_finite,
    line_of,
    name_field,
    parse_line,
    scan,
    whole_lines,
)
from rmas.evaluation.statistics import t_quantile, wilson
from rmas.experiment.settings import Settings
from rmas.files import append_lines, atomic_write_text
from rmas.places import has_file

RECORDS = "ablation.jsonl"
Record = Mapping[str, Any]
_ADVICE = "take the line out; experiments.ablation then does its run again"
_LEGEND = """\
Accuracy on {questions} fresh questions a seed by true rollouts of r rounds, a mean over seeds with
Student's 95 % interval (Wilson's, over questions, with one seed). Steps are those of inner and of
outer training, seconds those of the steps of outer training."""


def read_records(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of files, sorted; of one variant and seed the last one.

    Raises `InputError` for a line that is no record, and for files of different configs.
    """
    found: dict[tuple, dict[str, Any]] = {}
    first: dict[str, Path] = {}

    def add(record: dict[str, Any], place: str) -> None:
        try:
            _check(record, place)
        except InputError as error:
            raise InputError(f"{error}; {_ADVICE}") from None
        found[record["sweep"], record["variant"], record["seed"]] = record

    for path in filter(has_file, paths):
        scan(path, add, _ADVICE)
        for record in found.values():
            first.setdefault(record["base"], path)
        if len(first) > 1:
            raise InputError(
                f"{path} and {next(iter(first.values()))} have records of different configs; "
                "make a table of each config"
            )
    order = [(v.sweep, v.name) for sweep in sweeps_of(Settings()).values() for v in sweep]
    places = {key: number for number, key in enumerate(order)}

    def place(record: dict[str, Any]) -> tuple:
        own = record["sweep"], record["variant"]
        return (places.get(own, len(places)), own, record["seed"])

    return sorted(found.values(), key=place)


def append(path: Path, record: Record) -> None:
    """Adds a line to a file; an incomplete one at its end, which a kill left, is dropped."""
    if has_file(path):
        lines, content = whole_lines(path), path.read_bytes()
        last = content.rpartition(b"\n")[2]
        if last and _is_whole(last):
            lines.append(last.decode())
        if last:
            atomic_write_text(path, "".join(f"{line}\n" for line in lines))
    with open(path, "a", encoding="utf-8") as file:
        append_lines(file, [line_of(record)])


def _is_whole(line: bytes) -> bool:
    try:
        parse_line(line)
    except ValueError:
        return False
    return True


def _check(record: Record, place: str) -> None:
    """Raises `InputError` naming a field that makes no sense."""
    for name in ("sweep", "variant", "base", "digest"):
        name_field(record, name, place)
    for name in ("seed", "steps", "inner_steps"):
        integer_field(record, name, place, 0)
    if record.get("status") not in ("ok", "diverged"):
        raise InputError(f"{place}: field 'status' must be ok or diverged")
    if record["status"] == "ok" and not is_finite(record.get("seconds")):
        raise InputError(f"{place}: field 'seconds' must be a number")
    for name in ("changes", "rows"):
        own = record.get(name)
        if not isinstance(own, list) or not all(isinstance(value, dict) for value in own):
            raise InputError(f"{place}: field {name!r} must be a list of objects")
    for row in record["rows"]:
        integer_field(row, "rounds", place, 1)
        integer_field(row, "n", place, 1)
        for name in ("accuracy", "ceiling"):
            value = row.get(name)
            if not (
                (is_finite(value) and 0 <= value <= 1) or (name == "ceiling" and value is None)
            ):
                raise InputError(f"{place}: field {name!r} must be a number from 0 to 1")


def markdown(records: Sequence[Record]) -> str:
    """A section per sweep and in it a row per variant, in the order of the records.

    Raises `InputError` where seeds of a variant have other settings.
    """
    counts = sorted({row["n"] for r in records for row in r["rows"]})
    parts = [_LEGEND.format(questions=" or ".join(f"{n:,}" for n in counts))] if counts else []
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
    facts = [{k: r[k] for k in ("changes", "steps", "inner_steps")} for r in records]
    if len({json.dumps(own, sort_keys=True) for own in facts}) > 1:
        name = f"{records[0]['sweep']}/{records[0]['variant']}"
        raise InputError(f"{name}: its seeds were run with different settings: {facts}")
    ok = [r for r in records if r["status"] == "ok"]
    cells = [_accuracy(ok, n) for n in rounds]
    steps = f"{records[0]['inner_steps']} + {records[0]['steps']}"
    seconds = [r["seconds"] for r in ok]
    mean = f"{np.mean(seconds):.0f}" if seconds else ""
    lost = len(records) - len(ok)
    notes = [f"diverged: {lost} of {len(records)}"] if lost else []
    notes.append(words_of(records[0]["changes"]))
    seeds = ", ".join(str(seed) for seed in sorted(r["seed"] for r in records))
    return [records[0]["variant"], *cells, seeds, steps, mean, "; ".join(notes)]


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
