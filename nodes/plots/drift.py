"""The picture of a calibration: how much the velocity turns along a grid, and the calls."""

from itertools import pairwise

from torch import Tensor

from ..calibration_file import Calibration
from . import colours
from .canvas import Canvas

WIDTH, HEIGHT = 1200, 640
LEFT, RIGHT, TOP, BOTTOM = 92, 1150, 150, 480


def plot_drift(found: Calibration, calls: int) -> Tensor:
    """|dv/dsigma| / |v| against sigma, noise on the left, above a row of the calls: (h, w, 3)."""
    sigmas, called = found.sigmas, found.nodes[calls]
    steps, peak = len(sigmas) - 1, max(*found.drift, 1e-6)
    span = sigmas[0] - sigmas[-1]

    def across(sigma: float) -> float:
        return LEFT + (sigmas[0] - sigma) / span * (RIGHT - LEFT)

    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text(LEFT, 30, f"{calls} of {steps} calls", 32, colours.TEXT)
    line = f"{found.model}, {found.runs} recorded runs"
    canvas.text(LEFT, 74, line, 19, colours.QUIET_TEXT)
    if found.split is not None:
        x = across(found.split)
        canvas.line([(x, TOP), (x, BOTTOM)], colours.SPLIT, 2)
        offset, anchor = (8, "la") if x < RIGHT - 220 else (-8, "ra")
        canvas.text(x + offset, TOP, f"plateau ends at {found.split:g}", 18, colours.SPLIT, anchor)
    middle = [(a + b) / 2 for a, b in pairwise(sigmas[:-1])]
    points = [
        (across(s), BOTTOM - c / peak * (BOTTOM - TOP))
        for s, c in zip(middle, found.drift, strict=True)
    ]
    canvas.line(points, colours.USED_LINE, 3)
    canvas.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], colours.QUIET_TEXT, 1.5)
    canvas.text(LEFT, TOP - 10, "how much the velocity turns", 18, colours.TEXT, "ld")
    for tick in range(6):
        sigma = sigmas[0] - span * tick / 5
        canvas.line([(across(sigma), BOTTOM), (across(sigma), BOTTOM + 6)], colours.QUIET_TEXT, 1.5)
        canvas.text(across(sigma), BOTTOM + 12, f"{sigma:.2f}", 18, colours.QUIET_TEXT, "ma")
    canvas.text((LEFT + RIGHT) / 2, BOTTOM + 40, "sigma", 18, colours.TEXT, "ma")
    y = BOTTOM + 92
    for k, sigma in enumerate(sigmas[:-1]):
        canvas.dot(across(sigma), y, 7, colours.USED if k in called else None, colours.NATIVE)
    canvas.dot(LEFT + 8, y + 40, 7, colours.USED, colours.NATIVE)
    canvas.text(LEFT + 26, y + 30, "model called", 18, colours.TEXT)
    canvas.dot(LEFT + 188, y + 40, 7, None, colours.NATIVE)
    canvas.text(LEFT + 206, y + 30, "forecast", 18, colours.TEXT)
    return canvas.tensor()
