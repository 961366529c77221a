"""How many steps a prompt samples in, and the same prompt with another number of them."""

from dataclasses import dataclass

from .graph import (
    Info,
    Place,
    Prompt,
    find_holder,
    input_types,
    linked_of_type,
    links_of,
    read,
)

PARTS = {"KSamplerAdvanced": ("start_at_step", "end_at_step"), "SplitSigmas": ("step",)}
"""Inputs that count steps of a grid rather than how many it has."""


@dataclass(frozen=True)
class Grid:
    """Where one sampler's number of steps is written down, and where parts of it are counted."""

    steps: Place
    own: int
    parts: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Unchangeable:
    """Why another number of steps cannot be set."""

    reason: str


def find_grids(prompt: Prompt, info: Info, samplers: list[str]) -> list[Grid] | Unchangeable:
    """One for every sampler; or why one of them has no number of steps to set."""
    found = []
    for sampler in samplers:
        way = (
            [sampler]
            if "steps" in prompt[sampler]["inputs"]
            else _to_scheduler(prompt, info, sampler)
        )
        counted = [n for n in way if "steps" in input_types(info, prompt[n]["class_type"])]
        if not counted:
            kinds = ", ".join(f"{n} ({prompt[n]['class_type']})" for n in way[1:]) or sampler
            return Unchangeable(f"the noise levels come from node {kinds}, without steps to change")
        grid = _grid(prompt, info, counted[0], way)
        if grid is None:
            return Unchangeable(f"the steps of node {counted[0]} are computed when it runs")
        found.append(grid)
    return found


def _to_scheduler(prompt: Prompt, info: Info, sampler: str) -> list[str]:
    """The nodes from a sampler along its SIGMAS, up to where they are made."""
    way, link = [sampler], links_of(prompt, sampler).get("sigmas")
    while link is not None and link[0] not in way:
        way.append(link[0])
        before = linked_of_type(prompt, info, link[0], "SIGMAS") or _switched(prompt, link[0])
        link = next(iter(before.values()), None)
    return way


def _switched(prompt: Prompt, node: str) -> dict[str, list]:
    """The branch that a switch passes on."""
    if prompt[node]["class_type"] != "ComfySwitchNode":
        return {}
    name = "on_true" if read(prompt, Place(node, "switch")) else "on_false"
    links = links_of(prompt, node)
    return {name: links[name]} if name in links else {}


def _grid(prompt: Prompt, info: Info, node: str, way: list[str]) -> Grid | None:
    holder = find_holder(prompt, Place(node, "steps"))
    if holder is None:
        return None
    own = prompt[holder.node]["inputs"].get(holder.name)
    if not isinstance(own, int):
        return None
    parts = [
        find_holder(prompt, Place(n, name))
        for n in way
        for name in PARTS.get(prompt[n]["class_type"], ())
        if name in prompt[n]["inputs"]
    ]
    # A part that is computed is computed from the steps.
    return Grid(holder, own, tuple(p for p in parts if p is not None and p != holder))


def longest(grids: list[Grid]) -> int:
    return max(grid.own for grid in grids)


def scaled(prompt: Prompt, grids: list[Grid], ratio: float) -> dict[Place, int]:
    """Values for ``ratio`` times as many steps; ends beyond the last step stay there."""
    values: dict[Place, int] = {}
    for grid in grids:
        steps = values[grid.steps] = max(1, round(grid.own * ratio))
        for part in grid.parts:
            own = prompt[part.node]["inputs"][part.name]
            if isinstance(own, int) and own < grid.own:
                values[part] = round(own * steps / grid.own)
    return values
