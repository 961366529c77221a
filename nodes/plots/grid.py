"""The picture of a time grid: which steps call the model, what is saved, where the regimes are."""

from torch import Tensor

from ...sv_core.schedules import split_index
from . import colours
from .canvas import Canvas

WIDTH, HEIGHT = 1200, 720
LEFT, RIGHT, TOP, BOTTOM = 92, 860, 116, 600
"""The frame of the axes, in pixels."""


def position(call: float, sigma: float, calls: int) -> tuple[float, float]:
    """The pixel of a node of the grid: across by the calls before it, down from sigma 1 to 0."""
    return LEFT + call / calls * (RIGHT - LEFT), TOP + (1 - sigma) * (BOTTOM - TOP)


def count_calls(ts: Tensor, split: float, boundary: float) -> dict[str, int]:
    """The model calls of a grid, one per step, by regime; with a boundary, also by expert.

    A call is counted by the sigma at which it is made. A call at the boundary itself is one of the
    low-noise expert.
    """
    high = min(split_index(ts, split), len(ts) - 1)  # a grid may end above the split
    calls = {"high-variance": high, "low-variance": len(ts) - 1 - high}
    if boundary > 0:
        first = int((ts[:-1] > boundary + 1e-6).sum())
        calls |= {"high-noise expert": first, "low-noise expert": len(ts) - 1 - first}
    return calls


def headline(native: int, used: int) -> str:
    """One line on the calls saved."""
    if used < native:
        return f"{used} model calls in place of {native}: {native - used} saved"
    if used == native:
        return f"{used} model calls, as many as before: nothing saved"
    return f"{used} model calls in place of {native}: {used - native} more"


def describe_grids(native: Tensor, used: Tensor, split: float, boundary: float) -> str:
    """The report to the plot: the calls saved, and the calls by regime and expert."""
    lines = [headline(len(native) - 1, len(used) - 1)]
    before = count_calls(native, split, boundary)
    for name, calls in count_calls(used, split, boundary).items():
        lines.append(f"{name}: {calls} of {before[name]} calls")
    return "\n".join(lines)


def plot_grids(native: Tensor, used: Tensor, split: float, boundary: float) -> Tensor:
    """Sigma against the calls so far, for both grids, with split and boundary: (h, w, 3)."""
    canvas = Canvas(WIDTH, HEIGHT)
    calls = max(len(native), len(used)) - 1
    y_split = position(0, split, calls)[1]
    canvas.box(LEFT, TOP, RIGHT, y_split, colours.HIGH_BAND)
    canvas.box(LEFT, y_split, RIGHT, BOTTOM, colours.LOW_BAND)
    canvas.text(LEFT, 30, headline(len(native) - 1, len(used) - 1), 32, colours.TEXT)
    canvas.text(LEFT, 74, "Every dot is one call of the model", 19, colours.QUIET_TEXT)
    draw_axes(canvas, calls)
    canvas.line([(LEFT, y_split), (RIGHT, y_split)], colours.SPLIT, 2.5)
    canvas.text(RIGHT - 10, y_split + 8, f"split {split:g}", 18, colours.SPLIT, "ra")
    if boundary > 0:
        y = position(0, boundary, calls)[1]
        canvas.dashed(LEFT, RIGHT, y, colours.BOUNDARY)
        canvas.text(RIGHT - 10, y - 8, f"expert boundary {boundary:g}", 18, colours.BOUNDARY, "rd")
    for ts, colour, width in ((native, colours.NATIVE_LINE, 2), (used, colours.USED_LINE, 3)):
        points = [position(i, t, calls) for i, t in enumerate(ts.tolist())]
        canvas.line(points, colour, width)
    for i, t in enumerate(native.tolist()[:-1]):
        canvas.dot(*position(i, t, calls), 8, None, colours.NATIVE)
    for i, t in enumerate(used.tolist()[:-1]):
        canvas.dot(*position(i, t, calls), 5, colours.USED, None)
    draw_saving(canvas, len(native) - 1, len(used) - 1, calls)
    draw_table(canvas, count_calls(native, split, boundary), count_calls(used, split, boundary))
    return canvas.tensor()


