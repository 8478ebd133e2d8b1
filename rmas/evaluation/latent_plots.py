"""A plot of latent thoughts over rounds: one row of panels per agent."""

import os
from collections.abc import Mapping

import numpy as np

from rmas.evaluation.latents import between_rounds, principal
from rmas.evaluation.plots import new_figure, plain, save
from rmas.system.run import Thoughts

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot_latents(thoughts: Mapping[str, Thoughts], path: str | os.PathLike) -> None:
    """Writes a PNG of two panels per agent.

    Left: all its states on their first two principal components, coloured by round; the line is
    the mean over questions, from the first step (marked) to the last. Right: mean cosine of the
    states of a question and step in one round and in another.

    Raises `InputError` where matplotlib is not installed or `path` cannot be written.
    """
    figure = new_figure(9.0, 3.4 * max(len(thoughts), 1))
    grid = figure.subplots(max(len(thoughts), 1), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), (agent, own) in zip(grid, thoughts.items(), strict=True):
        hidden_RBMD = np.asarray(own.hidden_RBMD, np.float32)
        _paths(left, agent, hidden_RBMD)
        _cosines(right, agent, hidden_RBMD)
    save(figure, path)


def _paths(axes, agent: str, hidden_RBMD: np.ndarray) -> None:
    place_RBM2, share = principal(hidden_RBMD)
    for r, place_BM2 in enumerate(place_RBM2):
        colour = _COLOURS[r % len(_COLOURS)]
        axes.scatter(*place_BM2.reshape(-1, 2).T, s=5, color=colour, alpha=0.25, linewidths=0)
        mean_M2 = place_BM2.mean(axis=0)
        axes.plot(*mean_M2.T, color=colour, lw=1.4, marker=".", ms=4, label=f"round {r + 1}")
        axes.plot(*mean_M2[0], color=colour, marker="o", ms=7, mec="white")
    axes.set_title(plain(f"{agent}: thoughts by round"), fontsize=10)
    axes.set_xlabel(f"component 1 ({share[0]:.0%} of variance)", fontsize=8)
    axes.set_ylabel(f"component 2 ({share[-1]:.0%})", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)


def _cosines(axes, agent: str, hidden_RBMD: np.ndarray) -> None:
    cosine_RR = between_rounds(hidden_RBMD)
    axes.imshow(cosine_RR, vmin=-1, vmax=1, cmap="RdBu_r")
    rounds = range(len(cosine_RR))
    for i in rounds:
        for j in rounds:
            dark = abs(cosine_RR[i, j]) > 0.6
            axes.text(
                j,
                i,
                f"{cosine_RR[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    axes.set_xticks(rounds, [str(r + 1) for r in rounds], fontsize=8)
    axes.set_yticks(rounds, [str(r + 1) for r in rounds], fontsize=8)
    axes.set_xlabel("round", fontsize=8)
    axes.set_ylabel("round", fontsize=8)
    axes.set_title(plain(f"{agent}: cosine between rounds"), fontsize=10)
