"""The plot of `benchmarks.message_length`."""

from pathlib import Path
from typing import Any

from rmas.evaluation import plots

# Okabe and Ito's colours, as in the plots of reports; line styles differ as well.
_LINES = (
    ("#009E73", "-"),
    ("#D55E00", "--"),
    ("#CC79A7", "-."),
    ("#56B4E9", ":"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
)
_MEASURED = "#0072B2"


def new_plot() -> Any:
    """An empty figure. Raises `InputError` where matplotlib is not installed."""
    return plots.new_figure(6.4, 5.0)


def draw(figure: Any, facts: dict[str, Any], path: Path) -> None:
    """Draws time ratios over the lengths of messages, and writes a PNG.

    `facts` are those of the command. Raises `InputError` where `path` cannot be written.
    """
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.axhline(1, color="#444444", lw=1.2, zorder=1)
    steps = facts["sizes"]["steps"]
    axes.axvline(steps, color="#999999", lw=1, ls=":", zorder=1)
    axes.annotate(
        f"as many as latent steps ({steps})",
        (steps, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8,
        color="#666666",
    )
    lengths: set[int] = set()
    for (name, own), (colour, line) in zip(facts["floors"].items(), _LINES * 9, strict=False):
        points = {int(n): ratio for n, ratio in own["ratios"].items()}
        lengths |= points.keys()
        label = plots.plain(f"{name}, floor on {facts['chip']}")
        axes.plot(points.keys(), points.values(), color=colour, ls=line, lw=1.4, label=label)
    if measured := facts["measured"]:
        name, here = facts["system"], measured["floor"]["ratios"]
        lengths |= set(map(int, here))
        label = plots.plain(f"{name}, floor on this machine")
        xs = list(map(int, here))
        axes.plot(xs, here.values(), color="#000000", ls="--", lw=1, alpha=0.6, label=label)
        estimates = measured["ratios"].values()
        values = [own["value"] for own in estimates]
        ends = None
        if all(own["low"] is not None for own in estimates):
            below = [own["value"] - own["low"] for own in estimates]
            ends = [below, [own["high"] - own["value"] for own in estimates]]
        axes.errorbar(
            list(map(int, measured["ratios"])),
            values,
            yerr=ends,
            color=_MEASURED,
            marker="o",
            ms=6,
            lw=2,
            elinewidth=1.4,
            capsize=3,
            label=plots.plain(f"{name}, measured"),
            zorder=4,
        )
    ticks = sorted(lengths)
    axes.set_xticks(ticks, list(map(str, ticks)), fontsize=8)
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens of a message in text exchange")
    axes.set_ylabel("time of text / time of latents")
    axes.grid(True, color="#DDDDDD", lw=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    plots.save(figure, path)
