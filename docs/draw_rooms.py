"""The picture in docs/architecture.md, from the real imports: python docs/draw_rooms.py

A room is a folder of code; an arrow says that something in it imports something of the other one.
Left out are arrows to sv_core and to training's own tools, which nearly all rooms have, and arrows
that a longer way of arrows implies.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/rooms.svg"
TOOLS = "training: tools"
BASES = ("sv_core", "sv_core/models", TOOLS)
WIDTH, HEIGHT, FLOOR, MARGIN = 152, 36, 84, 24
NODES, TRAINING = 520, 700
"""How wide the two houses are."""
INK, PAPER, WALLS, CIRCLE = "#1f2937", "#ffffff", "#94a3b8", "#c2410c"
COLOURS = {"nodes": "#dbeafe", "training": "#dcfce7", "sv_core": "#fef3c7"}

Graph = dict[str, set[str]]


def rooms() -> dict[str, list[Path]]:
    """Every folder of code, and its files."""
    found: dict[str, list[Path]] = {}
    for package in ("nodes", "sv_core", "training"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return found


def _room(path: Path) -> str:
    """The room of a file; training's own folder has the commands, and the tools that all use."""
    folder = path.parent.relative_to(ROOT).as_posix()
    command = "def main(" in path.read_text("utf-8")
    return TOOLS if folder == "training" and not command else folder


def _imported(path: Path) -> Iterator[Path]:
    """The files of this repository that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1] if node.level else ROOT
            base = above.joinpath(*(node.module or "").split("."))
            for place in [base, *(base / alias.name for alias in node.names)]:
                if place.with_suffix(".py").is_file():
                    yield place.with_suffix(".py")


def imports() -> Graph:
    """Which rooms a room imports from."""
    graph: Graph = {}
    for files in rooms().values():
        for path in files:
            others = {_room(other) for other in _imported(path)} - {_room(path)}
            graph.setdefault(_room(path), set()).update(others)
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    """All rooms that arrows lead to from one."""
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        room = ahead.pop()
        if room not in seen:
            seen.add(room)
            ahead += graph[room]
    return seen


def arrows(graph: Graph) -> list[tuple[str, str, bool]]:
    """(from, to, whether both ways), without those that a longer way implies."""
    far = {room: reachable(graph, room) for room in graph}
    found = []
    for room, others in sorted(graph.items()):
        for other in sorted(others):
            both, circle = room in graph[other], room in far[other]
            between = [o for o in others - {other} if room not in far[o] and o not in far[other]]
            implied = any(other in far[o] for o in between)
            if room < other if both else circle or not implied:
                found.append((room, other, both))
    return found


def floors(graph: Graph) -> list[list[str]]:
    """Rooms by the longest way below them; those that lead to each other share a floor."""
    far = {room: reachable(graph, room) for room in graph}
    height = dict.fromkeys(graph, 0)
    for _ in graph:
        for room in graph:
            below = [height[o] + 1 for o in far[room] if room not in far[o]]
            equal = [height[o] for o in far[room] if room in far[o]]
            height[room] = max([height[room], *below, *equal])
    return [
        _around_the_hub([room for room in sorted(graph) if height[room] == floor], graph)
        for floor in reversed(range(max(height.values()) + 1))
    ]


def _around_the_hub(level: list[str], graph: Graph) -> list[str]:
    """With the room in the middle that most others of its floor lead to and from."""
    hub = max(level, key=lambda room: sum(room in graph[o] and o in graph[room] for o in level))
    rest = [room for room in level if room != hub]
    return [*rest[: len(level) // 2], hub, *rest[len(level) // 2 :]]


def _box(name: str, x: float, y: float, width: float) -> str:
    colour, middle = COLOURS[name.split("/")[0].split(":")[0]], x + width / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{HEIGHT}" rx="7" fill="{colour}" '
        f'stroke="{WALLS}"/>'
        f'<text x="{middle:g}" y="{y + HEIGHT / 2 + 5:g}" text-anchor="middle">{name}</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], both: bool) -> str:
    (x0, y0), (x1, y1) = start, end
    circle = y0 == y1  # only rooms that lead to each other share a floor and an arrow
    if both:  # from side to side
        inward = WIDTH / 2 if x1 > x0 else -WIDTH / 2
        y = y0 + HEIGHT / 2
        way = f"M {x0 + inward:g} {y:g} L {x1 - inward:g} {y:g}"
    elif circle:
        y0 += HEIGHT
        way = f"M {x0:g} {y0:g} C {x0:g} {y0 + 40} {x1:g} {y0 + 40} {x1:g} {y0:g}"
    else:
        y0 += HEIGHT
        bend = (y1 - y0) / 2
        way = f"M {x0:g} {y0:g} C {x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}"
    kind = f'stroke="{CIRCLE if circle else WALLS}"'
    if both:
        kind += ' marker-start="url(#head)"'
    return f'<path d="{way}" fill="none" stroke-width="1.5" {kind} marker-end="url(#head)"/>'


def _house(graph: Graph, left: float, width: float) -> tuple[dict[str, tuple[float, float]], float]:
    """The middle of each room's ceiling, floor by floor; how high the house is."""
    places, levels = {}, floors(graph)
    for number, level in enumerate(levels):
        step = width / len(level)
        for i, room in enumerate(level):
            places[room] = (left + step * (i + 0.5), MARGIN + number * FLOOR)
    return places, MARGIN + len(levels) * FLOOR


def draw() -> str:
    """The picture as SVG."""
    graph = {a: {b for b in others if b not in BASES} for a, others in imports().items()}
    parts, bottom = [], 0.0
    width = MARGIN
    for package, wide in (("nodes", NODES), ("training", TRAINING)):
        inside = {r: o for r, o in graph.items() if r.startswith(package) and r not in BASES}
        places, height = _house(inside, width, wide)
        parts += [_arrow(places[a], places[b], both) for a, b, both in arrows(inside)]
        parts += [_box(r, x - WIDTH / 2, y, WIDTH) for r, (x, y) in places.items()]
        width += wide
        bottom = max(bottom, height)
    parts.append(_box(TOOLS, MARGIN + NODES, bottom, TRAINING))
    bottom += HEIGHT + 14
    half = (width - MARGIN) / 2
    parts.append(_box("sv_core", MARGIN, bottom, half - 7))
    parts.append(_box("sv_core/models", MARGIN + half + 7, bottom, half - 7))
    size = f"{width + MARGIN:g} {bottom + HEIGHT + MARGIN:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" '
        f'font-size="13" fill="{INK}">'
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        f'markerHeight="8" orient="auto-start-reverse"><path d="M 0 0 L 8 4 L 0 8 z" '
        f'fill="context-stroke"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
