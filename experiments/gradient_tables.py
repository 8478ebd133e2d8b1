"""Cells of `experiments.gradients` as ratios, tables and curves.

A ratio is the norm of a gradient in round 1 over that in the last round: below 1 gradients vanish
towards the first round, above 1 they grow. Of the links, or edges, that are used in the last round
it is the geometric mean; so it is over seeds, with the least and the most of them.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.ratios import markdown

Cell = Mapping[str, Any]
PARTS = ("inner", "outer", "message")


def relative(cell: Cell, part: str) -> np.ndarray | None:
    """Norms by round over that of the last round `[R]`, the geometric mean over `part`'s names.

    None where there are none, or one of them is zero or not finite.
    """
    norms = [v for name, v in cell["norms"].items() if name.startswith(f"{part}/")]
    last = max(map(len, norms), default=0)
    norms_NR = np.array([own for own in norms if len(own) == last])
    if not last or not np.all(np.isfinite(norms_NR)) or not np.all(norms_NR > 0):
        return None
    return np.exp(np.mean(np.log(norms_NR) - np.log(norms_NR[:, -1:]), axis=0))


def ratios(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row for each system, agents, way and number of rounds."""
    rows = []
    for group, own in _groups(cells, "rounds"):
        row = dict(zip(("system", "agents", "way", "rounds"), group, strict=True))
        row |= {"seeds": len(own), "whole": _spread([cell["whole"] for cell in own])}
        for part in PARTS:
            found = [relative(cell, part) for cell in own]
            row[part] = _spread([None if curve is None else curve[0] for curve in found])
        confidence = [cell["confidence"] for cell in own]
        row["confidence"] = None if None in confidence else float(np.mean(confidence))
        rows.append(row)
    return rows


def tables(cells: Sequence[Cell]) -> str:
    """A Markdown table for each system and kind of agents."""
    rows = ratios(cells)
    head = ["way", "rounds", "seeds", "inner links", "outer links", "messages", "whole gradient"]
    blocks = []
    for (system, agents), own in itertools.groupby(rows, lambda r: (r["system"], r["agents"])):
        lines, sure = [], []
        for row in own:
            parts = [_cell(row[part]) for part in (*PARTS, "whole")]
            lines.append([row["way"], str(row["rounds"]), str(row["seeds"]), *parts])
            if row["confidence"] is not None:
                sure.append(f"{row['confidence']:.4f} ({row['rounds']} rounds)")
        text = f"{system}, {agents} agents: norm in round 1 over that in the last round"
        blocks += [text, markdown(head, lines)]
        if sure:
            likeliest = "mean probability of the likeliest token on text's path"
            blocks.append(f"{likeliest}: {', '.join(sure)}")
    return "\n\n".join(blocks)


def curves(cells: Sequence[Cell]) -> dict[str, dict[str, np.ndarray]]:
    """Per system and agents, by way: messages' relative norms at the most rounds `[seeds, R]`."""
    most = max(cell["rounds"] for cell in cells)
    found: dict[str, dict[str, np.ndarray]] = {}
    deepest = [cell for cell in cells if cell["rounds"] == most]
    for (system, agents, way), own in _groups(deepest):
        lines = [curve for cell in own if (curve := relative(cell, "message")) is not None]
        if lines:
            found.setdefault(f"{system}, {agents} agents", {})[way] = np.array(lines)
    return found


def _groups(cells: Sequence[Cell], *more: str) -> list[tuple[tuple, list[Cell]]]:
    """Cells by system, agents, way and what `more` names, in the order of the cells."""
    names = ("system", "agents", "way", *more)
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in names), []).append(cell)
    panels = list(dict.fromkeys(group[:2] for group in groups))
    return sorted(groups.items(), key=lambda item: panels.index(item[0][:2]))


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """The geometric mean, the least and the most; None where that of one is not known."""
    known = np.array([v for v in values if v is not None and np.isfinite(v) and v > 0])
    if not len(known) or len(known) < len(values):
        return None
    mean = float(np.exp(np.mean(np.log(known))))
    return {"mean": mean, "least": float(known.min()), "most": float(known.max())}


def _cell(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "-"
    if spread["least"] == spread["most"]:
        return f"{spread['mean']:.2g}"
    return f"{spread['mean']:.2g} ({spread['least']:.2g} - {spread['most']:.2g})"
