"""Plots of a report's rows: accuracy over rounds, accuracy over decoded tokens, time by phase.

matplotlib is an extra (`pip install -e .[plots]`). It is imported when a plot is drawn, without
pyplot, which would set up a window system and global state.
"""

import importlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.results import ResultRow
from rmas.files import atomic_write_bytes

Rows = Sequence[ResultRow]

# Okabe and Ito's colours, distinct for colour-blind readers; markers differ as well.
_STYLES = {
    "latent": ("#0072B2", "o"),
    "text": ("#D55E00", "s"),
    "text_terse": ("#E69F00", "D"),
    "untrained": ("#777777", "v"),
}
_OTHERS = (("#009E73", "^"), ("#CC79A7", "P"), ("#56B4E9", "X"), ("#000000", "*"))
_LENGTH = " m="  # as in `results.names_of`
_SEVERAL = ("o", "h", "p", "d", "<", ">", "8", "H")  # markers of a method's latent lengths
_REST = "other"
_PHASES = {
    "render": "#999999",
    "read": "#56B4E9",
    "think": "#0072B2",
    "write": "#D55E00",
    _REST: "#DDCC77",
}
_NAMES = {
    "latent": "latent messages",
    "latent_memory": "latent memory",
    "text": "text messages",
    "text_terse": "terse text messages",
    "untrained": "untrained links",
}


def plot_rounds(rows: Rows, path: str | os.PathLike, title: str = "") -> None:
    """Writes a PNG of accuracy over rounds, with 95 % intervals, and the ceiling as dashed lines.

    Raises InputError where matplotlib is not installed, there are no rows, or `path` cannot be
    written.
    """
    figure, axes = _figure(rows, title)
    groups = _by_name(rows)
    rounds = sorted({row["rounds"] for row in rows})
    ceilings = {row["rounds"]: row["ceiling"] for row in rows if row["ceiling"] is not None}
    if ceilings:
        axes.hlines(
            list(ceilings.values()),
            [x - 0.36 for x in ceilings],
            [x + 0.36 for x in ceilings],
            colors="#444444",
            linestyles="--",
            lw=1.2,
            label="ceiling",
            zorder=1,
        )
    # Side by side, since methods with equal accuracies would hide each other.
    spread = 0.5 / max(4, len(groups) - 1)
    for place, (method, points) in enumerate(groups.items()):
        colour, marker = _style(method, groups)
        shift = (place - (len(groups) - 1) / 2) * spread
        axes.errorbar(
            [row["rounds"] + shift for row in points],
            [row["accuracy"] for row in points],
            yerr=_bars(points),
            color=colour,
            marker=marker,
            ms=6,
            ls="none",
            elinewidth=1.4,
            capsize=3,
            label=_label(method),
            zorder=3,
        )
        xs = [row["rounds"] + shift for row in points]
        axes.plot(xs, [row["accuracy"] for row in points], color=colour, lw=1, alpha=0.45, zorder=2)
    axes.set_xticks(rounds)
    axes.set_xlim(rounds[0] - 0.4, rounds[-1] + 0.4)
    axes.set_xlabel("rounds")
    _finish(figure, axes, path)


