"""bins.png: what StableVM did and what is left to learn, by time."""

import json
from pathlib import Path
from typing import Any

from .checkpoint import METRICS, write_atomically
from .validate import BINS, TIMES

CHART = "bins.png"


def pooled(records: list[dict[str, Any]], name: str) -> list[float | None]:
    """The mean of a per-bin figure over all reports, each bin weighed by its samples."""
    means: list[float | None] = []
    for i in range(BINS):
        pairs = [(r["stable"]["count"][i], r["stable"][name][i]) for r in records if "stable" in r]
        total = sum(n for n, _ in pairs)
        means.append(sum(n * x for n, x in pairs if n) / total if total else None)
    return means


def write_bins(out: Path) -> None:
    """Draw the run's reports: effective size, changed share, validation loss, each by t."""
    lines = (out / METRICS).read_text(encoding="utf-8").splitlines()
    # Most lines of a long run hold neither, and need not be parsed.
    records = [json.loads(x) for x in lines if '"stable"' in x or '"val_loss_bins"' in x]
    panels = []
    if any("stable" in r for r in records):
        panels.append(("effective number of references", [("", pooled(records, "effective_size"))]))
        panels.append(("share of targets that changed", [("", pooled(records, "changed"))]))
    losses = [r for r in records if "val_loss_bins" in r]
    if losses:
        shown = {r["step"]: r for r in (losses[0], losses[len(losses) // 2], losses[-1])}
        curves = [(f"step {step}", r["val_loss_bins"]) for step, r in shown.items()]
        panels.append(("validation loss", curves))
    if not panels:
        return
    from matplotlib.figure import Figure  # which takes longer to import than most of this to run

    width = 4.4 * len(panels)
    figure = Figure(figsize=(width, 3.6))
    # Margins by hand: to have them computed takes longer than to draw.
    figure.subplots_adjust(0.6 / width, 0.14, 1 - 0.2 / width, 0.9, wspace=0.22)
    times = TIMES.tolist()
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels, strict=True):
        axis.set_title(title, fontsize=11)
        for label, values in curves:
            known = [(t, v) for t, v in zip(times, values, strict=True) if v is not None]
            axis.plot(*zip(*known, strict=True), marker="o", markersize=4, label=label)
        if title.startswith("effective"):
            axis.set_yscale("log")
        elif title.startswith("share"):
            axis.set_ylim(-0.03, 1.03)
        axis.set_xlim(0, 1)
        axis.set_xlabel("t: data (0) to noise (1)")
        axis.grid(alpha=0.3)
        if any(label for label, _ in curves):
            axis.legend(fontsize=8)
    write_atomically(out / CHART, lambda file: figure.savefig(file, format="png", dpi=100))
