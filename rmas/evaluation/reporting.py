"""Writing a report: Markdown, JSON and plots, each file at once or not at all."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas import __version__
from rmas.errors import InputError
from rmas.evaluation import plots
from rmas.evaluation.records import File
from rmas.evaluation.statistics import FLIPS, SAMPLES
from rmas.evaluation.tables import markdown_report
from rmas.files import atomic_write_json, atomic_write_text

SCHEMA = 1

_PLOTS = {
    "accuracy_rounds": plots.plot_rounds,
    "accuracy_tokens": plots.plot_tokens,
    "time_phases": plots.plot_phases,
}

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def write_report(
    rows: Rows, files: Sequence[tuple[File, File | None]], out: Path, draw: bool = True
) -> list[Path]:
    """Writes `report.md`, `report.json` and, with `draw`, plots; returns their paths.

    `rows` are those of `comparison.compare`; with several benchmarks a plot's name starts with
    its benchmark. Raises InputError where the folder cannot be written, or matplotlib is missing.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawn = _draw(rows, out) if draw else {}
        atomic_write_text(out / "report.md", markdown_report(rows, files, drawn))
        atomic_write_json(
            out / "report.json",
            {
                "schema": SCHEMA,
                "rmas": __version__,
                "bootstrap": {"samples": SAMPLES, "flips": FLIPS, "seed": 0, "interval": 0.95},
                "files": [
                    {"kind": kind, **dataclasses.asdict(file)}
                    for pair in files
                    for kind, file in zip(("records", "timings"), pair, strict=True)
                    if file
                ],
                "benchmarks": rows,
                "plots": drawn,
            },
        )
    except OSError as error:
        raise InputError(f"report in {out} cannot be written: {error.strerror}") from None
    made = [name for names in drawn.values() for name in names]
    return [out / name for name in ("report.md", "report.json", *made)]


def _draw(rows: Rows, out: Path) -> dict[str, list[str]]:
    """File names of the plots that there is something for, by benchmark."""
    drawn: dict[str, list[str]] = {}
    for number, (benchmark, own) in enumerate(rows.items(), 1):
        start = ""
        if len(rows) > 1:  # names that differ in a sign alone must not share a file
            plain = re.sub(r"[^A-Za-z0-9]+", "_", benchmark)[:40]
            start = f"{plain}_" if plain == benchmark else f"{plain}_{number}_"
        for name, plot in _PLOTS.items():
            if name == "time_phases" and not any(row["phases"] for row in own):
                continue
            drawn.setdefault(benchmark, []).append(f"{start}{name}.png")
            plot(own, out / f"{start}{name}.png", benchmark)
    return drawn
