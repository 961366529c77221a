"""The picture of a spectrum: power by detail for every channel, the law fitted, what it means."""

import math

import torch
from torch import Tensor

from ...sv_core.progressive import transition_time
from ...sv_core.spectrum import PowerLaw, band_powers
from . import colours
from .canvas import Canvas

WIDTH, HEIGHT = 1200, 660
LEFT, RIGHT, TOP, BOTTOM = 96, 820, 92, 560
"""The frame of the axes, in pixels."""
LOWEST, BANDS = 0.03, 16
DECADES = (-2, 3)
"""Of the power axis."""
SIZES = {"1/4": 0.25, "1/2": 0.5, "3/4": 0.75}
"""The lowest detail that a size lacks, as a share of the finest."""


def place(q: float, power: float) -> tuple[float, float]:
    """The pixel of a power at a detail: both axes are logarithmic."""
    across = (math.log10(q) - math.log10(LOWEST)) / -math.log10(LOWEST)
    down = (DECADES[1] - math.log10(max(power, 1e-12))) / (DECADES[1] - DECADES[0])
    return LEFT + across * (RIGHT - LEFT), TOP + min(max(down, 0), 1) * (BOTTOM - TOP)


def describe_spectrum(law: PowerLaw, ratio: float | None) -> str:
    """The report to the plot, in sentences."""
    lines = [f"power {law.amplitude:.4g} q^-{law.exponent:.4g}, where noise has 1"]
    for name, q in SIZES.items():
        usual, faster = (transition_time(law.power_at(q), t) for t in (0.05, 0.1))
        lines.append(f"size {name}: until noise level {usual:.2f} usual, {faster:.2f} faster")
    if ratio is not None:
        lines.append(
            f"pictures of half the size: their latents are those of full size over {ratio:.3g} "
            "(2 would be exact)"
        )
    return "\n".join(lines)


def plot_spectrum(latents: Tensor, law: PowerLaw) -> Tensor:
    """Power against detail for latents (n, c, ..., H, W), with the law: (h, w, 3)."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text(LEFT, 26, "Power of the latents by detail", 30, colours.TEXT)
    _draw_axes(canvas)
    edges = torch.logspace(math.log10(LOWEST), 0, BANDS + 1, dtype=torch.float64)
    powers, counts = band_powers(latents, edges)
    middles = (edges[:-1] * edges[1:]).sqrt().tolist()
    used = [i for i in range(BANDS) if int(counts[i])]
    for channel in powers.tolist():
        canvas.line([place(middles[i], channel[i]) for i in used], colours.NATIVE_LINE, 1.5)
    canvas.line([place(q, law.power_at(q)) for q in (LOWEST, 1.0)], colours.USED, 3)
    for name, q in SIZES.items():
        x, y = place(q, law.power_at(q))
        canvas.dot(x, y, 6, colours.SPLIT, None)
        canvas.text(x, BOTTOM + 34, name, 18, colours.SPLIT, "ma")
    for i, line in enumerate(describe_spectrum(law, None).split("\n")):
        for j, part in enumerate(line.replace(": ", ":\n").replace(", ", ",\n").split("\n")):
            colour = colours.TEXT if j == 0 else colours.QUIET_TEXT
            canvas.text(RIGHT + 40, TOP + 10 + i * 92 + j * 26, part, 19, colour)
    return canvas.tensor()


def _draw_axes(canvas: Canvas) -> None:
    for decade in range(DECADES[0], DECADES[1] + 1):
        y = place(1.0, 10.0**decade)[1]
        canvas.line([(LEFT - 6, y), (LEFT, y)], colours.QUIET_TEXT, 1.5)
        canvas.text(LEFT - 12, y, f"{10.0**decade:g}", 18, colours.QUIET_TEXT, "rm")
    y = place(1.0, 1.0)[1]
    canvas.dashed(LEFT, RIGHT, y, colours.BOUNDARY)
    canvas.text(RIGHT - 8, y - 8, "noise", 18, colours.BOUNDARY, "rd")
    for q in (0.03, 0.1, 0.3, 1.0):
        x = place(q, 1.0)[0]
        canvas.line([(x, BOTTOM), (x, BOTTOM + 6)], colours.QUIET_TEXT, 1.5)
        canvas.text(x, BOTTOM + 10, f"{q:g}", 18, colours.QUIET_TEXT, "ma")
    canvas.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], colours.QUIET_TEXT, 1.5)
    canvas.text(
        (LEFT + RIGHT) / 2, BOTTOM + 58, "detail, as a share of the finest", 18, colours.TEXT, "ma"
    )
