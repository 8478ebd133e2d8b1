"""Records and timings of evaluation folders, read back and checked."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.evaluation.report import printable
from rmas.evaluation.runner import RECORDS, TIMINGS

Variant = tuple[str, int, int | None]
"""Method, rounds, latent length."""

_NEEDED = ("id", "benchmark", "method", "rounds", "rollout", "agents", "scores")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a workdir's `evaluate` folder holds.

    Attributes:
      records: by (benchmark, variant, question id, rollout).
      timings: the newest of every batch, by (variant, rollout, start).
      files: path, sha256 and lines of what was read.
    """

    records: dict[tuple[str, Variant, str, int], dict[str, Any]]
    timings: dict[tuple[Variant, int, int], dict[str, Any]]
    files: tuple[dict[str, Any], ...]


def read_evaluation(workdir: Path) -> Evaluation:
    """Reads `WORKDIR/evaluate`; what a kill left half at the end of a file does not count.

    Raises InputError naming the file and the line for what is no record, and for two records of
    the same question that differ.
    """
    folder = workdir / "evaluate"
    path = folder / RECORDS
    if not path.is_file():
        raise InputError(f"{path} is missing; run experiments.evaluate with this --workdir first")
    lines, files = _lines(path)
    records: dict[tuple[str, Variant, str, int], dict[str, Any]] = {}
    for number, record in lines:
        where = f"{path}, line {number}"
        for name in _NEEDED:
            if name not in record:
                raise InputError(f"{where}: the record has no field {name!r}")
        key = (record["benchmark"], variant(record), record["id"], record["rollout"])
        if records.setdefault(key, record) != record:
            raise InputError(
                f"{where}: another record of {printable(str(record['id']))} than before; keep one"
            )
    if not records:
        raise InputError(f"{path} holds no records yet; let experiments.evaluate go on")
    timings = {}
    if (folder / TIMINGS).is_file():
        timed, more = _lines(folder / TIMINGS)
        files += more
        for _, line in timed:
            timings[variant(line), line.get("rollout", 0), line["start"]] = line
    return Evaluation(records, timings, tuple(files))


def variant(line: dict[str, Any]) -> Variant:
    """The variant of a record or timing; lines of schema 1 have no latent length."""
    return line["method"], line["rounds"], line.get("latent_length")


def _lines(path: Path) -> tuple[Sequence[tuple[int, dict[str, Any]]], list[dict[str, Any]]]:
    content = path.read_bytes()
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number}: no JSON object")
        found.append((number, value))
    sha256 = hashlib.sha256(content).hexdigest()
    return found, [{"path": str(path), "sha256": sha256, "lines": len(found)}]
