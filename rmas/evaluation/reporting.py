"""Writing a report: Markdown, JSON and plots, each file at once or not at all."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.evaluation import plots
from rmas.evaluation.tables import markdown_report
from rmas.files import atomic_write_json, atomic_write_text

SCHEMA = 1


def write_report(
    rows: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, Any]], out: Path
) -> tuple[list[Path], str]:
    """Writes `report.md`, `report.json` and plots to a folder: the paths, and what is missing.

    `rows` come from `comparison.compare`, with the `workdir` of each. Raises InputError where the
    folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_json(
            out / "report.json", {"schema": SCHEMA, "rows": list(rows), "files": list(files)}
        )
        text, made, missing = markdown_report(rows, files), [], ""
        if find_spec("matplotlib") is None:
            missing = "no plots: they need matplotlib, pip install -e '.[plots]'"
        else:
            made = _plots(rows, out)
            text += "\n" + "".join(f"![{path.stem}]({path.name})\n" for path in made)
        atomic_write_text(out / "report.md", text)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from None
    return [out / "report.md", out / "report.json", *made], missing


def _plots(rows: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    made = []
    groups = dict.fromkeys((row["workdir"], row["benchmark"]) for row in rows)
    for n, (workdir, benchmark) in enumerate(groups):
        own = [
            dict(row) | {"method": row["name"]}
            for row in rows
            if (row["workdir"], row["benchmark"]) == (workdir, benchmark)
        ]
        stem = re.sub(r"[^A-Za-z0-9]+", "_", benchmark)[:40] + (
            f"_{n + 1}" if len(groups) > 1 else ""
        )
        for name, draw in (
            ("rounds", plots.plot_rounds),
            ("tokens", plots.plot_tokens),
            ("time", plots.plot_phases),
        ):
            if name == "time" and not any(row["phases"] for row in own):
                continue
            made.append(out / f"{stem}_{name}.png")
            draw(own, made[-1], benchmark)
    return made
