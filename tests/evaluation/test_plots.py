import builtins
import io

import numpy as np
import pytest

from rmas.errors import InputError
from rmas.evaluation import plots

Image = pytest.importorskip("PIL.Image")  # comes with matplotlib
pytest.importorskip("matplotlib")


def row(method, rounds, accuracy, tokens, ceiling=1.0):
    return {
        "name": method,
        "rounds": rounds,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.02,
        "accuracy_high": min(1.0, accuracy + 0.02),
        "ceiling": ceiling,
        "decoded_tokens": tokens,
        "seconds": None,
        "phases": {},
        "n": 600,
    }


ROWS = [
    *[row("latent", r, 0.3 * r, 25.0) for r in (1, 2, 3)],
    *[row("text", r, 0.3 * r, 75.0 * r) for r in (1, 2, 3)],
    row("single:planner", 1, 0.06, 25.0),
    row("new $method\x1b", 1, 0.07, 12.0),
]
BOTH = pytest.mark.parametrize("plot", [plots.plot_rounds, plots.plot_tokens])


def colours(path) -> set:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return {tuple(int(c) for c in p) for p in np.unique(pixels.reshape(-1, 3), axis=0)}


def rgb(colour: str) -> tuple:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@BOTH
def test_every_method_is_drawn_and_bytes_are_reproducible(tmp_path, plot):
    plot(ROWS, tmp_path / "a.png", title="relay, $600 questions")
    found = colours(tmp_path / "a.png")
    for method in ("latent", "text"):
        assert rgb(plots._STYLES[method][0]) in found
    for colour, _ in plots._OTHERS[:2]:
        assert rgb(colour) in found
    plot(ROWS, tmp_path / "b.png", title="relay, $600 questions")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@BOTH
def test_latent_lengths_have_shades_and_markers(tmp_path, plot):
    lengths = [row(f"latent m={m}", r, 0.1 * m, 25.0 + m) for m in (2, 4, 8) for r in (1, 2)]
    plot(lengths, tmp_path / "a.png")
    groups = plots._by_name(lengths)
    styles = [plots._style(name, groups) for name in groups]
    assert styles[-1][0] == plots._STYLES["latent"][0]  # the longest
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 3
    assert {rgb(colour) for colour, _ in styles} <= colours(tmp_path / "a.png")
    assert plots._label("latent m=4") == "latent messages, m=4"


def test_phases_are_stacked_and_what_is_left_is_other(tmp_path):
    rows = [
        {**ROWS[0], "seconds": 2.0, "phases": {"think": 1.0, "write": 0.5, "new": 0.25}},
        {**ROWS[3], "seconds": 1.0, "phases": {"write": 1.0}},
        {**ROWS[4], "seconds": 1.0, "phases": {}},  # without phases: no bar
    ]
    plots.plot_phases(rows, tmp_path / "a.png", title="gsm8k")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))

    def width(colour):
        """The longest line of the colour, in points."""
        return int((pixels == rgb(colour)).all(-1).sum(1).max())

    second = width(plots._PHASES["write"])  # of the second bar
    assert width(plots._PHASES["think"]) == pytest.approx(second, abs=3)
    quarter = width(plots._PHASES["other"]), width(plots._OTHERS[0][0])
    assert quarter == pytest.approx((second / 4, second / 4), abs=3)
    plots.plot_phases(rows, tmp_path / "b.png", title="gsm8k")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(InputError, match="no rows"):
        plots.plot_phases(rows[2:], tmp_path / "a.png")


def test_ceiling_is_drawn_where_it_is_known(tmp_path):
    plots.plot_rounds(ROWS, tmp_path / "with.png")
    plots.plot_rounds([{**r, "ceiling": None} for r in ROWS], tmp_path / "without.png")
    with_, without = (
        int((np.asarray(Image.open(tmp_path / name).convert("RGB")) == 0x44).all(-1).sum())
        for name in ("with.png", "without.png")
    )
    assert with_ > without + 300  # letters have edges of the same grey


@BOTH
def test_one_row_is_enough_and_none_is_an_error(tmp_path, plot):
    plot(ROWS[:1], tmp_path / "a.png")
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).size[0] > 600
    with pytest.raises(InputError, match="no rows"):
        plot([], tmp_path / "a.png")


@BOTH
def test_place_that_cannot_be_written(tmp_path, plot):
    with pytest.raises(InputError, match=r"plot .*a\.png cannot be written"):
        plot(ROWS, tmp_path / "missing" / "a.png")


@BOTH
def test_without_matplotlib_the_message_says_what_to_install(tmp_path, plot, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install -e \.\[plots\]"):
        plot(ROWS, tmp_path / "a.png")
