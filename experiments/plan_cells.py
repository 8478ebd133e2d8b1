"""The cells of the table of released systems on slices: their file, and the table."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rmas.console import aligned
from rmas.errors import InputError
from rmas.files import append_lines, open_file, parse_json
from rmas.places import has_file

_GIB = 1 << 30
_START = b'{"cell"'
_COLUMNS = {
    "inner": ("inner step",),
    "outer": ("outer step",),
    "evaluate": ("latent step", "token", "all latent turns"),
}


def read(path: Path) -> tuple[dict[str, dict[str, Any]], bytes]:
    """The cells of the file, and half a line at its end, as after a kill; see `append`.

    Raises:
      InputError: a line is not a cell, or the end is not the start of one.
    """
    if not has_file(path):
        return {}, b""
    with open_file(path) as file:
        *whole, half = file.read().split(b"\n")
    found = {}
    for number, line in enumerate(whole, 1):
        try:
            value = parse_json(line)
            found[key(value["cell"])] = {name: value[name] for name in ("plan", "seconds")}
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}:{number} is not a cell of this command; delete the line, or "
                "name another --out"
            ) from None
    if half and not half.startswith(_START) and not (found and _START.startswith(half)):
        raise InputError(
            f"{path} ends in what is not half a cell of this command; delete that, or "
            "name another --out"
        )
    return found, half


def append(file: TextIO, cell: dict[str, Any], result: dict[str, Any], half: bytes = b"") -> None:
    """Adds a cell to the file, in the place of `half` a line where the file still ends in it.

    The file must be open for reading, too. Raises InputError where the disk is full.
    """
    start = os.fstat(file.fileno()).st_size - len(half)
    if half and start >= 0 and os.pread(file.fileno(), len(half), start) == half:
        os.ftruncate(file.fileno(), start)
    append_lines(file, [json.dumps({"cell": cell, **result})])


def key(cell: dict[str, Any]) -> str:
    """A cell's name among all."""
    return json.dumps(cell, sort_keys=True)


def table(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]], markdown: bool = False) -> str:
    """A table of each stage, with a line for every cell."""
    tables = []
    for stage in dict.fromkeys(cell["stage"] for cell, _ in cells):
        rows = [["slice", "style", "batch", "mesh", "GiB of a device", *_COLUMNS[stage]]]
        for cell, result in cells:
            if cell["stage"] == stage:
                start = [cell["slice"], cell["style"], str(cell["batch"])]
                rows.append([*start, *_results(stage, result["plan"])])
        what = "evaluation" if stage == "evaluate" else f"{stage} training"
        lines = _markdown(rows) if markdown else aligned(rows)
        tables.append(f"{what}, estimates (floors):\n\n{lines}")
    return "\n\n".join(tables)


def _results(stage: str, plan: dict[str, Any]) -> list[str]:
    """Mesh, memory and times; of the latent steps and tokens those of the slowest agent."""
    if not plan["fits"]:
        problem = plan["problem"].partition(": ")[2] or plan["problem"]
        return ["-", problem.partition("; use")[0], *["-" for _ in _COLUMNS[stage]]]
    found = []
    for name in _COLUMNS[stage]:
        own = [t for t in plan["times"] if t["what"].startswith(name)]
        slowest = max(own, key=lambda t: t["estimate"], default=None)
        found.append(_seconds(slowest) if slowest else "-")
    memory = f"{plan['peak'] / _GIB:.1f} of {plan['available'] / _GIB:.1f}"
    return [plan["mesh"].replace("fsdp=1,", ""), memory, *found]


def _seconds(time: dict[str, Any]) -> str:
    return f"{1e3 * time['estimate']:.4g} ms ({1e3 * time['floor']:.4g})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))