def draw_axes(canvas: Canvas, calls: int) -> None:
    """The axes with their ticks: sigma from 0 to 1, and at most 13 numbers of calls."""
    for tick in range(6):
        y = position(0, tick / 5, calls)[1]
        canvas.line([(LEFT - 6, y), (LEFT, y)], colours.QUIET_TEXT, 1.5)
        canvas.text(LEFT - 12, y, f"{tick / 5:.1f}", 18, colours.QUIET_TEXT, "rm")
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, calls) if calls / s <= 12)
    for tick in range(0, calls + 1, step):
        x = position(tick, 0, calls)[0]
        canvas.line([(x, BOTTOM), (x, BOTTOM + 6)], colours.QUIET_TEXT, 1.5)
        canvas.text(x, BOTTOM + 12, str(tick), 18, colours.QUIET_TEXT, "ma")
    canvas.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], colours.QUIET_TEXT, 1.5)
    canvas.text(LEFT - 12, TOP - 16, "sigma", 18, colours.TEXT, "rd")
    canvas.text((LEFT + RIGHT) / 2, BOTTOM + 72, "model calls so far", 18, colours.TEXT, "ma")


def draw_saving(canvas: Canvas, native: int, used: int, calls: int) -> None:
    """A bar below the axis from the end of the shorter grid to the end of the longer one."""
    if native == used:
        return
    colour = colours.USED if used < native else colours.SPLIT
    x0, x1 = (position(end, 0, calls)[0] for end in sorted((native, used)))
    y = BOTTOM + 50
    canvas.line([(x0, y), (x1, y)], colour, 4)
    for x in (x0, x1):
        canvas.line([(x, y - 7), (x, y + 7)], colour, 3)
    word = f"{abs(native - used)} calls {'saved' if used < native else 'more'}"
    canvas.text(x1, y + 12, word, 18, colour, "ra")


def draw_table(canvas: Canvas, native: dict[str, int], used: dict[str, int]) -> None:
    """The legend, and the calls by regime and expert, to the right of the axes."""
    x, x_used, x_native, y = RIGHT + 32, RIGHT + 238, RIGHT + 308, TOP + 4
    canvas.dot(x + 8, y + 11, 5, colours.USED, None)
    canvas.text(x + 28, y, "grid in use", 19, colours.TEXT)
    canvas.dot(x + 8, y + 45, 8, None, colours.NATIVE)
    canvas.text(x + 28, y + 34, "native grid", 19, colours.TEXT)
    y += 100
    canvas.text(x, y, "calls", 19, colours.TEXT)
    canvas.text(x_used, y, "used", 18, colours.USED, "ra")
    canvas.text(x_native, y, "native", 18, colours.QUIET_TEXT, "ra")
    for row, name in enumerate(used):
        if row % 2 == 0:  # a line above the two rows of the regimes, and above those of the experts
            y += 36 if row == 0 else 4
            canvas.line([(x, y), (x_native, y)], colours.NATIVE_LINE, 1.5)
            y += 12
        colour = (colours.SPLIT, colours.USED, colours.BOUNDARY, colours.BOUNDARY)[row]
        canvas.text(x, y, name, 19, colour)
        canvas.text(x_used, y, str(used[name]), 19, colours.TEXT, "ra")
        canvas.text(x_native, y, str(native[name]), 19, colours.QUIET_TEXT, "ra")
        y += 32
    # Either pair of rows adds up to all calls.
    canvas.line([(x, y + 6), (x_native, y + 6)], colours.NATIVE_LINE, 1.5)
    canvas.text(x, y + 18, "all", 19, colours.TEXT)
    for column, counts, colour in (
        (x_used, used, colours.TEXT),
        (x_native, native, colours.QUIET_TEXT),
    ):
        total = counts["high-variance"] + counts["low-variance"]
        canvas.text(column, y + 18, str(total), 19, colour, "ra")
