"""A plot of gradients by round, relative to the last round: one panel per system."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rmas.errors import InputError
from rmas.evaluation import plots

# Okabe and Ito's colours, distinct for colour-blind readers; markers and lines differ as well.
_LINES = (
    ("#56B4E9", "o", "-"),
    ("#009E73", "s", "--"),
    ("#E69F00", "D", "-."),
    ("#CC79A7", "^", ":"),
    ("#0072B2", "v", "-"),
    ("#999999", "P", "--"),
    ("#DDCC77", "X", "-."),
    ("#882255", "*", ":"),
)
_TEXT = ("#D55E00", "h", "-")
_LEAST = 1e-20  # what is smaller leaves the panel, so that the rest can be read


def new_plot(panels: int) -> Any:
    """An empty figure. Raises `InputError` where matplotlib is not installed."""
    return plots.new_figure(4.2 * min(panels, 2) + 0.8, 3.3 * -(-panels // 2) + 0.9)


def draw(
    figure: Any, curves: Mapping[str, Mapping[str, np.ndarray]], path: str | os.PathLike
) -> None:
    """Draws norms by round over that of the last round, down to 1e-20, and writes a PNG.

    `curves` are by panel and way, `[seeds, R]`: the line is the geometric mean over seeds, the band
    goes from the least to the most. Raises `InputError` where there are none, or `path` cannot be
    written.
    """
    if not curves:
        raise InputError("nothing to plot: no gradient is finite and above zero")
    ways = list(dict.fromkeys(way for panel in curves.values() for way in panel))
    links = [way for way in ways if way != "text"]
    styles = dict(zip(links, _LINES * len(links), strict=False)) | {"text": _TEXT}
    rows, columns = -(-len(curves) // 2), min(len(curves), 2)
    shown = {}
    for n, (title, panel) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, n)
        axes.set_title(plots.plain(title), fontsize=10)
        axes.set_yscale("log")
        axes.axhline(1, color="#444444", lw=1, zorder=1)
        for way, norms_SR in panel.items():
            colour, marker, line = styles[way]
            rounds = np.arange(1, norms_SR.shape[1] + 1)
            mean_R = np.exp(np.mean(np.log(norms_SR), axis=0))
            style = {"color": colour, "marker": marker, "ls": line, "ms": 4, "lw": 1.6}
            (shown[way],) = axes.plot(rounds, mean_R, zorder=3, **style)
            if len(norms_SR) > 1:
                ends = norms_SR.min(axis=0), norms_SR.max(axis=0)
                axes.fill_between(rounds, *ends, color=colour, alpha=0.12, lw=0, zorder=2)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], _LEAST))
        axes.set_xticks(rounds)
        axes.set_xlabel("round of the message")
        axes.set_ylabel("norm / norm in the last round", fontsize=9)
        axes.grid(True, color="#DDDDDD", lw=0.7, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    labels = [plots.plain(way) for way in ways]
    figure.legend(
        [shown[way] for way in ways],
        labels,
        loc="outside lower center",
        ncols=min(len(ways), 6),
        frameon=False,
        fontsize=8,
    )
    plots.save(figure, path)
