"""Nearness against calls as an inline SVG, one line for each family of methods."""

import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 320, 52, 40, 14, 150
COLOURS = 6
"""Of the page's variables --c0 and on."""

Points = list[tuple[float, float]]
Place = Callable[[tuple[float, float]], tuple[float, float]]
"""Where on the picture (calls, dB) is."""


def families(report: dict) -> dict[str, Points]:
    """(calls, dB to the original) of each family, in the order of calls."""
    kinds = {m["key"]: m["node"] or _family(m) for m in report["methods"]}
    skipped = {m["key"] for m in report["methods"] if m["kind"] in ("original", "converged")}
    found: dict[str, Points] = {}
    for s in report["summary"]:
        near = s.get("to_original", {}).get("psnr")
        if s["method"] not in skipped and near is not None:
            found.setdefault(kinds[s["method"]], []).append((s["calls"], near))
    return {name: sorted(points) for name, points in found.items()}


def _family(method: dict) -> str:
    """Its name without the share."""
    return method["name"] if method["kind"] == "paper" else method["name"].rsplit(" ", 1)[0]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    rough = max(high - low, 1e-9) / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, last + 1)]


def draw(report: dict) -> str:
    """The SVG; a sentence where there is nothing to draw."""
    lines = families(report)
    points = [p for line in lines.values() for p in line]
    if not points:
        return "<p>No run with fewer calls is finished.</p>"
    across = ticks(min(p[0] for p in points), max(p[0] for p in points))
    up = ticks(min(p[1] for p in points), max(p[1] for p in points))

    def place(p: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (p[0] - across[0]) / (across[-1] - across[0] or 1) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (p[1] - up[0]) / (up[-1] - up[0] or 1) * (HEIGHT - BOTTOM - TOP)
        return round(x, 1), round(y, 1)

    parts = [_axes(across, up, place)]
    parts += [
        _line(name, i, [place(p) for p in line]) for i, (name, line) in enumerate(lines.items())
    ]
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
    label = 'role="img" aria-label="dB to the original against calls"'
    return f"<svg {size} {label}>{''.join(parts)}</svg>"


def _axes(across: Sequence[float], up: Sequence[float], place: Place) -> str:
    parts = []
    for value in up:
        x, y = place((across[0], value))
        parts.append(f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="var(--line)"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in across:
        x, y = place((value, up[0]))
        parts.append(f'<text x="{x}" y="{y + 17}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">calls</text>')
    parts.append(f'<text x="6" y="{TOP + 4}">dB</text>')
    return "".join(parts)


def _line(name: str, number: int, points: Points) -> str:
    colour = f"var(--c{number % COLOURS})"
    way = "L".join(f"{x} {y}" for x, y in points)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in points)
    y = TOP + 14 + 20 * number
    key = f'<circle cx="{WIDTH - RIGHT + 16}" cy="{y - 4}" r="4" fill="{colour}"/>'
    key += f'<text x="{WIDTH - RIGHT + 28}" y="{y}">{escape(name)}</text>'
    return f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}{key}'