def plot_tokens(rows: Rows, path: str | os.PathLike, title: str = "") -> None:
    """Writes a PNG of accuracy over decoded tokens per question; a method's rounds are connected.

    Raises InputError as `plot_rounds` does.
    """
    figure, axes = _figure(rows, title)
    groups = _by_name(rows)
    for method, points in groups.items():
        colour, marker = _style(method, groups)
        xs = [row["decoded_tokens"] for row in points]
        ys = [row["accuracy"] for row in points]
        axes.errorbar(
            xs,
            ys,
            yerr=_bars(points),
            color=colour,
            marker=marker,
            ms=7,
            lw=1.6,
            elinewidth=1,
            label=_label(method),
            zorder=3,
        )
        if len(points) == 1 or method.startswith("untrained"):  # one point, or points in one place
            continue
        for row, x, y in zip(points, xs, ys, strict=True):
            axes.annotate(
                f"r={row['rounds']}",
                (x, y),
                xytext=(7, -11),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
    axes.set_xlim(0, 1.1 * max(1.0, *(row["decoded_tokens"] for row in rows)))
    axes.set_xlabel("decoded tokens per question (all agents)")
    _finish(figure, axes, path)


def plot_phases(rows: Rows, path: str | os.PathLike, title: str = "") -> None:
    """Writes a PNG of the seconds of a question by phase: a stacked bar for each row with phases.

    The rest of `seconds` is the phase `other`. Raises InputError as `plot_rounds` does.
    """
    timed = [row for row in rows if row["phases"]]
    figure, axes = _figure(timed, title, 1.6 + 0.3 * max(len(timed), 4))
    parts = [dict(row["phases"]) for row in timed]
    for row, own in zip(timed, parts, strict=True):
        own[_REST] = own.get(_REST, 0.0) + max(
            0.0, (row["seconds"] or 0.0) - sum(row["phases"].values())
        )
    places, left = range(len(timed)), [0.0] * len(timed)
    found = dict.fromkeys(phase for own in parts for phase in own)
    unknown = [phase for phase in found if phase not in _PHASES]
    for phase in [*_PHASES, *unknown]:
        seconds = [own.get(phase, 0.0) for own in parts]
        if not any(seconds):
            continue
        colour = _PHASES.get(phase)
        if colour is None:
            colour = _OTHERS[unknown.index(phase) % len(_OTHERS)][0]
        axes.barh(places, seconds, 0.7, left, color=colour, label=plain(phase), zorder=3)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    names = [f"{_label(row['name'])}, r={row['rounds']}" for row in timed]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per question, by phase")
    axes.grid(True, axis="x", color="#DDDDDD", lw=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    save(figure, path)


def can_draw() -> bool:
    """Whether matplotlib can be imported."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        return False
    return True


def new_figure(width: float, height: float) -> Any:
    """An empty figure, its size in inches. Raises InputError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib: pip install -e .[plots]") from None
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | os.PathLike) -> None:
    """Writes a figure as PNG; equal figures give equal bytes.

    Raises InputError where `path` cannot be written.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    try:
        atomic_write_bytes(path, image.getvalue())
    except OSError as error:
        raise InputError(f"plot {path} cannot be written: {error.strerror}") from None


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: `$` would start a formula."""
    return printable(text).replace("$", r"\$")


def _figure(rows: Rows, title: str, height: float = 4.4) -> tuple[Any, Any]:
    figure = new_figure(6.4, height)
    if not rows:
        raise InputError("nothing to plot: the report has no rows")
    axes = figure.add_subplot()
    if title:
        axes.set_title(plain(title), fontsize=11)
    return figure, axes


def _finish(figure: Any, axes: Any, path: str | os.PathLike) -> None:
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.03, 1.06)
    axes.grid(True, color="#DDDDDD", lw=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save(figure, path)


def _by_name(rows: Rows) -> dict[str, list[ResultRow]]:
    """Name of a method -> its rows by rounds, in the report's order."""
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    return {name: sorted(rs, key=lambda r: r["rounds"]) for name, rs in groups.items()}


def _bars(points: Rows) -> list[list[float]]:
    """Lengths of the interval bars below and above each point."""
    below = [max(0.0, row["accuracy"] - row["accuracy_low"]) for row in points]
    above = [max(0.0, row["accuracy_high"] - row["accuracy"]) for row in points]
    return [below, above]


def _style(name: str, groups: Mapping[str, Any]) -> tuple[str, str]:
    """Colour and marker. Latent lengths are shades of the method's colour, darker if longer."""
    method, _, length = name.partition(_LENGTH)
    if method not in _STYLES:
        others = [n for n in groups if n.partition(_LENGTH)[0] not in _STYLES]
        return _OTHERS[others.index(name) % len(_OTHERS)]
    colour, marker = _STYLES[method]
    if not length:
        return colour, marker
    same = [n for n in groups if n.startswith(method + _LENGTH)]
    place = len(same) - 1 - same.index(name)
    white = 0.65 * place / max(1, len(same) - 1)
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    shade = "".join(f"{round(part + white * (255 - part)):02X}" for part in parts)
    return f"#{shade}", _SEVERAL[place % len(_SEVERAL)]


def _label(name: str) -> str:
    if name.startswith("single:"):
        return plain(f"{name.removeprefix('single:')} alone")
    method, _, length = name.partition(_LENGTH)
    return _NAMES.get(method, plain(method)) + (plain(f", m={length}") if length else "")
