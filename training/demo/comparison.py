"""The demo's picture: the same pictures sampled several ways, where they differ, and the grids."""

from pathlib import Path
from typing import Any, NamedTuple

from einops import rearrange
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor
from torch.nn import functional as F

from ..files import write_atomically

_INK, _PAPER, _ACCENT = "#20252b", "#ffffff", ("#3b4a5a", "#d1495b", "#2f7f86", "#b07d1a")
GAIN = 5
"""How much differences are amplified: without it most would be invisible."""


class Panel(NamedTuple):
    """One way of sampling: its title, a line below, when it calls, and pictures (n, 1, h, w)."""

    title: str
    caption: str
    called: list[float]
    images: Tensor


def _sheet(images: Tensor, columns: int, frame: float) -> Tensor:
    return rearrange(
        F.pad(images, (1, 1, 1, 1), value=frame), "(r k) 1 h w -> (r h) (k w)", k=columns
    )


def write_comparison(
    path: Path, heading: str, panels: list[Panel], split: float, columns: int
) -> None:
    """Pictures above; below, the time grids and the differences from the first panel."""
    count = len(panels)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(4.2 * count, 9.2), facecolor=_PAPER, layout=layout)
    axes = figure.subplots(2, count)
    figure.suptitle(heading, color=_INK, fontsize=15, fontweight="bold")
    for i, panel in enumerate(panels):
        top, bottom = axes[0, i], axes[1, i]
        top.set_title(panel.title, color=_ACCENT[i % len(_ACCENT)], fontsize=14, fontweight="bold")
        top.imshow(
            _sheet(panel.images, columns, 0.0), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
        )
        _bare(top, panel.caption)
        if i == 0:
            _draw_grids(bottom, panels, split)
        else:
            difference = (panel.images - panels[0].images) * GAIN
            bottom.set_title(f"difference from 30 steps, {GAIN} times", color=_INK, fontsize=11)
            bottom.imshow(
                _sheet(difference, columns, 0.0),
                cmap="RdBu_r",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
            )
            _bare(bottom, "red: brighter, blue: darker")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _bare(axis: Any, caption: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_xlabel(caption, color=_INK, fontsize=10, labelpad=7)


def _draw_grids(axis: Any, panels: list[Panel], split: float) -> None:
    """Each network call as a dot at its time; the split as a line."""
    axis.set_title("when the network is called", color=_INK, fontsize=11)
    axis.axvspan(split, 1.03, color="#f0e3d2", zorder=0)
    axis.text(split, 0.04, "split ", ha="right", color=_INK, fontsize=9)
    for i, panel in enumerate(panels):
        row, color = len(panels) - i, _ACCENT[i % len(_ACCENT)]
        calls = panel.called
        axis.hlines(row, 0, 1, color="#dde2e7", linewidth=1, zorder=1)
        axis.scatter(calls, [row] * len(calls), s=26, color=color, zorder=2)
        axis.text(0, row + 0.17, panel.title, color=color, fontsize=10, fontweight="bold")
    axis.set_xlim(1.03, -0.03)
    axis.set_ylim(0, len(panels) + 0.6)
    for label in axis.texts:
        label.set_horizontalalignment("right")
    axis.set_yticks([])
    axis.set_xticks([1, 0.75, 0.5, 0.25, 0])
    axis.set_box_aspect(1)
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.set_xlabel("t: noise (1) on the left, data (0) on the right", color=_INK, fontsize=11)
