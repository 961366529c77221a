"""Draw the icon and the banner: noise that settles on a smooth path which few calls describe.

    python docs/brand/draw.py             writes icon.svg and banner.svg beside this file

Standard library only, and the same bytes every time. The .png files beside them are these pictures
in a browser, at 400 x 400 and 1680 x 720: the registry shows those.
"""

import math
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
NIGHT, DEEP = "#232a5c", "#0b0e22"
WHITE, PALE = "#ffffff", "#b9c2e8"
WAY = ((255, 140, 84), (176, 108, 255), (84, 226, 232))
"""The path's colours: warm is noise, cool is data."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom of the path."""
CALLS = (0.0, 0.3, 0.62, 1.0)
"""Where the path is marked, as shares of its way from noise to data."""


def mix(u: float) -> str:
    """The colour at share u of the way, 0 to 1."""
    half = 0 if u < 0.5 else 1
    ends, share = WAY[half : half + 2], 2 * u - half
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*ends, strict=True))


def path_point(box: Box, u: float) -> tuple[float, float]:
    """The path at share u: from the box's lower left to its upper right, level at both ends."""
    left, top, right, bottom = box
    return left + (right - left) * u, bottom + (top - bottom) * (u * u * (3 - 2 * u))


def path_data(box: Box) -> str:
    """The same path for SVG; a cubic that is level at both ends is one Bezier curve."""
    left, top, right, bottom = box
    third = (right - left) / 3
    return (
        f"M{left:g} {bottom:g}C{left + third:g} {bottom:g} {right - third:g} {top:g} "
        f"{right:g} {top:g}"
    )


def noise(box: Box, count: int, spread: float, size: float) -> str:
    """Dots about the path, most of them near its start, where a sample is still noise."""
    draw, dots = random.Random(5), []
    for _ in range(count):
        u = draw.random() ** 1.9
        x, y = path_point(box, u)
        far = spread * (1 - u) ** 1.6
        angle, distance = draw.uniform(0, 2 * math.pi), far * math.sqrt(draw.random())
        x, y = x + distance * math.cos(angle), y + distance * math.sin(angle)
        r = size * draw.uniform(0.55, 1.25)
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{mix(u)}" '
            f'opacity="{0.4 + 0.5 * draw.random():.2f}"/>'
        )
    return "\n".join(dots)


def trajectory(box: Box, width: float) -> str:
    """The path, its calls, and the picture that it arrives at."""
    parts = [
        f'<path d="{path_data(box)}" fill="none" stroke="url(#way)" stroke-width="{width:g}" '
        'stroke-linecap="round"/>'
    ]
    for u in CALLS[:-1]:
        x, y = path_point(box, u)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width * 0.32:g}" fill="{WHITE}"/>')
    x, y = path_point(box, 1)
    for r, opacity in ((2.1, 0.18), (1.6, 0.32), (1.1, 1.0)):
        fill = WHITE if opacity == 1 else mix(1)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width * r:g}" fill="{fill}" '
            f'opacity="{opacity:g}"/>'
        )
    return "\n".join(parts)


def opening(width: int, height: int) -> str:
    """The first tag of a picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">'
    )


def colours(box: Box) -> str:
    """The gradients of the night and of the path."""
    left, _, right, _ = box
    return (
        f'<defs><linearGradient id="night" x1="0" y1="0" x2="1" y2="1"><stop stop-color="{NIGHT}"/>'
        f'<stop offset="1" stop-color="{DEEP}"/></linearGradient>'
        f'<linearGradient id="way" gradientUnits="userSpaceOnUse" x1="{left:g}" x2="{right:g}" '
        f'y1="0" y2="0"><stop stop-color="{mix(0)}"/><stop offset="0.5" stop-color="{mix(0.5)}"/>'
        f'<stop offset="1" stop-color="{mix(1)}"/>'
        "</linearGradient></defs>"
    )


def icon() -> str:
    """400 x 400; readable at 32."""
    box = (88.0, 110.0, 306.0, 298.0)
    return "\n".join(
        [
            opening(400, 400),
            "<title>Stable Velocity</title>",
            colours(box),
            '<rect width="400" height="400" rx="84" fill="url(#night)"/>',
            noise(box, 80, 86, 7.5),
            trajectory(box, 36),
            "</svg>\n",
        ]
    )


def banner() -> str:
    """1680 x 720, 21:9: the words at the left, the path at the right."""
    box = (960.0, 200.0, 1500.0, 530.0)
    font = "font-family=\"Inter, 'Liberation Sans', Arial, Helvetica, sans-serif\""
    return "\n".join(
        [
            opening(1680, 720),
            "<title>Stable Velocity: few calls on a smooth path</title>",
            colours(box),
            '<rect width="1680" height="720" fill="url(#night)"/>',
            noise(box, 240, 170, 6.0),
            trajectory(box, 34),
            f'<text x="120" y="352" {font} font-size="96" font-weight="700" fill="{WHITE}" '
            'letter-spacing="-2">Stable Velocity</text>',
            f'<text x="124" y="424" {font} font-size="42" fill="{PALE}">'
            "Few calls on a smooth path</text>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (HERE / "icon.svg").write_text(icon(), "utf-8", newline="\n")
    (HERE / "banner.svg").write_text(banner(), "utf-8", newline="\n")
